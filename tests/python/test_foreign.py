"""Trace: an engine in Python (the numpy oracle) writes its own trace, and `diff` holds it against ours."""

import json
import threading

import numpy as np
import pytest

import bitnet
from bitnet_oracle import Oracle
from conftest import SMALL, python

DEFAULT = [stage for stage in bitnet.stages() if "." not in stage and stage != "attn_scores"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def oracle(ids):
    return Oracle(SMALL).run(ids)


def port(trace, record, ids, heads=4):
    """Emits the oracle's stages as a port in Python would: float32, all rows at once."""
    trace.step(0, ids)
    for (layer, stage), rows in record.items():
        if stage not in DEFAULT or stage == "attn_scores_softmax":
            continue
        values = np.asarray(rows, np.float32)
        if stage in ("q_proj", "q_rope", "attn_context", "attn_sub_norm"):
            values = values.reshape(len(ids), heads, -1)
        elif stage in ("k_proj", "v_proj", "k_rope"):
            values = values.reshape(len(ids), -1, 64)
        trace.emit(stage, values, layer=layer)


def test_a_port_in_python_agrees_with_us(model, ids, oracle, tmp_path):
    with bitnet.Trace(
        "numpy port", f"jsonl:path={tmp_path / 'port.jsonl'}", engine_version="1.0", model=model, prompt="words"
    ) as trace:
        assert trace.enabled and trace.wants("q_proj", 0, 5) and not trace.wants("attn_scores", 0, 5)
        port(trace, oracle, ids)
        assert trace.stats.n_sinks == 1 and "1 sinks" in repr(trace)
    run = lines(tmp_path / "port.jsonl")[0]
    assert (run["engine"], run["engine_version"], run["model_hash"], run["tokens"]) == (
        "numpy port",
        "1.0",
        model.hash,
        ids,
    )
    assert run["prompt"] == "words" and run["hyperparameters"]["n_layer"] == 3
    with model.trace(
        f"jsonl:path={tmp_path / 'ours.jsonl'}", select="*,!*:*:attn_scores_softmax", prompt="words"
    ) as ctx:
        ctx.eval(ids)
    result = bitnet.diff(tmp_path / "ours.jsonl", tmp_path / "port.jsonl")
    assert result and result.verdict == "match", result
    assert result.counts["compared"] > 500 and result.counts["missing_in_b"] == 0
    wrong = Oracle(SMALL, "activation=silu").run(ids)
    with bitnet.Trace("numpy port", f"jsonl:path={tmp_path / 'wrong.jsonl'}", model=model) as trace:
        port(trace, wrong, ids)
    result = bitnet.diff(tmp_path / "ours.jsonl", tmp_path / "wrong.jsonl", tolerance=1e-3)
    assert not result and result.verdict == "divergence"
    assert (result.first["layer"], result.first["stage"]) == (0, "ffn_act")


def test_dtypes_strides_and_inputs_arrive_as_given(tmp_path):
    seen = []
    base = np.arange(48, dtype=np.float32).reshape(3, 16)
    with bitnet.Trace("port", lambda event: seen.append(event.copy()), select="**,*.*") as trace:
        trace.step(4, 3)
        trace.emit("q_proj", base[:, 2:6], layer=1, inputs={"attn_norm": base[:, 8:10]}, kernel="mine", ns=77)
        trace.emit("q_proj", base[::-1, :4], layer=1)
        trace.emit("attn_norm.codes", np.arange(6, dtype=np.int8).reshape(3, 2), layer=1)
        trace.emit(
            "q_proj.acc",
            np.arange(6, dtype=np.int32).reshape(3, 2),
            layer=1,
            inputs={"attn_norm.codes": np.int8([1, 2])},
        )
        trace.emit("k_proj", base.astype(np.float16), layer=1)
        trace.emit("v_proj", np.uint16([[0x3F80, 0xC000]]), layer=1, dtype="bf16", position=6)
        trace.emit("t5/blk2/ffn_out", base[0])
    assert (
        (seen[0].data == base[:, 2:6]).all() and seen[0].position == 4 and seen[0].kernel == "mine" and seen[0].ns == 77
    )
    assert seen[0].inputs[0].name == "attn_norm" and (seen[0].inputs[0].data == base[:, 8:10]).all()
    assert (seen[1].data == base[::-1, :4]).all()
    assert [e.dtype for e in seen] == ["f32", "f32", "i8", "i32", "f16", "bf16", "f32"]
    assert seen[3].data.tolist() == [[0, 1], [2, 3], [4, 5]] and seen[3].inputs[0].data.tolist() == [[1, 2]] * 3
    assert (seen[4].data == base.astype(np.float16)).all() and (seen[4].float32() == base).all()
    assert (
        seen[5].position == 6
        and seen[5].data.tolist() == [[0x3F80, 0xC000]]
        and seen[5].float32().tolist() == [[1.0, -2.0]]
    )
    assert (seen[6].position, seen[6].layer, seen[6].stage) == (5, 2, "ffn_out")


def test_wrong_emissions_are_refused():
    with bitnet.Trace("port", lambda event: None) as trace:
        trace.step(0, [1, 2])
        with pytest.raises(bitnet.InvalidError, match="float64: expected float32"):
            trace.emit("q_proj", np.zeros((2, 4)), layer=0)
        with pytest.raises(bitnet.InvalidError, match="no_such_stage"):
            trace.emit("no_such_stage", np.zeros((2, 4), np.float32), layer=0)
        with pytest.raises(bitnet.InvalidError, match="expected 1 to 4"):
            trace.emit("q_proj", np.zeros((2, 1, 1, 1, 1, 1), np.float32), layer=0)
        with pytest.raises(bitnet.InvalidError, match="expected an array"):
            trace.emit("q_proj", np.float32(1), layer=0)
        with pytest.raises(bitnet.InvalidError, match="there is no stage"):
            trace.wants("no_such_stage", 0, 0)
        with pytest.raises(bitnet.InvalidError, match="input x has 3 rows: expected 2"):
            trace.emit("q_proj", np.zeros((2, 4), np.float32), layer=0, inputs={"x": np.zeros((3, 4), np.float32)})
    with pytest.raises(bitnet.InvalidError, match="closed"):
        trace.step(0, [1])
    assert repr(trace) == "<bitnet.Trace, closed>"
    with pytest.raises(bitnet.InvalidError):
        bitnet.Trace("")
    with pytest.raises(bitnet.PluginError, match="no_such_plugin"):
        bitnet.Trace("port", "no_such_plugin")


def test_an_exception_in_a_sink_is_raised_at_the_end():
    others = []

    def broken(event):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        with bitnet.Trace("port", broken, lambda event: others.append(event.stage)) as trace:
            trace.emit("q_proj", np.zeros(4, np.float32), layer=0)
            trace.emit("k_proj", np.zeros(4, np.float32), layer=0)
    assert others == ["q_proj", "k_proj"]
    with pytest.raises(ZeroDivisionError):
        with bitnet.Trace("port", broken) as trace:
            trace.emit("q_proj", np.zeros(4, np.float32), layer=0)
            1 / 0


def test_a_sink_may_ask_the_engine_to_stop():
    with pytest.raises(bitnet.UserError, match="seen enough"):
        with bitnet.Trace("port", lambda event: event.stop("seen enough")) as trace:
            trace.emit("q_proj", np.zeros(4, np.float32), layer=0)


def test_plugins_of_the_environment_and_selection(tmp_path):
    python(
        """
import bitnet
with bitnet.Trace("port", hyperparameters={"n_layer": 2}, tokens=[5, 6]) as trace:
    trace.select("*:1:*")
    trace.step(0, [5, 6])
    for layer in (0, 1):
        trace.emit("q_proj", memoryview(bytearray(32)).cast("f", [2, 4]), layer=layer)
    trace.kv(n_valid=2, n_max=8)
    trace.end()
""",
        BITNET_TRACE_PLUGIN=f"jsonl:path={tmp_path / 'a.jsonl'}",
        BITNET_LIBRARY=bitnet.library_path(),
    )
    found = lines(tmp_path / "a.jsonl")
    assert [(r["layer"], r["seq"]) for r in found if r["record"] == "tensor"] == [(1, 0), (1, 1)]
    assert found[0]["hyperparameters"]["n_layer"] == 2
    trace = bitnet.Trace("port")
    assert not trace.enabled
    trace.emit("q_proj", np.zeros(4, np.float32))  # nobody listens
    trace.close()


def test_threads_may_emit_at_once():
    seen = []
    with bitnet.Trace("port", lambda event: seen.append((event.layer, float(event.data[0, 0])))) as trace:
        trace.step(0, 1)
        threads = [
            threading.Thread(
                target=lambda i=i: [trace.emit("q_proj", np.full(4, i, np.float32), layer=i) for _ in range(50)]
            )
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 200 and all(layer == value for layer, value in seen)
