"""Verdicts: compare_logits and crossval against numpy and the program, diff of traces, replay of operations."""

import json
import math
import os
import subprocess

import numpy as np
import pytest

import bitnet
from bitnet_oracle import Oracle
from conftest import SMALL, cli


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(5)
    a = random.normal(size=(6, 300)).astype(np.float32)
    return a, a + random.normal(size=a.shape).astype(np.float32) * 1e-3


def test_figures_are_numpys(rows):
    a, b = rows
    result = bitnet.compare_logits(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)

    def log_softmax(z):
        return z - np.logaddexp.reduce(z, axis=1, keepdims=True)

    cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    kl = (np.exp(log_softmax(x)) * (log_softmax(x) - log_softmax(y))).sum(1)
    for i, row in enumerate(result.rows):
        assert row.cosine == pytest.approx(cosine[i], rel=1e-12) and row.kl == pytest.approx(kl[i], rel=1e-6)
        assert row.max_abs == pytest.approx(np.abs(x - y)[i].max(), rel=1e-12) and row.n == 300
        assert row.worst_index == np.abs(x - y)[i].argmax() and row.worst_a == a[i, row.worst_index]
        assert (row.top1_a, row.top1_b) == (a[i].argmax(), b[i].argmax())
    assert result and result.verdict == "match" and result.first_failed is None and not result.failed
    assert result.cosine_least == min(row.cosine for row in result.rows) and result.n_top1_equal == 6
    assert result.limits["top_k"] == 5 and "cosine" in result.limits["judged"]


def test_divergence_says_where_and_what(rows):
    a, b = rows
    b = b.copy()
    b[4] = -b[4]
    result = bitnet.compare_logits(a, b)
    assert not result and result.verdict == "divergence" and result.first_failed == 4 and result.n_failed == 1
    assert "cosine" in result.rows[4].failed and "cosine" in result.failed and not result.rows[3].failed
    assert (
        "first at 4" in repr(result) and "background" in result._repr_html_() and result._repr_html_().count("<tr") == 7
    )
    b[1, 7] = math.nan
    result = bitnet.compare_logits(a, b)
    assert result.first_failed == 1 and result.rows[1].failed == {"finite"} and result.rows[1].n_nonfinite == 1


def test_limits(rows):
    a, b = rows
    assert bitnet.presets()[0] == "bitnet" and "torch-f32" in bitnet.presets()
    assert bitnet.compare_logits(a, b, max_abs_max=1e-5).failed == {"max_abs"}
    assert bitnet.compare_logits(a, b, "seed").verdict == "divergence"
    assert bitnet.compare_logits(a, a, "seed").verdict == "match"
    with pytest.raises(bitnet.InvalidError, match="there is no limit 'cosine_maximum'"):
        bitnet.compare_logits(a, b, cosine_maximum=1)
    with pytest.raises(bitnet.InvalidError, match="bitnet-same-class"):
        bitnet.compare_logits(a, b, "no such preset")
    with pytest.raises(bitnet.InvalidError, match=r"a has shape \(6, 300\), b has \(5, 300\)"):
        bitnet.compare_logits(a, b[:5])
    with pytest.raises(bitnet.InvalidError, match="int64"):
        bitnet.compare_logits(a, np.zeros(a.shape, int))
    assert bitnet.compare_logits(a[:0], b[:0]).verdict == "nothing" and not bitnet.compare_logits(a[:0], b[:0])
    assert bitnet.compare_logits(a[0], b[0].astype(np.float64)).rows[0].n == 300


