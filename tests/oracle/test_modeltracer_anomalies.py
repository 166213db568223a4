"""Damage done to a model on purpose: the modeltracer plugin names it, its place and where it began, and is silent about
the model as it is."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from library import LibraryError
from modeltracer_trace import Patient, Tracer, read_records, trace
from test_demo_model import ADD_BOS, MODEL, PARSE_SPECIAL

PROMPT = "What is 47+35? 82"
CLEAN = (
    "2+2=",
    "What is 2+2?",
    "User: What is 47+35?<|eot_id|>Assistant: ",
    "Count from 3 to 21: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "Monday, Tuesday, Wednesday, Thursday, Friday, ",
    "a b c a b c a b c a b c a b c a b c",
)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


@pytest.fixture(scope="module")
def tokens(library):
    return library.load(MODEL).tokenize(PROMPT, ADD_BOS | PARSE_SPECIAL)


@pytest.fixture
def patient():
    return Patient(MODEL)


@pytest.fixture
def examine(library, tokens, tmp_path):
    """What the plugin says of a patient."""

    def run(patient, config="quantisation=0,logits=0", **options):
        return trace(library.load(patient.write(tmp_path / "patient.gguf")), tokens, tmp_path, config, **options)

    return run


@pytest.mark.parametrize("prompt", CLEAN)
def test_a_healthy_model_gives_no_anomaly(library, prompt, tmp_path):
    model = library.load(MODEL)
    with Tracer(model.context(threads=1), tmp_path) as tracer:
        tracer.context.eval(model.tokenize(prompt, ADD_BOS | PARSE_SPECIAL))
        tracer.context.greedy(12, ignore_end=True)
    assert tracer.classes() == set()
    assert all(r["anomalies"] == r["propagated"] == 0 and r["first_anomaly"] is None for r in tracer.of("forward"))
    nine = tracer.summary()["summary"]
    assert nine["anomalies_detected"] == nine["quant_criticals"] == 0
    assert nine["total_forwards"] == nine["kv_steps"] == 12
    assert nine["logit_traces"] == len(tracer.of("quantisation_logits")) > 12


@pytest.mark.parametrize(
    ("value", "name", "written"),
    [(float("nan"), "nan", "NaN"), (float("inf"), "inf", None), (1e30, "explosion", None)],
)
def test_a_norm_weight(patient, examine, tokens, value, name, written):
    """One weight: the stage and the element where it shows are its own, and all that follows only inherits it."""
    found = examine(patient.patch("blk.2.ffn_norm.weight", floats(value), at=4 * 77))
    assert found.classes() == {(name, 2, "ffn_norm")}
    anomalies = found.of("anomaly")
    assert [(a["seq"], a["index"], a["inputs"]) for a in anomalies] == [(p, 77, "healthy") for p in range(len(tokens))]
    assert written is None or {a["value"] for a in anomalies} == {written}
    (forward,) = found.of("forward")
    assert forward["anomalies"] == len(tokens)
    # NaN has no part in the quantiser's maximum and becomes the code 0: it ends there. What is large goes on.
    assert (forward["propagated"] > 3 * len(tokens)) is (name != "nan")
    assert forward["first_anomaly"].startswith("position 0, layer 2, ffn_norm: ")
    assert forward["first_anomaly"] == found.summary()["first_anomaly"] in found.text_path.read_text()
    assert found.summary()["anomalies"][name] == len(tokens)
    assert found.summary()["summary"]["anomalies_detected"] == 1


def test_one_token_that_is_nan(patient, examine, tokens):
    """What follows of it at that position is no anomaly of its own; and its keys and values are zeros, not NaN."""
    position = 5
    row_bytes = 2 * patient.document.tensor(b"token_embd.weight").dims[0]
    assert tokens.count(tokens[position]) == 1
    found = examine(patient.patch("token_embd.weight", struct.pack("<e", np.nan), at=tokens[position] * row_bytes + 6))
    (first, *others) = found.of("anomaly")
    assert (first["class"], first["seq"], first["layer"], first["stage"]) == ("nan", position, -1, "embeddings")
    assert first["index"] == 3 and first["inputs"] == "healthy"
    # The head is the embedding: that token has a logit of NaN in every row that is right so far.
    assert {(a["class"], a["stage"], a["index"]) for a in others} <= {("nan", "logits", tokens[position])}
    assert {a["seq"] for a in others} == set(range(len(tokens))) - {position}


def test_what_is_large_at_first_is_not_blamed_again(patient, examine):
    n_code_bytes = patient.n_weights("blk.1.attn_output.weight") // 4
    found = examine(patient.patch("blk.1.attn_output.weight", floats(1e12), at=n_code_bytes))
    assert found.classes() == {("explosion", 1, "attn_out")}


def test_variance(patient, examine):
    """All values moderate, their spread not."""
    n_code_bytes = patient.n_weights("blk.1.ffn_down.weight") // 4
    found = examine(
        patient.patch("blk.1.ffn_down.weight", floats(2e3), at=n_code_bytes), "quantisation=0,logits=0,explosion=1e9"
    )
    assert ("variance", 1, "ffn_out") in found.classes()
    assert not {layer for _, layer, _ in found.classes()} & {-1, 0}


def test_vanishing_and_residual(patient, examine, tokens):
    found = examine(patient.zero_codes("blk.3.attn_output.weight"))
    assert found.classes() == {("vanishing", 3, "attn_out"), ("residual", 3, "layer_out")}
    assert {a["value"] for a in found.of("anomaly") if a["class"] == "residual"} == {1}
    assert found.summary()["anomalies"]["vanishing"] == len(tokens)


def test_uniform_attention(patient, examine):
    found = examine(patient.zero_codes("blk.2.attn_k.weight"))
    assert found.classes() == {("attention_uniform", 2, "attn_scores_softmax")}
    (anomaly,) = found.of("anomaly")
    assert anomaly["value"] == pytest.approx(1)
    assert anomaly["seq"] == 7 + 3  # the first position of 8 or more to look at, and three more
    of_layer = [r for r in found.of("attention") if r["layer"] == 2 and r["n_kv"] > 1]
    assert all(head["uniform"] and not head["sink"] for r in of_layer for head in r["heads"] if r["n_kv"] > 3)
    few = [head for r in of_layer if r["n_kv"] == 11 for head in r["heads"]]
    assert all(head["top_k_positions"] == list(range(10)) for head in few)
    assert all(head["tail_mass"] == pytest.approx(1 / 11) for head in few)


def test_collapsed_attention(patient, examine):
    n_code_bytes = patient.n_weights("blk.1.attn_q.weight") // 4
    found = examine(patient.patch("blk.1.attn_q.weight", floats(5e3), at=n_code_bytes))
    assert ("attention_collapse", 1, "attn_scores_softmax") in found.classes()
    assert {(name, layer) for name, layer, _ in found.classes()} == {("attention_collapse", 1)}


def test_quantisation_damage(patient, examine, tokens):
    """A channel that no weight reads, so large that the others' codes are zero."""
    width = patient.document.tensor(b"blk.1.ffn_norm.weight").dims[0]
    offset = patient.document.tensor(b"blk.1.ffn_norm.weight").offset
    weight = np.frombuffer(patient.document.data, "<f4", width, offset)[9]
    patient.patch("blk.1.ffn_norm.weight", floats(3e4 * weight), at=4 * 9)
    patient.zero_column("blk.1.ffn_gate.weight", 9).zero_column("blk.1.ffn_up.weight", 9)
    found = examine(patient, "positions=all,logits=0,explosion=1e9,variance=1e9")
    linears = {(layer, stage) for name, layer, stage in found.classes() if name == "quantisation"}
    assert linears == {(1, "ffn_gate"), (1, "ffn_up")}
    assert found.summary()["summary"]["quant_criticals"] >= len(tokens)
    assert found.summary()["quantisation"]["worst_cosine"] < 0.99


