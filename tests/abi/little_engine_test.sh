#!/bin/sh
# A foreign engine's trace against ours: equal bit for bit; with one value changed in it `bitnet diff` names position,
# layer, stage and index, and so does the check sink inside of the foreign engine. Usage: little_engine_test.sh
# LITTLE_ENGINE BITNET MODEL
set -eu
little=$1 bitnet=$2 model=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# expect STATUS TEXT COMMAND...: the command's exit status, and a line of what it prints.
expect() {
    expected=$1 text=$2
    shift 2
    status=0
    "$@" >"$work/out" 2>&1 || status=$?
    if [ "$status" != "$expected" ] || { [ "$text" ] && ! grep -qF -- "$text" "$work/out"; }; then
        echo "$*: exit status $status, expected $expected and '$text' in:"
        cat "$work/out"
        exit 1
    fi
}

"$bitnet" trace -m "$model" --tokens 11,48,85 --select "embeddings,0:attn_norm" -o "$work/ours.jsonl" 2>/dev/null
"$little" "$model" "jsonl:path=$work/same.jsonl" -1
"$little" "$model" "jsonl:path=$work/changed.jsonl" 77
expect 0 "6 compared: 6 equal" "$bitnet" diff --tolerance exact "$work/ours.jsonl" "$work/same.jsonl"
expect 1 "token 2, layer 0, attn_norm" "$bitnet" diff --tolerance exact "$work/ours.jsonl" "$work/changed.jsonl"
expect 1 "a single value differs, by 0.5, at index 77" \
    "$bitnet" diff --tolerance exact "$work/ours.jsonl" "$work/changed.jsonl"

# Live: status 6 is that of bitnet_trace_end, 5 that of bitnet_trace_emit.
expect 0 "" "$little" "$model" "check:trace=$work/ours.jsonl" -1
expect 6 "differs from the trace first at position 2, layer 0, stage attn_norm; 1 of 6 rows differ" \
    "$little" "$model" "check:trace=$work/ours.jsonl,report=$work/report.json" 77
grep -qF '"values":[{"index":77,' "$work/report.json"
expect 5 "first divergence at position 2, layer 0, stage attn_norm: blake3 " \
    "$little" "$model" "check:trace=$work/ours.jsonl,stop=1" 77
echo "9 runs"
