#!/bin/sh
# The demonstration of `make demo`: one screen, from an answer to a verdict.
set -eu
cd "$(dirname "$0")/.."
bitnet=build/release/bin/bitnet
out=build/demo
mkdir -p "$out"
# Only what the demonstration sets may steer it.
unset BITNET_TRACE_PLUGIN BITNET_TRACE_SELECT BITNET_TRACE_DIR BITNET_ISA BITNET_DEBUG_LOGITS || true
question="What is 2+2?"

bold= plain=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
say() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; }

say "bitnet run -p \"$question\""
$bitnet run -p "$question"

say "bitnet trace -p \"$question\" -o reference.jsonl"
$bitnet trace -p "$question" -o "$out/reference.jsonl"

say "bitnet trace -p \"$question\" -o other.jsonl --as activation=silu    # an engine with one wrong semantic"
$bitnet trace -p "$question" -o "$out/other.jsonl" --as activation=silu

say "bitnet diff reference.jsonl other.jsonl"
status=0
$bitnet diff "$out/reference.jsonl" "$out/other.jsonl" || status=$?
echo "exit $status"
[ "$status" -eq 1 ] || { echo "demo: expected exit 1 for a divergence" >&2; exit 2; }

say "bitnet trace -p \"$question\" -o again.jsonl -t 1 && bitnet diff reference.jsonl again.jsonl"
$bitnet trace -p "$question" -o "$out/again.jsonl" -t 1
status=0
$bitnet diff "$out/reference.jsonl" "$out/again.jsonl" || status=$?
echo "exit $status"
[ "$status" -eq 0 ] || { echo "demo: expected exit 0 for an equal pair" >&2; exit 2; }
