"""Context: logits against the numpy oracle and the program, zero-copy arrays and how long they live, state, errors, threads."""

import ctypes
import gc
import json
import os
import signal
import threading
import weakref

import numpy as np
import pytest

import bitnet
from bitnet import _loader
from bitnet_oracle import Oracle
from conftest import SMALL, cli, python


def address_of_row(ctx, i):
    pointer = _loader.lib.bitnet_get_logits_ith(ctx._pointer, i)
    return ctypes.cast(pointer, ctypes.c_void_p).value


def test_logits_are_the_oracles(ctx, ids):
    assert ctx.eval(ids, logits="all") == ids
    oracle = Oracle(SMALL).run(ids)
    logits, hidden = ctx.logits, ctx.hidden
    assert logits.shape == (len(ids), 512) and logits.dtype == np.float32
    # Engines that run freely: NMSE 1e-2 is the envelope; see tests/oracle for each stage at equal inputs.
    for ours, theirs in ((logits, oracle[-1, "logits"]), (hidden, oracle[-1, "final_norm"])):
        assert ((ours - theirs) ** 2).sum() < 1e-2 * (theirs**2).sum()
    log_softmax = logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(ctx.logprobs(ids[1:]), log_softmax[np.arange(len(ids) - 1), ids[1:]], rtol=1e-12)
    top = ctx.top(7, row=2)
    order = np.lexsort((np.arange(512), -logits[2]))[:7]
    assert top == [(int(i), float(logits[2, i])) for i in order]


def test_logits_are_the_programs_bit_for_bit(ctx, ids, tmp_path):
    tokens = ",".join(map(str, ids))
    cli("trace", "-m", SMALL, "--tokens", tokens, "--select", "*:*:logits", "-o", tmp_path / "cli.jsonl")
    records = [json.loads(line) for line in (tmp_path / "cli.jsonl").read_text().splitlines()]
    hashes = {r["seq"]: r["blake3"] for r in records if r["record"] == "tensor" and r["stage"] == "logits"}
    ctx.eval(ids, logits="all")
    assert {i: bitnet.blake3(row) for i, row in enumerate(ctx.logits)} == hashes
    # One by one, and on other settings: the same bits.
    with bitnet.Model(SMALL, isa="scalar").context(n_threads=2, n_batch=3) as other:
        for i, token in enumerate(ids):
            other.eval([token])
            assert bitnet.blake3(other.logits[0]) == hashes[i]


def test_arrays_are_the_librarys_memory(ctx, ids):
    ctx.eval(ids, logits="all")
    logits = ctx.logits
    for i in range(len(ids)):
        assert logits[i].ctypes.data == address_of_row(ctx, i)
    hidden = ctypes.cast(_loader.lib.bitnet_get_hidden_ith(ctx._pointer, 0), ctypes.c_void_p).value
    assert ctx.hidden.ctypes.data == hidden
    assert not logits.flags.writeable and not logits.flags.owndata
    with pytest.raises(ValueError):
        logits[0, 0] = 1
    with pytest.raises(ValueError):
        logits.flags.writeable = True
    copy = ctx.copy_logits(3)
    assert copy.flags.writeable and copy.ctypes.data != logits[3].ctypes.data and (copy == logits[3]).all()


def test_the_next_eval_overwrites_an_array_but_not_a_copy(ctx, ids):
    ctx.eval(ids)
    logits, copy = ctx.logits, ctx.logits.copy()
    assert (logits == copy).all()
    ctx.eval([77])
    assert ctx.logits.ctypes.data == logits.ctypes.data  # it has not moved
    assert (logits == ctx.logits).all() and not (logits == copy).all()


def test_memory_does_not_move_under_an_array(ctx, ids):
    ctx.eval(ids[:2])
    logits = ctx.logits
    row = logits[0, 10:20]  # made from it: counts too
    del logits
    before = row.copy()
    with pytest.raises(BufferError, match="keeps 10 rows of logits, more than the 1"):
        ctx.eval(ids[2:], logits="all")
    assert ctx.position == 2 and (row == before).all()
    ctx.eval(ids[2:3])
    ctx.eval(ids[3:4], logits="none")
    del row
    assert ctx.eval(ids[4:], logits="all") == ids[4:]
    logits = ctx.logits
    ctx.truncate(2)
    ctx.eval(ids[4:], logits="all")  # no more than before: it stays where it is
    assert ctx.logits.ctypes.data == logits.ctypes.data


