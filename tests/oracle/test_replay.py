"""Replay through the library against the oracle: operations on what bitnet.cpp recorded, also under other semantics."""

import ctypes
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

import numpy as np
import pytest

from bitnet_oracle import LAYER_STAGES, LINEAR_TENSORS, Oracle
from library import LibraryError
from tolerances import REL_L2_MAX, STAGE_CLASS, compare_rel_l2, compare_rope

DTYPE_F32, DTYPE_I32 = 0, 4
SCORES = ("attn_scores", "attn_scores_softmax")


class Rows(Structure):
    _fields_ = (
        ("stage", c_int32),
        ("dtype", c_int32),
        ("n_rows", c_uint64),
        ("row_elements", c_uint64),
        ("row_stride", c_uint64),
        ("data", c_void_p),
    )


class ReplayParams(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("stage", c_int32),
        ("layer", c_int32),
        ("n_inputs", c_uint32),
        ("inputs", POINTER(Rows)),
        ("positions", POINTER(c_int32)),
    )


class Replay:
    def __init__(self, library, model, semantics=""):
        self.library, self.dll, self.model, self.handle = library, library.dll, model, c_void_p()
        for name, result, arguments in (
            ("bitnet_replay_create", c_int32, (c_void_p, c_char_p, POINTER(c_void_p))),
            ("bitnet_replay_free", None, (c_void_p,)),
            ("bitnet_replay_run", c_int32, (c_void_p, POINTER(ReplayParams), c_void_p, POINTER(c_size_t))),
        ):
            function = getattr(self.dll, name)
            function.restype, function.argtypes = result, arguments
        library.check(self.dll.bitnet_replay_create(model.handle, semantics.encode(), byref(self.handle)))
        self.numbers = {self.dll.bitnet_stage_name(i).decode(): i for i in range(1, 23)}

    def __del__(self):
        self.dll.bitnet_replay_free(self.handle)

    def run(self, layer, stage, inputs, positions=None):
        """`inputs` {stage name or "ids": rows} -> all output values, flat float32."""
        rows, kept = [], []
        for name, values in inputs.items():
            dtype = DTYPE_I32 if name == "ids" else DTYPE_F32
            flat = np.asarray(values, np.int32 if name == "ids" else np.float32).reshape(len(values), -1)
            kept.append(np.ascontiguousarray(flat))
            number = 0 if name == "ids" else self.numbers[name]
            pointer = kept[-1].ctypes.data
            rows.append(Rows(number, dtype, len(flat), flat.shape[1], flat.shape[1] * 4, pointer))
        array = (Rows * len(rows))(*rows)
        params = ReplayParams(ctypes.sizeof(ReplayParams), self.numbers[stage], layer, len(rows), array, None)
        if positions is not None:
            params.positions = (c_int32 * len(positions))(*positions)
        n = c_size_t()
        self.library.check(self.dll.bitnet_replay_run(self.handle, byref(params), None, byref(n)))
        out = np.empty(n.value, np.float32)
        self.library.check(self.dll.bitnet_replay_run(self.handle, byref(params), out.ctypes.data, byref(n)))
        return out


def places(oracle):
    yield -1, "embeddings"
    for layer in range(oracle.n_layer):
        for stage in oracle.block_stages():
            yield layer, stage
    yield -1, "final_norm"
    yield -1, "logits"


def check(oracle, replay, recorded, layer, stage, allowed=None, positions=None):
    keys = oracle.inputs_of(layer, stage)
    out = replay.run(layer, stage, {key[1]: recorded[key] for key in keys}, positions)
    expected = oracle.stage_from_inputs(layer, stage, recorded, positions)
    n = len(expected)
    if stage in SCORES:  # rows of n_head * (position + 1), the oracle's are filled up
        heads = expected.reshape(n, -1, n)
        expected = np.concatenate([heads[r, :, : r + 1].reshape(-1) for r in range(n)])[None]
        out = out[None]
    out = out.reshape(expected.shape)
    name = f"{stage} of layer {layer}"
    if STAGE_CLASS[stage] == "rope":
        verdict = compare_rope(name, expected, out, np.arange(n) if positions is None else positions)
    else:
        verdict = compare_rel_l2(name, expected, out, REL_L2_MAX[STAGE_CLASS[stage]] if allowed is None else allowed)
    assert verdict.ok, verdict.text


