#!/bin/sh
# Installs what building needs on Debian 12, once; with the word "tests" also what the tests need: more system packages, and
# pinned Python and npm packages under build/deps. Does nothing, and needs no network, when all of it is there. Works as
# root or with sudo. Usage: setup.sh [tests]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
deps="$root/build/deps"

packages="g++ cmake ninja-build pkg-config libpcre2-dev libcpuinfo-dev librust-blake3-dev libcli11-dev nlohmann-json3-dev
          libsimdjson-dev libzstd-dev rapidjson-dev libgtest-dev python3"
if [ "${1:-}" = tests ]; then
    packages="$packages abigail-tools b3sum jq libbenchmark-dev valgrind strace"
    # Rust: the oldest toolchain that the crates promise, whatever else there is, and what makes their bindings.
    packages="$packages rustc cargo rustfmt bindgen libclang1-14 libclang-common-14-dev"
    # What is installed: Debian packages in a fresh Debian, the manual page, completions of three shells.
    packages="$packages dpkg-dev mmdebstrap groff-base zsh fish"
    # A cluster of one node, which the test of the sweeps starts for itself.
    packages="$packages munge slurm-client slurmctld slurmd"
    # What shows the pages of bitnet report.
    packages="$packages chromium"
    # The AArch64 library is built and run here too.
    [ "$(uname -m)" != x86_64 ] || packages="$packages g++-aarch64-linux-gnu qemu-user"
    # A Node.js or Python from elsewhere serves as well; Debian's npm would conflict with such a Node.js.
    command -v node >/dev/null 2>&1 || packages="$packages nodejs"
    command -v npm >/dev/null 2>&1 || packages="$packages npm"
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python3-venv"
fi

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    echo "setup: installing$missing"
    $as_root apt-get update -q=2
    # shellcheck disable=SC2086  # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q=2 -y --no-install-recommends $missing >/dev/null
fi

[ "${1:-}" = tests ] || exit 0

# `stamp NAME FILE...`: true when NAME was set up from these very files.
stamp() {
    name=$1
    shift
    cat "$@" | cksum | cmp -s - "$deps/$name.stamp"
}

[ "$(uname -m)" != x86_64 ] || "$root/scripts/sysroot_aarch64.sh"
mkdir -p "$deps"
requirements="$root/tests/requirements.txt"
if ! stamp venv "$requirements"; then
    echo "setup: Python packages of the tests"
    rm -rf "$deps/venv"
    python3 -m venv "$deps/venv"
    "$deps/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cat "$requirements" | cksum >"$deps/venv.stamp"
fi
# What `pip install .` fetches, so that its test needs no network.
if ! stamp wheels "$root/pyproject.toml" "$requirements"; then
    echo "setup: packages that building the Python package needs"
    rm -rf "$deps/wheels"
    "$deps/venv/bin/pip" download --quiet --disable-pip-version-check --only-binary :all: --dest "$deps/wheels" \
        "$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' "$root/pyproject.toml")" "$(grep '^numpy==' "$requirements")"
    cat "$root/pyproject.toml" "$requirements" | cksum >"$deps/wheels.stamp"
fi
requirements="$root/scripts/sweep/requirements.txt"
if ! stamp sweep "$requirements"; then
    echo "setup: Snakemake, for the sweeps"
    rm -rf "$deps/sweep"
    python3 -m venv "$deps/sweep"
    "$deps/sweep/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cat "$requirements" | cksum >"$deps/sweep.stamp"
fi
if ! stamp npm "$root/tests/npm/package.json" "$root/tests/npm/package-lock.json"; then
    echo "setup: npm packages of the tests"
    mkdir -p "$deps/npm"
    cp "$root/tests/npm/package.json" "$root/tests/npm/package-lock.json" "$deps/npm/"
    npm ci --prefix "$deps/npm" --silent --no-audit --no-fund
    cat "$root/tests/npm/package.json" "$root/tests/npm/package-lock.json" | cksum >"$deps/npm.stamp"
fi
# The prebuilt llama.cpp that the interposer's tests run, and scripts/bench_peer.sh measures.
if [ "$(uname -m)" = x86_64 ] && ! cmp -s "$root/scripts/peer/package-lock.json" "$deps/peer/installed.json"; then
    echo "setup: a prebuilt llama.cpp for the tests"
    mkdir -p "$deps/peer"
    cp "$root/scripts/peer/package.json" "$root/scripts/peer/package-lock.json" "$deps/peer/"
    npm ci --prefix "$deps/peer" --silent --no-audit --no-fund --ignore-scripts
    cp "$root/scripts/peer/package-lock.json" "$deps/peer/installed.json"
fi
