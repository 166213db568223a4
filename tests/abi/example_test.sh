#!/bin/sh
# The example of the header with tracing asked for by the environment alone; its trace is read with Python's json alone.
# Usage: example_test.sh EXAMPLE MODEL PYTHON
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
output=$(BITNET_TRACE_PLUGIN="libjsonl.so:path=$folder/trace.jsonl" "$1" "$2" 'some words')
echo "$output"
case $output in
'logit of token 0 after the prompt: '*[0-9]*) ;;
*) exit 1 ;;
esac
"$3" -c '
import json, sys

BLOCK = """attn_norm q_proj k_proj v_proj q_rope k_rope attn_scores_softmax attn_context attn_sub_norm attn_out
attn_residual ffn_norm ffn_gate ffn_up ffn_act ffn_sub_norm ffn_out layer_out""".split()
records = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
run, end = records[0], records[-1]
assert run["record"] == "run" and run["schema"] == 1 and run["engine"] == "bitnet-c", run
assert end["record"] == "run_end", end
steps = [r for r in records if r["record"] == "step"]
tensors = [r for r in records if r["record"] == "tensor"]
assert len(records) == 2 + len(steps) + len(tensors)
tokens = [token for step in steps for token in step["tokens"]]
assert tokens == run["tokens"] and len(tokens) > 3, tokens
n_layer = run["hyperparameters"]["n_layer"]
expected = {(t, -1, s) for t in range(len(tokens)) for s in ("embeddings", "final_norm", "logits")}
expected |= {(t, layer, s) for t in range(len(tokens)) for layer in range(n_layer) for s in BLOCK}
found = [(t["seq"], t["layer"], t["stage"]) for t in tensors]
assert len(found) == len(set(found)), "a record is there twice"
assert set(found) == expected, sorted(set(found) ^ expected)[:5]
assert end["records"] == len(tensors) and end["tokens"] == len(tokens) and end["overridden"] is False
order = ["embeddings", *BLOCK, "final_norm", "logits"]
for t in range(len(tokens)):
    mine = sorted((r for r in tensors if r["seq"] == t), key=lambda r: r["event"])
    wanted = ["embeddings", *BLOCK * n_layer, "final_norm", "logits"]
    assert [r["stage"] for r in mine] == wanted, "token %d: not in execution order" % t
for r in tensors:
    assert len(r["blake3"]) == 64 and int(r["blake3"], 16) >= 0 and r["nan"] == r["inf"] == 0, r
    elements = 1
    for n in r["shape"]:
        elements *= n
    assert elements == r["num_elements"] and len(r["top"]) == min(8, elements), r
    where = "t%d/" % r["seq"] + ("blk%d/" % r["layer"] if r["layer"] >= 0 else "")
    assert r["name"] == where + r["stage"], r["name"]
print("%d tokens, %d layers, %d records: every stage of every token, in order" % (len(tokens), n_layer, len(tensors)))
' "$folder/trace.jsonl"
