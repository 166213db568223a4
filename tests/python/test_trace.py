"""Traces: callables and plugins as sinks, what they see against the oracle and the plugins' own files, and their failures."""

import gc
import json
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import bitnet
from bitnet_oracle import Oracle
from conftest import ROOT, SMALL, python

EVERYTHING = "**,*.*"


def records(path, kind="tensor"):
    return [r for r in map(json.loads, path.read_text().splitlines()) if r["record"] == kind]


def test_a_callable_sees_what_the_plugin_writes(ctx, ids, tmp_path):
    seen = []

    def sink(event):
        for row in range(event.data.shape[0]):
            assert event.blake3(row) == bitnet.blake3(event.data[row])
            seen.append(
                (
                    event.position + row,
                    event.layer,
                    event.stage,
                    event.blake3(row),
                    list(event.data.shape[1:]),
                    event.dtype.upper(),
                )
            )

    with ctx.trace(sink, f"jsonl:path={tmp_path / 'a.jsonl'}", select=EVERYTHING) as trace:
        ctx.eval(ids[:8])
        ctx.eval(ids[8:])
    written = records(tmp_path / "a.jsonl")
    assert seen == [(r["seq"], r["layer"], r["stage"], r["blake3"], r["shape"], r["dtype"]) for r in written]
    assert {stage for _, _, stage, *_ in seen} == set(bitnet.stages())
    assert trace.stats.n_sinks == 2 and trace.stats.n_failures == 0 and trace.stats.n_events > 0
    assert "0 failures" in repr(trace)


def test_stages_are_the_oracles(ctx, ids):
    rows = {}

    def sink(event):
        for row in range(event.data.shape[0]):
            rows.setdefault((event.layer, event.stage), {})[event.position + row] = event.data[row].ravel().copy()

    with ctx.trace(sink, select="*,*.*"):
        ctx.eval(ids)
    oracle = Oracle(SMALL)
    reference = oracle.run(ids)
    # At layer 0 nothing has been rounded differently yet: integers are equal, floats nearly.
    for stage in ("attn_norm.codes", "q_proj.acc", "k_proj.acc"):
        found = np.stack([rows[0, stage][i] for i in range(len(ids))])
        assert found.dtype == (np.int8 if "codes" in stage else np.int32)
        assert (found == reference[0, stage]).all(), stage
    for stage in ("attn_norm", "q_proj", "q_rope", "v_proj"):
        found = np.stack([rows[0, stage][i] for i in range(len(ids))])
        np.testing.assert_allclose(found, reference[0, stage], rtol=2e-6, atol=2e-6 * np.abs(reference[0, stage]).max())
    assert set(rows) >= {key for key in reference if "scores" not in key[1]}


def test_every_event_as_a_dataclass(ctx, model, ids):
    events = []
    with ctx.trace(events.append, events="all", copy=True, prompt="a prompt", select="*:0:attn_norm"):
        ctx.eval(ids[:4])
        ctx.eval(embeddings=np.zeros((1, 256), np.float32))
    assert [type(e).__name__ for e in events] == (
        ["RunBegin"] + ["StepBegin", "Tensor", "KvState", "StepEnd"] * 2 + ["RunEnd"]
    )
    run, step, tensor, kv, end = events[:5]
    assert run.engine == "bitnet-c" and run.engine_version == bitnet.__version__ and run.model_hash == model.hash
    assert run.model_path == str(SMALL) and run.prompt == b"a prompt" and run.tokens == ids[:4] and run.n_threads == 1
    assert (
        run.selection == "*:0:attn_norm"
        and run.kv_type == "f32"
        and not run.overridden
        and run.semantics == model.semantics
    )
    assert step.tokens == ids[:4] and step.position == 0 and end.status == 0
    assert (tensor.stage, tensor.stage_id, tensor.layer, tensor.position) == ("attn_norm", 2, 0, 0)
    assert tensor.data.shape == (4, 256) and tensor.dtype == "f32" and tensor.kernel and tensor.inputs == ()
    assert (kv.n_valid, kv.n_max, kv.n_hits, kv.n_misses, kv.oldest) == (4, 512, 0, 4, 0)
    assert events[5].tokens is None and events[6].first_row == 0
    assert (events[-1].n_tensors, events[-1].n_rows, events[-1].n_tokens) == (2, 5, 5)
    assert [e.seq for e in events] == sorted(e.seq for e in events) and len({e.seq for e in events}) == len(events)
    assert (tensor.float32() == tensor.data).all()
    with pytest.raises(bitnet.InvalidError, match="the event is over"):
        tensor.blake3()