# The cache


def test_truncation_is_eviction(library, tokens, tmp_path):
    with Tracer(library.load(MODEL).context(threads=1), tmp_path, "preset=lightweight") as tracer:
        tracer.context.eval(tokens[:10])
        tracer.context.eval(tokens[10:12])
        tracer.truncate(6)
        tracer.context.eval(tokens[6:8])
    assert tracer.classes() == {("kv_eviction_rate", -1, None)}
    (anomaly,) = tracer.of("anomaly")
    assert (anomaly["seq"], anomaly["run"], anomaly["limit"]) == (7, 1, 0.1)
    assert anomaly["value"] == pytest.approx(1 / 3)
    assert [r["evictions_this_step"] for r in tracer.of("kv")] == [0, 0, 6]
    assert [r["valid_positions"] for r in tracer.of("kv")] == [10, 12, 8]
    first, second = (r["summary"] for r in tracer.of("summary"))
    assert (first["total_evictions"], second["total_evictions"]) == (0, 6)
    assert (first["total_forwards"], second["total_forwards"]) == (2, 1)  # cleared at each run
    assert (first["kv_steps"], second["kv_steps"]) == (2, 3)  # the cache went on


def test_one_truncation_in_a_long_conversation_is_none(library, tokens, tmp_path):
    with Tracer(library.load(MODEL).context(threads=1), tmp_path, "preset=lightweight") as tracer:
        for token in tokens[:10]:
            tracer.context.eval([token])
        tracer.truncate(5)
        tracer.context.eval(tokens[5:7])
    assert tracer.classes() == set()
    assert tracer.of("summary")[-1]["summary"]["total_evictions"] == 5


