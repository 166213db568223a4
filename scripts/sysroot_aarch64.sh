#!/bin/sh
# Unpacks Debian's arm64 libraries that the engine and its tests link into build/deps/aarch64, for cross-building. The
# system's own package state stays as it is: apt runs with a state folder of its own, but with the system's sources and keys.
# Does nothing, and needs no network, when the sysroot is there. Usage: sysroot_aarch64.sh
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
sysroot="$root/build/deps/aarch64"
apt="$root/build/deps/apt-aarch64"

# libc and the C++ library come with g++-aarch64-linux-gnu. Headers alone are here too, so that CMake needs one place.
packages="libpcre2-dev libpcre2-8-0 libsimdjson-dev libsimdjson14 libgtest-dev libcli11-dev nlohmann-json3-dev libzstd-dev rapidjson-dev"

[ "$(cat "$sysroot.stamp" 2>/dev/null)" = "$packages" ] && exit 0
echo "setup: arm64 libraries"
rm -rf "$sysroot" "$apt"
mkdir -p "$sysroot" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
: >"$apt/status"

# As root apt would change to a user who may not write here.
arm64() {
    apt-get -q=2 -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= -o Dir::State="$apt" \
        -o Dir::State::status="$apt/status" -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" "$@"
}
arm64 update
# shellcheck disable=SC2086  # a list of words
(cd "$apt/debs" && arm64 download $packages)
for deb in "$apt/debs"/*.deb; do
    dpkg-deb --extract "$deb" "$sysroot"
done
rm -rf "$apt"
printf '%s\n' "$packages" >"$sysroot.stamp"