def test_arrays_outlive_context_and_model(ids):
    model = bitnet.Model(SMALL)
    ctx = model.context(n_threads=1)
    ctx.eval(ids, logits="all")
    logits, row = ctx.logits, ctx.logits[-1][::2]
    expected, expected_row = logits.copy(), row.copy()
    handle = weakref.ref(ctx._handle)
    del model
    gc.collect()
    ctx.eval(ids[:1])  # a context keeps its model alive
    ctx.truncate(0)
    ctx.eval(ids, logits="all")
    del ctx
    gc.collect()
    assert handle() is not None
    assert (logits == expected).all()
    del logits
    gc.collect()
    assert handle() is not None and (row == expected_row).all()
    del row
    gc.collect()
    assert handle() is None


def test_close_waits_for_arrays(model, ids):
    ctx = model.context(n_threads=1)
    ctx.eval(ids)
    logits, copy = ctx.logits, ctx.copy_logits()
    handle = weakref.ref(ctx._handle)
    ctx.close()
    ctx.close()
    assert handle() is not None and (logits[0] == copy).all()
    with pytest.raises(bitnet.InvalidError, match="closed"):
        ctx.eval(ids)
    assert repr(ctx) == "<bitnet.Context, closed>"
    del logits
    assert handle() is None


def test_contexts_and_models_do_not_leak():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def once():
        with bitnet.Model(SMALL, copy=True).context(n_threads=1) as ctx:
            ctx.eval([1, 2, 3], logits="all")
            ctx.logits.sum()
            with ctx.trace(lambda event: None):
                ctx.eval([4])

    for _ in range(10):
        once()
    before = resident()
    for _ in range(40):
        once()
    assert resident() - before < 8e6  # one context is 8 MB


def test_text_and_bos(demo):
    with demo.context(n_threads=1) as ctx:
        assert ctx.eval("2+2=") == demo.tokenize("2+2=")
        assert ctx.eval("4") == demo.tokenize("4", add_bos=False)  # not at the front: no BOS
        ctx.reset()
        assert ctx.eval("2+2=", add_bos=False) == demo.tokenize("2+2=", add_bos=False)


def test_embeddings_in_place_of_tokens(ctx, ids):
    ctx.eval(ids)
    expected = ctx.logits.copy()
    ctx.reset()
    table = Oracle(SMALL).embedding_table().astype(np.float32)
    assert ctx.eval(embeddings=table[ids]) == []
    assert (ctx.logits == expected).all()
    ctx.reset()
    ctx.eval(embeddings=np.asfortranarray(table[ids].astype(np.float64)))
    assert (ctx.logits == expected).all()
    with pytest.raises(bitnet.InvalidError, match=r"embeddings has shape \(12, 255\): expected \(n, 256\)"):
        ctx.eval(embeddings=table[ids][:, 1:])
    with pytest.raises(bitnet.InvalidError, match="either"):
        ctx.eval()


def test_state(ctx, ids):
    ctx.eval(ids[:6])
    saved, position = ctx.save(), ctx.position
    fork = ctx.fork()
    ctx.eval(ids[6:])
    expected = ctx.logits.copy()
    assert ctx.position == 12 and fork.position == position == 6
    fork.eval(ids[6:])
    assert (fork.logits == expected).all()
    ctx.truncate(6)
    ctx.eval(ids[6:])
    assert (ctx.logits == expected).all()
    ctx.reset()
    assert ctx.position == 0
    ctx.restore(bytearray(saved))
    assert ctx.position == 6
    with pytest.raises(bitnet.InvalidError):
        ctx.logits  # not part of the state
    ctx.eval(np.asarray(ids[6:]))
    assert (ctx.logits == expected).all()
    damaged = bytearray(saved)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(bitnet.FormatError):
        ctx.restore(damaged)
    assert ctx.position == 12 and ctx.capacity == 512 and ctx.memory > 1e6
    assert repr(ctx).startswith("<bitnet.Context at position 12 of 512, ")


def test_failures_are_exceptions_and_change_nothing(ctx, model, ids):
    ctx.eval(ids)
    expected = ctx.logits.copy()
    for tokens, error in (
        ([512], bitnet.InvalidError),
        ([-1], bitnet.InvalidError),
        ([2**31], bitnet.InvalidError),
        ([1.5], bitnet.InvalidError),
        ([], bitnet.InvalidError),
        ([1] * 501, bitnet.ContextFullError),
    ):
        with pytest.raises(error):
            ctx.eval(tokens)
    with pytest.raises(bitnet.InvalidError, match="logits is 'some': expected 'last', 'all', 'none'"):
        ctx.eval([1], logits="some")
    assert ctx.position == 12 and (ctx.logits == expected).all()
    with pytest.raises(bitnet.InvalidError, match="k is 0"):
        ctx.top(0)
    with pytest.raises(bitnet.InvalidError, match="row 1"):
        ctx.top(1, row=1)
    with pytest.raises(bitnet.InvalidError):
        ctx.logprobs([1, 2])
    ctx.eval([1], logits="none")
    with pytest.raises(bitnet.InvalidError, match="kept 0 rows"):
        ctx.logits
    with pytest.raises(bitnet.UnsupportedError):
        model.context(device_id=1)
    with pytest.raises(bitnet.InvalidError, match="kv_type is 'f64': expected None, 'f32', 'f16'"):
        model.context(kv_type="f64")
    with pytest.raises(bitnet.InvalidError):
        model.context(n_threads=-1)