def test_data_is_the_engines_memory_and_must_not_be_kept(ctx, ids):
    kept, addresses = [], []

    def keeps(event):
        addresses.append(event.data.ctypes.data)
        assert not event.data.flags.writeable and not event.data.flags.owndata
        with pytest.raises(ValueError):
            event.data.flags.writeable = True
        if len(addresses) == 2:
            kept.append(event.data[0, :3])

    with pytest.raises(BufferError, match="a sink kept an array"):
        with ctx.trace(keeps):
            ctx.eval(ids)
            assert len(addresses) == 2  # detached since
    kept.clear()
    copies = []
    with ctx.trace(lambda event: copies.append(event.copy()), lambda event: copies.append(event.data.sum())):
        ctx.eval(ids)
    assert copies[0].data.flags.owndata and copies[0].data.flags.writeable
    with ctx.trace(copies.append, copy=True):
        ctx.eval(ids)


def test_an_exception_detaches_the_sink_and_is_raised_at_the_end(ctx, ids):
    ctx.eval(ids)
    expected = ctx.logits.copy()
    ctx.reset()
    seen, others = [], []

    def broken(event):
        seen.append(event.stage)
        if len(seen) == 3:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        with ctx.trace(broken, lambda event: others.append(event.stage), select="*:0-2:*_norm") as trace:
            ctx.eval(ids)
            assert len(seen) == 3 and len(others) == 3 * 4
            assert (ctx.logits == expected).all()  # nothing else has changed
            assert isinstance(trace.error, KeyError)
            ctx.eval([1])
            assert len(others) == 2 * 3 * 4 and len(seen) == 3
    assert caught.value is trace.error and trace.stats.n_failures == 1
    # The context is free of it.
    ctx.eval([2])
    with ctx.trace(lambda event: seen.append(1)):
        ctx.eval([3])
    assert len(seen) > 3


def test_the_bodys_own_exception_wins(ctx, ids):
    with pytest.raises(ZeroDivisionError):
        with ctx.trace(lambda event: event.no_such_attribute) as trace:
            ctx.eval(ids)
            1 / 0
    assert isinstance(trace.error, AttributeError) and ctx.tracing is None


def test_a_failed_sink_holds_no_event(ctx, ids):
    def broken(event):
        holder = event.data  # noqa: F841 - a debugger would show it
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError) as caught:
        with ctx.trace(broken):
            ctx.eval(ids)
    frame = caught.tb
    while frame.tb_next:
        frame = frame.tb_next
    assert "event" not in frame.tb_frame.f_locals


def test_plugins_fail_by_name(ctx, ids, tmp_path):
    with pytest.raises(bitnet.PluginError, match="no_such_plugin"):
        with ctx.trace("jsonl:path=" + str(tmp_path / "a.jsonl"), "no_such_plugin"):
            pytest.fail("entered")
    assert (
        ctx.tracing is None
        and bitnet._trace.stats_of(bitnet._loader.lib.bitnet_trace_get_stats, ctx._pointer).n_sinks == 0
    )
    with pytest.raises(bitnet.PluginError, match="jsonl"):
        with ctx.trace("jsonl:path=/dev/full"):
            ctx.eval(ids)
    with pytest.raises(bitnet.InvalidError, match="no_such_stage"):
        with ctx.trace(print, select="*:*:no_such_stage"):
            pytest.fail("entered")
    ctx.eval(ids)


def test_wrong_arguments(ctx):
    with pytest.raises(bitnet.InvalidError, match="without a sink"):
        ctx.trace()
    with pytest.raises(bitnet.InvalidError, match="expected a callable or a plugin"):
        ctx.trace(5)
    with pytest.raises(bitnet.InvalidError, match="there is no event 'tensors'"):
        ctx.trace(print, events="tensors")
    with ctx.trace(lambda event: None):
        with pytest.raises(bitnet.InvalidError, match="already"):
            with ctx.trace(print):
                pytest.fail("entered")


def test_a_trace_is_entered_once(ctx, ids):
    trace = ctx.trace(lambda event: None)
    with trace:
        ctx.eval(ids)
    with pytest.raises(bitnet.InvalidError, match="entered once"):
        with trace:
            pytest.fail("entered")


def test_selection_is_put_back(ctx, ids):
    seen = []
    with ctx.trace(lambda event: seen.append(event.stage), select="*:*:q_proj"):
        ctx.eval(ids)
    assert set(seen) == {"q_proj"}
    seen.clear()
    with ctx.trace(lambda event: seen.append(event.stage)):
        ctx.eval([1])
    assert len(set(seen)) == 21


