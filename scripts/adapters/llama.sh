#!/bin/sh
# llama.cpp as an engine for `bitnet crossval`: fetches the pinned prebuilt of scripts/peer once (npm, x86-64), compiles the
# adapter once, becomes it. It runs BitNet models in TQ1_0 and TQ2_0, with SiLU in place of ReLU^2:
#   bitnet make-model --preset tiny -o i2s.gguf && bitnet make-model --preset tiny --type tq2_0 -o tq2.gguf
#   bitnet crossval -m i2s.gguf --as activation=silu --tokens 1,2,3 --against cmd:scripts/adapters/llama.sh --against-model tq2.gguf
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
peer="$root/build/deps/peer"
adapter="$peer/llama_adapter"
stop() { echo "error $1"; exit 2; }

[ "$(uname -m)" = x86_64 ] || stop "$(uname -m): the pinned llama.cpp is for x86_64"
if ! cmp -s "$root/scripts/peer/package-lock.json" "$peer/installed.json"; then
    command -v npm >/dev/null || stop "no npm: scripts/setup.sh tests installs it"
    mkdir -p "$peer"
    cp "$root/scripts/peer/package.json" "$root/scripts/peer/package-lock.json" "$peer/"
    npm ci --prefix "$peer" --silent --no-audit --no-fund --ignore-scripts >&2 || stop "npm cannot fetch llama.cpp"
    cp "$root/scripts/peer/package-lock.json" "$peer/installed.json"
fi
if [ ! -x "$adapter" ] || [ "$root/scripts/adapters/llama.c" -nt "$adapter" ]; then
    cc -std=gnu11 -O2 -Wall -Wextra "$root/scripts/adapters/llama.c" -o "$adapter.$$" -ldl >&2 || stop "llama.c does not compile"
    mv "$adapter.$$" "$adapter"
fi
exec "$adapter" "$peer/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