def test_what_c_would_cut_is_refused(ctx, model, ids):
    ctx.eval(ids)
    for call in (
        lambda: model.context(n_ctx=2**32 + 5),
        lambda: ctx.truncate(2**32),
        lambda: ctx.top(1, row=2**32),
        lambda: ctx.copy_logits(-(2**31) - 1),
        lambda: model.token_text(2**32),
        lambda: list(ctx.generate(max_tokens=2**32 + 1)),
    ):
        with pytest.raises(bitnet.InvalidError, match="out of range"):
            call()
    for call in (
        lambda: bitnet.Model(f"{SMALL}\0.gguf"),
        lambda: ctx.generate(stop="a\0b"),
        lambda: bitnet.Trace("a\0b"),
        lambda: ctx.trace("jsonl:path=a\0b").__enter__(),
        lambda: bitnet.Model(SMALL, semantics="eps=1e-6\0"),
    ):
        with pytest.raises(bitnet.InvalidError, match="a NUL would end it"):
            call()
    assert ctx.position == 12 and len(list(ctx.generate(max_tokens=2))) == 2


def test_cancel(ctx, ids):
    asked = []
    with pytest.raises(bitnet.CancelledError):
        ctx.eval(ids, cancel=lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2 and ctx.position == 0

    def broken():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ctx.eval(ids, cancel=broken)
    assert ctx.position == 0
    ctx.eval(ids)


def test_ctrl_c_ends_an_evaluation(ctx, ids):
    def interrupt(event):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        with ctx.trace(interrupt, select="0:1:attn_norm"):
            ctx.eval(ids)
            pytest.fail("the evaluation went on")
    assert ctx.position == 0
    ctx.eval(ids)


def test_threads_share_a_model_and_release_the_gil(model, ids):
    with model.context(n_threads=1) as ctx:
        ctx.eval(ids, logits="all")
        expected = ctx.logits.copy()
    results, failures = [], []

    def work():
        try:
            for _ in range(5):
                with model.context(n_threads=1) as ctx:
                    ctx.eval(ids, logits="all")
                    results.append((ctx.logits == expected).all())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(results) == 20 and all(results)


def test_a_context_in_use_is_busy(ctx, ids):
    inside, leave = threading.Event(), threading.Event()

    def hold():
        inside.set()
        leave.wait(20)
        return False

    thread = threading.Thread(target=lambda: ctx.eval(ids, cancel=hold))
    thread.start()
    assert inside.wait(20)
    with pytest.raises(bitnet.BusyError):
        ctx.eval(ids)
    leave.set()
    thread.join()
    assert ctx.position == len(ids)


def test_a_program_that_ends_in_the_middle_ends_its_traces(tmp_path):
    python(
        f"""
import bitnet
ctx = bitnet.Model({str(SMALL)!r}).context()
ctx.eval([1, 2, 3])
keep = [ctx, ctx.logits]
rest = ctx.generate(max_tokens=9)
next(rest)
try:
    ctx.logits
except bitnet.BusyError:
    keep.append(rest)
keep.append(keep)
""",
        BITNET_TRACE_PLUGIN=f"jsonl:path={tmp_path / 'a.jsonl'}",
        BITNET_LIBRARY=bitnet.library_path(),
    )
    records = [json.loads(line)["record"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert records[0] == "run" and records[-1] == "run_end"


def test_certified_head_counts(ids):
    with bitnet.Model(SMALL).context(n_threads=1, head="certified") as ctx:
        ctx.eval(ids)
        tokens = [t.id for t in ctx.generate(max_tokens=6)]
        stats = ctx.head_stats
    assert tokens == [t.id for t in bitnet.Model(SMALL).generate(ids, max_tokens=6)]
    assert stats.n_certified + stats.n_full >= len(tokens) - 1


def test_dense_weights_change_no_bit(ids):
    with bitnet.Model(SMALL).context(n_threads=1, weights="dense") as dense, bitnet.Model(SMALL).context(n_threads=1) as plain:
        for token in ids:
            dense.eval([token])
            plain.eval([token])
            assert np.array_equal(np.asarray(dense.logits), np.asarray(plain.logits))
        stats = dense.weight_stats
        assert stats.dense == (stats.n_bytes > 0) == (stats.build_ns > 0)
        assert plain.weight_stats == bitnet.WeightStats(False, 0, 0)
    with pytest.raises(bitnet.InvalidError, match="weights is 'thin': expected 'in-place', 'dense'"):
        bitnet.Model(SMALL).context(weights="thin")
