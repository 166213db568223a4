#!/bin/sh
# Configures and builds one preset of CMakePresets.json; quiet unless it fails. Usage: build.sh PRESET [TARGET...]
set -eu
cd "$(dirname "$0")/.."
preset=$1
shift
log="build/$preset.log"
mkdir -p build
echo "building ($preset)"
if ! { cmake --preset "$preset" && cmake --build --preset "$preset" ${1:+--target "$@"}; } >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "build failed; the whole log: $log" >&2
    exit 2
fi