@pytest.mark.parametrize(
    "semantics, oracles",
    [
        ("", ""),
        ("activation=silu,rope=norm,eps=1e-3,theta=10000", None),
        ("activation=gelu,scale=divide", None),
        ("activation=relu,kv=f16", None),
        ("sub_norms=off", None),
        ("quant=none", "act_quant=none"),
        ("kv=f16,attn_q=f16,head_input=f16", "kv=f16,f16_q=on,f16_head_input=on"),
    ],
)
def test_every_operation(library, small_gguf, bitnetcpp, semantics, oracles):
    oracle = Oracle(small_gguf, semantics if oracles is None else oracles)
    replay = Replay(library, library.load(small_gguf), semantics)
    n = 0
    for layer, stage in places(oracle):
        check(oracle, replay, bitnetcpp, layer, stage)
        n += 1
    assert n == 3 + oracle.n_layer * (len(LAYER_STAGES) - (2 if "sub_norms=off" in semantics else 0))


def test_positions(library, small_gguf, bitnetcpp):
    oracle, replay = Oracle(small_gguf), Replay(library, library.load(small_gguf), "rope_offset=1")
    for stage in ("q_rope", "k_rope"):
        q = {oracle.inputs_of(1, stage)[0][1]: bitnetcpp[oracle.inputs_of(1, stage)[0]]}
        positions = [7, 300, 0, 4, 9, 100, 2, 1]
        out = replay.run(1, stage, q, positions).reshape(8, -1)
        expected = oracle.stage_from_inputs(1, stage, bitnetcpp, np.array(positions) + 1)
        verdict = compare_rope(stage, expected, out, positions)
        assert verdict.ok, verdict.text


# ---- alternatives that the oracle does not have, by formulas of their own ----


@pytest.fixture(scope="module")
def oracle(small_gguf):
    return Oracle(small_gguf)


@pytest.fixture(scope="module")
def model(library, small_gguf):
    return library.load(small_gguf)


def bf16(x):
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def f16(x):
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float64)


def quantised(x, block=None, rounding=np.rint):
    """Codes and their scales, both [n, width], by the float32 rule, for blocks of `block` elements of a row."""
    x = np.asarray(x, np.float32)
    absmax = np.abs(x).reshape(len(x), -1, block or x.shape[1]).max(axis=2)
    s = np.repeat(np.float32(127) / np.maximum(absmax, np.float32(1e-5)), block or x.shape[1], axis=1)
    return rounding(x * s).astype(np.float64), s.astype(np.float64)


def linear_by(semantics, x, w, scale):
    """[n, n_out] in float64 from the formula of this alternative."""
    w = w.astype(np.float64)
    if semantics in ("quant=block32_int8", "quant=block256_int8"):
        codes, s = quantised(x, int(semantics[11:-5]))
        return codes / s @ w.T * scale
    if semantics == "quant=tensor_int8":
        codes, s = quantised(np.asarray(x).reshape(1, -1))
        return (codes / s).reshape(x.shape) @ w.T * scale
    if semantics == "quant=f16":
        return f16(x) @ w.T * scale
    if semantics == "round=truncate":
        codes, s = quantised(x, rounding=np.trunc)
        return codes / s @ w.T * scale
    codes, s = quantised(x)
    if semantics == "quant=dequantised":
        return codes / s @ w.T * scale
    if semantics.startswith("i2s_map="):
        values = np.array([{"-": -1, "0": 0, "+": 1}[c] for c in semantics[8:]])
        return codes / s @ values[w.astype(int) + 1].T * scale
    of_type = {"scale_type=f16": np.float16(scale), "scale_type=bf16": bf16(scale), "scale=none": 1}
    return codes / s @ w.T * np.float64(of_type[semantics])


