#!/bin/sh
# Measures bitnet-c beside llama.cpp on the same synthetic weights of the 2B-4T shape: ours as I2_S, theirs as TQ2_0, in one
# process, in turn; prints medians and ratios. Both compute the same function, SiLU in place of ReLU^2, which that llama.cpp
# does not have for this architecture; F16 head, logits of the last token; KV cache f32 here, F16 there. Needs the release
# build and npm, x86-64, 2.4 GB for the models and 3 GB of memory; downloads a pinned prebuilt llama.cpp once.
# Usage: bench_peer.sh [PREFILL [DECODE [REPETITIONS [THREADS...]]]]        default: 512 64 3 1 2
# BITNET_BUILD: the build folder, default build/release.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${BITNET_BUILD:-$root/build/release}
peer="$root/build/deps/peer"
prefill=${1:-512}
decode=${2:-64}
repetitions=${3:-3}
if [ $# -gt 3 ]; then shift 3; else set -- 1 2; fi

[ "$(uname -m)" = x86_64 ] || { echo "bench_peer: $(uname -m): the pinned llama.cpp is for x86_64" >&2; exit 2; }
[ -x "$build/bin/bitnet" ] || { echo "bench_peer: no $build/bin/bitnet: run scripts/build.sh release first" >&2; exit 2; }
command -v npm >/dev/null || { echo "bench_peer: no npm: scripts/setup.sh tests installs it" >&2; exit 2; }

mkdir -p "$peer"
if ! cmp -s "$root/scripts/peer/package-lock.json" "$peer/installed.json"; then
    echo "bench_peer: fetching the prebuilt llama.cpp" >&2
    cp "$root/scripts/peer/package.json" "$root/scripts/peer/package-lock.json" "$peer/"
    npm ci --prefix "$peer" --silent --no-audit --no-fund --ignore-scripts
    cp "$root/scripts/peer/package-lock.json" "$peer/installed.json"
fi
for type in i2_s tq2_0; do
    [ -s "$peer/2b-4t.$type.gguf" ] ||
        "$build/bin/bitnet" make-model --preset 2b-4t --type "$type" -o "$peer/2b-4t.$type.gguf"
done
cc -std=gnu11 -O2 -Wall -Wextra -I"$root/include" "$root/scripts/peer/peer.c" -o "$peer/peer" \
    -L"$build/lib" -lbitnet -Wl,-rpath,"$build/lib" -ldl -lm
exec "$peer/peer" "$peer/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64" "$peer/2b-4t.i2_s.gguf" \
    "$peer/2b-4t.tq2_0.gguf" "$prefill" "$decode" "$repetitions" "$@"