def test_a_reset_begins_anew(library, tokens, tmp_path):
    with Tracer(library.load(MODEL).context(threads=1), tmp_path, "preset=lightweight") as tracer:
        for _ in range(3):
            tracer.context.reset()
            tracer.context.eval(tokens[:4])
    assert tracer.classes() == set()
    assert [r["summary"]["kv_steps"] for r in tracer.of("summary")] == [1, 1, 1]


def test_thrashing(library, tokens, tmp_path):
    with Tracer(library.load(MODEL).context(threads=1), tmp_path, "preset=lightweight") as tracer:
        tracer.context.eval(tokens[:2])
        for _ in range(5):
            tracer.truncate(1)
            tracer.context.eval(tokens[1:9])
    assert tracer.classes() == {("kv_eviction_rate", -1, None), ("kv_thrashing", -1, None)}
    thrashing = [a for a in tracer.of("anomaly") if a["class"] == "kv_thrashing"]
    assert len(thrashing) == 1 and thrashing[0]["value"] < 0.2


# Files and configuration


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("preset=most", "preset=full or preset=lightweight"),
        ("colour=red", "unknown configuration 'colour=red'"),
        ("top_k=0", "top_k=1 to 1000"),
        ("sink=high", "a number such as 0.5"),
        ("track=1;x", "track=ID;ID;"),
        ("top=0", "tokens to follow"),
        ("positions=first", "positions=last or positions=all"),
    ],
)
def test_a_wrong_configuration(library, tmp_path, config, words):
    context = library.load(MODEL).context(threads=1)
    with pytest.raises(LibraryError, match="modeltracer") as raised, Tracer(context, tmp_path, config):
        pass
    assert words in str(raised.value)


def test_a_crash_keeps_what_was_evaluated(tmp_path):
    """The process ends between two steps without a word."""
    path = tmp_path / "crash.json"
    code = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from library import Library
context = Library(os.environ["BITNET_LIBRARY"]).load({str(MODEL)!r}).context(threads=1)
context.eval([1, 2, 3])
context.eval([4])
os._exit(9)
"""
    variables = {"BITNET_TRACE_PLUGIN": f"modeltracer:path={path},track=1%;2"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    records = read_records(path)
    assert [r["seq"] for r in records if r["record"] == "forward"] == [0, 3]
    assert [t["token_id"] for r in records if r["record"] == "logits" for t in r["tracked_tokens"]] == [1, 2, 1, 2]
    assert "summary" not in {r["record"] for r in records}


def test_the_default_path(tmp_path):
    variables = {"BITNET_TRACE_PLUGIN": "modeltracer:preset=lightweight", "BITNET_TRACE_DIR": str(tmp_path)}
    code = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from library import Library
Library(os.environ["BITNET_LIBRARY"]).load({str(MODEL)!r}).context(threads=1).eval([1, 2, 3])
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | variables, check=True)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("bitnet-") and path.name.endswith(".modeltracer.json")
    assert json.loads(path.read_text().splitlines()[-1])["record"] == "run_end"