@pytest.mark.parametrize("semantics", ["quant=block32_int8", "quant=block256_int8", "quant=tensor_int8", "quant=f16",
                                       "quant=dequantised", "round=truncate", "scale_type=f16", "scale_type=bf16",
                                       "scale=none", "i2s_map=+0-", "i2s_map=0+-", "i2s_map=-+0"])
@pytest.mark.parametrize("stage", LINEAR_TENSORS)
def test_linear_alternatives(library, model, oracle, bitnetcpp, semantics, stage):
    (key,) = oracle.inputs_of(1, stage)
    x = bitnetcpp[key]
    out = Replay(library, model, semantics).run(1, stage, {key[1]: x}).reshape(len(x), -1)
    w, scale = oracle.weights(1, stage)
    verdict = compare_rel_l2(f"{stage} {semantics}", linear_by(semantics, x, w, np.float64(scale)), out, 1e-6)
    assert verdict.ok, verdict.text


@pytest.mark.parametrize(
    "semantics", ["kv_heads=interleaved", "kv_swap=attention", "attn_scale=none", "attn_scale=full"]
)
def test_attention_alternatives(library, model, oracle, bitnetcpp, semantics):
    names = ("q_rope", "k_rope", "v_proj")
    q, k, v = (bitnetcpp[0, name].astype(np.float64).reshape(8, -1, oracle.head_dim) for name in names)
    n_head, n_kv = q.shape[1], k.shape[1]
    interleaved = semantics == "kv_heads=interleaved"
    heads = np.arange(n_head) % n_kv if interleaved else np.arange(n_head) // (n_head // n_kv)
    if semantics == "kv_swap=attention":
        k, v = v, k
    factor = {"attn_scale=none": 1, "attn_scale=full": 1 / oracle.head_dim}.get(semantics, oracle.head_dim**-0.5)
    scores = np.einsum("qhd,khd->qhk", q, k[:, heads]) * factor
    scores[np.broadcast_to(np.triu(np.ones((8, 8), bool), 1)[:, None], scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    expected = np.einsum("qhk,khd->qhd", weights / weights.sum(axis=2, keepdims=True), v[:, heads]).reshape(8, -1)
    inputs = {name: bitnetcpp[0, name] for name in names}
    out = Replay(library, model, semantics).run(0, "attn_context", inputs).reshape(8, -1)
    verdict = compare_rel_l2(semantics, expected, out, REL_L2_MAX["attention"])
    assert verdict.ok, verdict.text


def attention_parts(oracle, bitnetcpp, layer):
    """F16 queries, keys and values as [position, head, dim], and the scores of each query in float32."""
    q, k, v = (f16(bitnetcpp[layer, name]).reshape(8, -1, oracle.head_dim) for name in ("q_rope", "k_rope", "v_proj"))
    shared = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    return (np.einsum("qhd,khd->qhk", q, k) * oracle.head_dim**-0.5).astype(np.float32), v


def test_f16_probabilities(library, model, oracle, bitnetcpp):
    scores, v = attention_parts(oracle, bitnetcpp, 1)
    expected = np.zeros((8, scores.shape[1], oracle.head_dim))
    for position in range(8):
        seen = scores[position, :, : position + 1].astype(np.float64)
        weights = np.exp(seen - seen.max(axis=1, keepdims=True))
        weights = f16(weights / weights.sum(axis=1, keepdims=True))
        expected[position] = np.einsum("hk,khd->hd", weights, v[: position + 1])
    inputs = {name: bitnetcpp[1, name] for name in ("q_rope", "k_rope", "v_proj")}
    out = Replay(library, model, "kv=f16,attn_q=f16,attn_p=f16").run(1, "attn_context", inputs).reshape(8, -1)
    verdict = compare_rel_l2("attn_p=f16", expected.reshape(8, -1), out, REL_L2_MAX["attention"])
    assert verdict.ok, verdict.text
    plain = Replay(library, model, "kv=f16,attn_q=f16").run(1, "attn_context", inputs).reshape(8, -1)
    assert not compare_rel_l2("attn_p=f16", expected.reshape(8, -1), plain, 10 * REL_L2_MAX["attention"]).ok


def test_attention_in_one_pass_with_f16_sums(library, model, oracle, bitnetcpp):
    scores, v = attention_parts(oracle, bitnetcpp, 1)
    expected = np.zeros((8, scores.shape[1], oracle.head_dim))
    for position, head in np.ndindex(expected.shape[:2]):
        sums, largest, total = np.zeros(oracle.head_dim, np.float16), -np.inf, 0.0
        for cell in range(position + 1):
            score = float(scores[position, head, cell])
            new = max(largest, score)
            kept, weight = np.exp(largest - new), np.exp(score - new)
            sums = (sums.astype(np.float64) * kept).astype(np.float16)
            sums = (sums.astype(np.float64) + v[cell, head] * np.float32(weight)).astype(np.float16)
            largest, total = new, total * kept + weight
        expected[position, head] = sums.astype(np.float64) / total
    inputs = {name: bitnetcpp[1, name] for name in ("q_rope", "k_rope", "v_proj")}
    out = Replay(library, model, "kv=f16,attn_q=f16,attn_sum=f16").run(1, "attn_context", inputs).reshape(8, -1)
    # A few sums are next to a tie, where exp decides; the rest are the same.
    verdict = compare_rel_l2("attn_sum=f16", expected.reshape(8, -1), out, 1e-4)
    assert verdict.ok, verdict.text
    assert np.mean(np.abs(expected.reshape(8, -1) - out) <= 1e-6 * np.abs(out)) > 0.98
    plain = Replay(library, model, "kv=f16,attn_q=f16").run(1, "attn_context", inputs).reshape(8, -1)
    assert not compare_rel_l2("attn_sum=f16", expected.reshape(8, -1), plain, 2e-4).ok


def test_swapped_weights(library, model, oracle, bitnetcpp):
    replay = Replay(library, model, "kv_swap=weights")
    x = bitnetcpp[2, "attn_norm"]
    for stage, other in (("k_proj", "v_proj"), ("v_proj", "k_proj")):
        out = replay.run(2, stage, {"attn_norm": x}).reshape(8, -1)
        verdict = compare_rel_l2(stage, oracle.linear(2, other, x.astype(np.float64)), out, REL_L2_MAX["linear"])
        assert verdict.ok, verdict.text


def test_bf16_stages_are_bf16(library, model, oracle, bitnetcpp):
    replay = Replay(library, model, "profile=hf-bf16")
    for layer, stage in places(oracle):
        keys = oracle.inputs_of(layer, stage)
        out = replay.run(layer, stage, {key[1]: bitnetcpp[key] for key in keys})
        assert np.array_equal(out, bf16(out)), stage
        if stage in SCORES:
            continue
        verdict = compare_rel_l2(stage, oracle.stage_from_inputs(layer, stage, bitnetcpp), out.reshape(8, -1), 1.5e-2)
        assert verdict.ok, verdict.text


def test_wrong_requests_are_errors(library, model):
    replay = Replay(library, model)
    with pytest.raises(LibraryError, match="INVALID.*attn_norm.*missing"):
        replay.run(0, "q_proj", {})
    with pytest.raises(LibraryError, match="INVALID.*255 elements of attn_norm: expected 256"):
        replay.run(0, "q_proj", {"attn_norm": np.zeros((2, 255))})
    with pytest.raises(LibraryError, match="INVALID.*token 1 is 512: expected 0 to 511"):
        replay.run(-1, "embeddings", {"ids": [0, 512]})
