"""The modeltracer plugin beside another engine: what it makes of tensors that are emitted by hand."""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

import numpy as np
import pytest

from modeltracer_trace import read_records

N_HEAD, N_LAYER, N_EMBD = 2, 3, 8
POINTS = ("attn_norm", "attn_out", "attn_residual", "ffn_out", "layer_out")


class TraceParams(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        *((name, c_char_p) for name in ("engine", "engine_version", "model_path", "model_hash", "architecture")),
        *((name, c_char_p) for name in ("hyperparameters", "semantics", "isa", "kv_type", "plugins", "selection")),
        ("prompt", c_char_p),
        ("n_prompt_bytes", c_size_t),
        ("tokens", c_void_p),
        ("n_tokens", c_size_t),
        ("n_threads", c_int32),
        ("n_batch", c_int32),
    )


class TraceTensor(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("stage", c_int32),
        ("name", c_char_p),
        ("layer", c_int32),
        ("position", c_int32),
        ("dtype", c_int32),
        ("n_rows", c_uint32),
        ("n_dims", c_uint32),
        ("n_inputs", c_uint32),
        ("shape", c_uint64 * 4),
        ("row_stride", c_uint64),
        ("data", c_void_p),
        ("inputs", c_void_p),
        ("kernel", c_char_p),
        ("ns", c_uint64),
    )


class KvState(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("n_valid", c_int32),
        ("n_max", c_int32),
        ("oldest", c_int32),
        *((name, c_uint64) for name in ("n_bytes", "n_bytes_used", "n_hits", "n_misses", "n_evicted")),
    )


FUNCTIONS = {
    "bitnet_trace_open": (POINTER(TraceParams), POINTER(c_void_p)),
    "bitnet_trace_step": (c_void_p, c_int32, POINTER(c_int32), c_size_t),
    "bitnet_trace_emit": (c_void_p, POINTER(TraceTensor)),
    "bitnet_trace_kv": (c_void_p, POINTER(KvState)),
    "bitnet_trace_end": (c_void_p,),
}


class Foreign:
    """An engine of three layers and two heads whose values are small random numbers."""

    def __init__(self, library, path, config=""):
        self.library, self.dll, self.handle, self.path = library, library.dll, c_void_p(), path
        for name, arguments in FUNCTIONS.items():
            function = getattr(self.dll, name)
            function.restype, function.argtypes = c_int32, arguments
        self.dll.bitnet_trace_close.argtypes, self.dll.bitnet_trace_close.restype = (c_void_p,), None
        params = TraceParams(struct_size=ctypes.sizeof(TraceParams), engine=b"by-hand", selection=b"*,attn_scores")
        params.plugins = f"modeltracer:path={path}{config}".encode()
        library.check(self.dll.bitnet_trace_open(byref(params), byref(self.handle)))
        self.rng = np.random.default_rng(3)

    def emit(self, name, layer, position, values):
        values = np.ascontiguousarray(values, np.float32)
        tensor = TraceTensor(struct_size=ctypes.sizeof(TraceTensor), name=name.encode(), layer=layer, position=position)
        tensor.n_rows, tensor.n_dims = 1, values.ndim
        tensor.shape[: values.ndim] = values.shape
        tensor.data = values.ctypes.data
        self.library.check(self.dll.bitnet_trace_emit(self.handle, byref(tensor)))

    def step(self, position, weights_of=None, changes=None):
        """One token; `weights_of(layer, n_kv)` are the heads' attention, `changes` {(stage, layer): values}."""
        self.library.check(self.dll.bitnet_trace_step(self.handle, position, (c_int32 * 1)(7), 1))
        for layer in range(N_LAYER):
            heads = weights_of(layer, position + 1) if weights_of else None
            if heads is None:
                heads = self.rng.dirichlet(np.ones(position + 1), N_HEAD)
            self.emit("attn_scores", layer, position, np.full((N_HEAD, position + 3), -np.inf))
            self.emit("attn_scores_softmax", layer, position, heads)
            for stage in POINTS:
                values = (changes or {}).get((stage, layer), self.rng.standard_normal(N_EMBD))
                self.emit(stage, layer, position, values)

    def kv(self, n_valid, n_hits, n_evicted, oldest):
        state = KvState(ctypes.sizeof(KvState), n_valid, 8, oldest, 4096, 512 * n_valid, n_hits, 1, n_evicted)
        self.library.check(self.dll.bitnet_trace_kv(self.handle, byref(state)))

    def finish(self):
        self.library.check(self.dll.bitnet_trace_end(self.handle))
        self.dll.bitnet_trace_close(self.handle)
        records = read_records(self.path)
        return records, [record for record in records if record["record"] == "anomaly"]


@pytest.fixture
def foreign(library, tmp_path):
    return Foreign(library, tmp_path / "foreign.json")


def test_a_healthy_engine(foreign):
    for position in range(12):
        foreign.step(position)
        foreign.kv(position + 1, position, 0, 0)
    records, anomalies = foreign.finish()
    assert anomalies == []  # -inf in scores is a mask
    (summary,) = (r for r in records if r["record"] == "summary")
    nine = summary["summary"]
    assert (nine["total_forwards"], nine["kv_steps"]) == (12, 12)
    assert nine["attention_traces"] == 12 * N_LAYER * N_HEAD
    assert nine["logit_traces"] == nine["quant_warnings"] == 0  # nobody has the model
    assert records[0]["record"] == "run" and records[0]["engine"] == "by-hand"
    assert len([r for r in records if r["record"] == "activation"]) == 12 * N_LAYER


def test_an_attention_sink(foreign):
    def sunk(layer, n_kv):
        heads = np.full((N_HEAD, n_kv), 0.3 / max(n_kv - 1, 1))
        heads[:, 0] = 0.7
        return heads if layer == 1 else None

    for position in range(14):
        foreign.step(position, sunk)
    _, anomalies = foreign.finish()
    assert [(a["class"], a["layer"], a["seq"]) for a in anomalies] == [("attention_sink", 1, 10)]
    assert anomalies[0]["value"] == pytest.approx(0.7) and anomalies[0]["limit"] == 0.3


def test_a_sliding_window_gives_positions_up(foreign):
    for position in range(12):
        foreign.step(position)
        foreign.kv(min(position + 1, 8), min(position, 8), int(position >= 8), max(position - 7, 0))
    records, anomalies = foreign.finish()
    assert [(a["class"], a["seq"]) for a in anomalies] == [("kv_eviction_rate", 8)]
    kv = [r for r in records if r["record"] == "kv"]
    assert [r["oldest_position"] for r in kv] == [0] * 8 + [1, 2, 3, 4]
    assert {r["fragmentation"] for r in kv} == {0}


@pytest.mark.parametrize(("bad", "name"), [(np.nan, "nan"), (-np.inf, "inf"), (-2e6, "explosion")])
def test_a_bad_value(foreign, bad, name):
    values = np.ones(N_EMBD)
    values[[3, 6]] = bad
    foreign.step(0)
    foreign.step(1, changes={("ffn_out", 1): values, ("layer_out", 1): values, ("attn_norm", 2): values})
    foreign.step(2)
    records, anomalies = foreign.finish()
    assert [(a["class"], a["seq"], a["layer"], a["stage"], a["index"]) for a in anomalies] == [
        (name, 1, 1, "ffn_out", 3)
    ]
    follows = 3 if name == "explosion" else 2  # two stages, and the residual that dominates because of it
    assert [r["propagated"] for r in records if r["record"] == "forward"] == [0, follows, 0]
    assert [r["anomalies"] for r in records if r["record"] == "forward"] == [0, 1, 0]