def test_model_trace_is_a_context_of_its_own(model, ids, tmp_path):
    with model.trace(
        f"jsonl:path={tmp_path / 'a.jsonl'}", context={"n_threads": 1, "kv_type": "f16"}, select="*:*:logits"
    ) as ctx:
        ctx.eval(ids, logits="all")
        logits = ctx.logits
    assert [r["blake3"] for r in records(tmp_path / "a.jsonl")] == [bitnet.blake3(row) for row in logits]
    assert records(tmp_path / "a.jsonl", "run")[0]["kv_type"] == "f16" and "closed" in repr(ctx)
    with pytest.raises(KeyError):
        with model.trace(lambda event: {}["none"]) as ctx:
            ctx.eval(ids)
    assert "closed" in repr(ctx)


def test_text_is_noted_as_the_prompt(demo, tmp_path):
    with demo.trace(f"jsonl:path={tmp_path / 'a.jsonl'}") as ctx:
        ctx.eval("2+2=")
    assert records(tmp_path / "a.jsonl", "run")[0]["prompt"] == "2+2="


def test_replacing_values(ctx, model, ids):
    target = np.linspace(-1, 1, 256, dtype=np.float32)

    def force(event):
        if event.position <= 11 < event.position + event.data.shape[0]:
            event.replace(target, 11 - event.position)

    seen = []
    with ctx.trace(force, lambda event: seen.append(event.overridden), select="*:1:attn_norm"):
        ctx.eval(ids)
    forced = ctx.logits.copy()
    with model.context(n_threads=1) as plain:
        plain.eval(ids)
        assert not (plain.logits == forced).all()
    assert seen == [True]
    ctx.reset()
    with pytest.raises(bitnet.InvalidError, match="3 values"):
        with ctx.trace(lambda event: event.replace(target[:3]), select="*:1:attn_norm"):
            ctx.eval(ids)
    with pytest.raises(bitnet.InvalidError, match="float64: expected f32"):
        with ctx.trace(lambda event: event.replace(target.astype(float)), select="*:1:attn_norm"):
            ctx.eval([1])


def test_a_sink_may_stop_the_evaluation(ctx, ids):
    with pytest.raises(bitnet.UserError, match="seen enough"):
        with ctx.trace(lambda event: event.stop("seen enough"), select="*:1:*"):
            ctx.eval(ids)
    assert ctx.position == 0
    ctx.eval(ids)


def test_sinks_are_let_go(model, ids):
    class Sink:
        def __call__(self, event):
            pass

    sink = Sink()
    alive = weakref.ref(sink)
    with model.context(n_threads=1) as ctx:
        with ctx.trace(sink):
            ctx.eval(ids)
        del sink
        gc.collect()
        assert alive() is None
    sink = Sink()
    alive = weakref.ref(sink)
    ctx = model.context(n_threads=1)
    ctx.trace(sink).__enter__()  # never left
    ctx.eval(ids)
    del sink, ctx
    gc.collect()
    assert alive() is None


def test_sinks_run_on_the_thread_that_evaluates(model, ids):
    names = []

    def work():
        with model.trace(
            lambda event: names.append((event.layer, threading.current_thread().name)),
            select="*:0-2:attn_norm",
            context={"n_threads": 2},
        ) as ctx:
            ctx.eval(ids)

    threads = [threading.Thread(target=work, name=f"worker {i}") for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert [layer for layer, name in names if name == f"worker {i}"] == [0, 1, 2]
    assert len(names) == 9


def test_plugins_of_the_environment_stay(tmp_path):
    printed = python(
        f"""
import bitnet
ctx = bitnet.Model({str(SMALL)!r}).context(n_threads=1)
ctx.eval([1])
seen = []
with ctx.trace(lambda event: seen.append(event.stage)) as trace:
    ctx.eval([2])
n = len(seen)
ctx.eval([3])
print(n, len(seen) - n, trace.stats.n_sinks)
ctx.close()
""",
        BITNET_TRACE_PLUGIN=f"jsonl:path={tmp_path / 'a.jsonl'}",
        BITNET_LIBRARY=bitnet.library_path(),
    )
    n = int(printed.split()[0])
    assert n > 50 and printed.split()[1:] == ["0", "2"]
    assert {r["seq"] for r in records(tmp_path / "a.jsonl")} == {0, 1, 2}


def test_readme_six_lines(tmp_path):
    """The program of the package's README, as a reader would copy it."""
    readme = (ROOT / "abi/python/README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) == 6
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "abi/python")},
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0].split()[:2] == ["-1", "embeddings"] and "logits" in lines[-2] and len(lines) > 50