def test_crossval_with_engines_of_every_kind(model, ids):
    oracle = Oracle(SMALL)
    result = bitnet.crossval(model, lambda tokens: oracle.run(tokens)[-1, "logits"], ids)
    assert result and len(result.rows) == len(ids) and result.tokens == ids
    logits = oracle.run(ids)[-1, "logits"]
    assert repr(bitnet.crossval(model.context(n_threads=1), logits, ids)) == repr(result)
    assert bitnet.crossval(logits, model, np.asarray(ids)).verdict == "match"
    wrong = bitnet.crossval(model, bitnet.Model(SMALL, semantics="activation=silu"), ids)
    assert wrong.verdict == "divergence" and wrong.first_failed is not None
    assert bitnet.crossval(model, model, "words").tokens == model.tokenize("words")
    with pytest.raises(bitnet.InvalidError, match="candidate gave 3 rows of logits for 12 tokens"):
        bitnet.crossval(model, logits[:3], ids)
    with pytest.raises(bitnet.InvalidError, match="Model or Context"):
        bitnet.crossval(logits, logits, "words")
    with pytest.raises(bitnet.InvalidError, match="no tokens"):
        bitnet.crossval(model, model, [])


def test_crossval_is_the_programs(model, ids, tmp_path):
    other = bitnet.Model(SMALL, semantics="eps=1e-4").context(n_threads=1)
    other.eval(ids, logits="all")
    np.save(tmp_path / "b.npy", other.logits)
    tokens = ",".join(map(str, ids))
    done = subprocess.run(
        [
            bitnet.program_path(),
            "crossval",
            "-m",
            SMALL,
            "--tokens",
            tokens,
            "--against",
            tmp_path / "b.npy",
            "--format",
            "json",
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    report = json.loads(done.stdout)
    result = bitnet.crossval(model, other.logits, ids)
    assert done.returncode == (0 if result else 1)
    text = json.dumps(report)
    for row in result.rows:  # the same numbers to the last digit
        assert json.dumps(row.cosine) in text and json.dumps(row.kl) in text


def test_logprobs_of_any_engine(ctx, ids, rows):
    a, _ = rows
    expected = a.astype(np.float64) - np.logaddexp.reduce(a.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(bitnet.logprobs(a, range(6)), expected[np.arange(6), np.arange(6)], rtol=1e-12)
    ctx.eval(ids, logits="all")
    assert (bitnet.logprobs(ctx.logits, ids) == ctx.logprobs(ids)).all()
    with pytest.raises(bitnet.InvalidError, match="5 tokens for 6 rows"):
        bitnet.logprobs(a, range(5))
    with pytest.raises(bitnet.InvalidError):
        bitnet.logprobs(a, [300] * 6)


def trace(path, model, ids, **params):
    with model.trace(f"jsonl:path={path}", **params) as ctx:
        ctx.eval(ids)
    return path


def test_diff(model, ids, tmp_path):
    a = trace(tmp_path / "a.jsonl", model, ids)
    b = trace(tmp_path / "b.jsonl", model, ids, context={"n_batch": 5})
    wrong = trace(tmp_path / "wrong.jsonl", bitnet.Model(SMALL, semantics="activation=silu"), ids)
    result = bitnet.diff(a, b)
    assert result and result.verdict == "match" and result.first is None and result.errors == []
    assert result.counts["equal"] == result.counts["compared"] > 500
    result = bitnet.diff(str(a), wrong)
    assert not result and (result.first["layer"], result.first["stage"]) == (0, "ffn_act")
    assert repr(result).startswith("<bitnet.Diff divergence: ") and "ffn_act" in result._repr_html_()
    assert result.report["exit"] == 1 and bitnet.diff(a, wrong, max_origins=1).report["origins"]
    assert bitnet.diff(a, wrong, tolerance=10.0, ignore=["semantics"]).verdict == "match"


def test_diff_errors_are_exceptions(model, ids, tmp_path, monkeypatch):
    a = trace(tmp_path / "a.jsonl", model, ids)
    with pytest.raises(bitnet.DiffError, match="none.jsonl") as caught:
        bitnet.diff(a, tmp_path / "none.jsonl")
    assert caught.value.result is None or caught.value.result.verdict == "error"
    cut = tmp_path / "cut.jsonl"
    cut.write_text("\n".join(a.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(bitnet.DiffError, match="run_end") as caught:
        bitnet.diff(a, cut)
    assert caught.value.result.counts["compared"] > 500
    with pytest.raises(bitnet.DiffError):
        bitnet.diff(a, a, tolerance="some")
    monkeypatch.setenv("BITNET_PROGRAM", "/bin/false")
    with pytest.raises(bitnet.DiffError, match="ended with status 1 and no report"):
        bitnet.diff(a, a)


def test_program_is_found_beside_the_library(monkeypatch):
    monkeypatch.delenv("BITNET_PROGRAM", raising=False)
    beside = bitnet.program_path()
    assert os.path.samefile(
        os.path.join(os.path.dirname(os.path.dirname(bitnet.library_path())), "bin", "bitnet"), beside
    )
    monkeypatch.setattr("bitnet._program.library_path", lambda: "libbitnet.so.1")
    monkeypatch.setenv("PATH", os.path.dirname(beside))
    assert bitnet.program_path() == beside
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError, match="set BITNET_PROGRAM"):
        bitnet.program_path()
    monkeypatch.undo()
    assert cli("--version").startswith(f"bitnet {bitnet.__version__}")


def test_replay_gives_what_was_traced(ctx, model, ids):
    record = {}
    with ctx.trace(
        lambda event: record.setdefault((event.layer, event.stage), []).append(event.data.copy()), select="*,*.*"
    ):
        ctx.eval(ids)
    replay = bitnet.Replay(model)
    assert replay.semantics.startswith("activation=relu2") and "bitnet.Replay of <bitnet.Model" in repr(replay)
    flat = {
        key: np.concatenate(values).reshape(len(ids), -1) for key, values in record.items() if "scores" not in key[1]
    }
    n = 0
    for operation in replay.operations:
        inputs = {i.stage: flat.get((i.layer, i.stage)) for i in operation.inputs}
        if (operation.layer, operation.stage) not in flat or any(rows is None for rows in inputs.values()):
            continue
        if not operation.inputs:
            inputs = {"tokens": np.int32(ids)}
        out = replay.run(operation.stage, operation.layer, inputs)
        assert (out == flat[operation.layer, operation.stage]).all(), operation
        assert out.dtype == flat[operation.layer, operation.stage].dtype and operation.row_elements == out.shape[1]
        n += 1
    assert n > 60
    attention = next(o for o in replay.operations if o.stage == "attn_context")
    assert [(i.stage, i.every_position) for i in attention.inputs] == [
        ("q_rope", False),
        ("k_rope", True),
        ("v_proj", True),
    ]
    late = replay.run("q_rope", 0, {"q_proj": flat[0, "q_proj"][5:7]}, positions=[5, 6])
    assert (late == flat[0, "q_rope"][5:7]).all()
    scores = replay.run("attn_scores", 0, {"q_rope": flat[0, "q_rope"], "k_rope": flat[0, "k_rope"]})
    assert scores.shape == (4 * sum(range(1, 13)),)


def test_replay_under_other_semantics_is_the_oracles(model, ids):
    rows = Oracle(SMALL).run(ids[:2])
    gate, up = (np.asarray(rows[0, name], np.float32) for name in ("ffn_gate", "ffn_up"))
    out = bitnet.Replay(model, "activation=silu").run("ffn_act", 0, {"ffn_gate": gate, "ffn_up": up})
    x = gate.astype(np.float64)
    np.testing.assert_allclose(out, x / (1 + np.exp(-x)) * up, rtol=2e-6, atol=1e-30)


def test_replay_failures(model):
    replay = bitnet.Replay(model)
    with pytest.raises(bitnet.InvalidError, match="nonsense"):
        bitnet.Replay(model, "nonsense=1")
    with pytest.raises(bitnet.InvalidError, match="no operation 'q_proj' of layer 99"):
        replay.run("q_proj", 99, {"attn_norm": np.zeros((1, 256), np.float32)})
    with pytest.raises(bitnet.InvalidError):
        replay.run("q_proj", 0, {})
    with pytest.raises(bitnet.InvalidError):
        replay.run("q_proj", 0, {"attn_norm": np.zeros((1, 255), np.float32)})
