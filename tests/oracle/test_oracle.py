"""Properties that the oracle must have by itself, on random models of every layout."""

import numpy as np
import pytest

from bitnet_oracle import (
    LAYER_STAGES,
    LINEAR_TENSORS,
    Oracle,
    Semantics,
    accumulate,
    attention_scores,
    ffn_activation,
    quantize_activations,
    rms_norm,
    rope,
    softmax,
    valid_scores,
)
from make_gguf import write_model

IDS = [7, 300, 7, 64, 0, 319]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "m.gguf", seed=1)


@pytest.fixture(scope="module")
def record(path):
    return Oracle(path).run(IDS)


def test_quantiser_by_hand():
    x = np.array([[1.27, -0.005, 0.015, 0.025, -1.27], [0, 0, 0, 0, 0]])
    codes, scale = quantize_activations(x * 2)
    assert codes.tolist() == [[127, 0, 2, 2, -127], [0] * 5]  # halves go to the even code
    assert scale[1, 0] == 127 / 1e-5
    assert quantize_activations(np.float32([[1e-7, 1e-5]]))[0].tolist() == [[1, 127]]


def test_norm_by_hand():
    x = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(rms_norm(x, np.array([1.0, 10.0]), 12.5), [[0.6, 8.0]], rtol=1e-15)


def test_rope_by_hand():
    x = np.array([[[1.0, 2.0, 3.0, 4.0]]])
    angles = 3.0, 3.0 / 10  # position 3, theta 100
    for layout, (i, j) in {"neox": ((0, 1), (2, 3)), "norm": ((0, 2), (1, 3))}.items():
        out = rope(x, [3], 100.0, layout)[0, 0]
        for pair, angle in enumerate(angles):
            a, b = x[0, 0, i[pair]], x[0, 0, j[pair]]
            rotated = (a + 1j * b) * np.exp(1j * angle)
            np.testing.assert_allclose([out[i[pair]], out[j[pair]]], [rotated.real, rotated.imag], rtol=1e-14)


def test_activations_by_hand():
    gate, up = np.array([-2.0, 0.0, 3.0]), np.array([5.0, 5.0, 2.0])
    u = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    expected = {
        "relu2": [0, 0, 18],
        "relu": [0, 0, 6],
        "silu": [-10 / (1 + np.e**2), 0, 6 / (1 + np.e**-3)],
        "gelu": gate * up / (1 + np.exp(-2 * u)),  # (1 + tanh u) / 2 written as a sigmoid
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(ffn_activation(gate, up, kind), values, rtol=1e-12)


def test_attention_by_hand():
    q = np.arange(24.0).reshape(3, 4, 2) / 10
    k = np.arange(12.0).reshape(3, 2, 2) / 10
    scores = attention_scores(q, k, np.arange(3))
    assert scores[2, 3, 1] == pytest.approx(q[2, 3] @ k[1, 1] / np.sqrt(2))  # query head 3 of 4 reads KV head 1 of 2
    assert np.isneginf(scores[0, :, 1:]).all()
    probabilities = softmax(scores)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-15)
    assert (probabilities[0, :, 1:] == 0).all()


def test_accumulators_are_exact():
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (3, 6912), dtype=np.int8)
    weights = rng.integers(-1, 2, (50, 6912), dtype=np.int8)
    assert np.array_equal(accumulate(codes, weights), codes.astype(np.int64) @ weights.T.astype(np.int64))
    assert accumulate(np.full((1, 6912), 127, np.int8), np.ones((1, 6912), np.int8)).item() == 127 * 6912


def test_run_returns_every_stage_in_order(record):
    stages = [key for key in record if "." not in key[1]]
    blocks = [(layer, stage) for layer in range(2) for stage in LAYER_STAGES]
    assert stages == [(-1, "embeddings"), *blocks, (-1, "final_norm"), (-1, "logits")]
    assert all(values.ndim == 2 and len(values) == len(IDS) for values in record.values())
    companions = {stage for layer, stage in record if layer == 0 and "." in stage}
    quantised = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm")
    assert companions == {f"{s}.{kind}" for s in quantised for kind in ("codes", "scale")} | {
        f"{s}.acc" for s in LINEAR_TENSORS
    }


def test_forcing_its_own_inputs_changes_nothing(path, record):
    oracle = Oracle(path)
    for layer, stage in record:
        if "." not in stage and stage != "embeddings":
            assert np.array_equal(oracle.stage_from_inputs(layer, stage, record), record[layer, stage])
    layer_1 = oracle.layer(1, record[0, "layer_out"])
    assert all(np.array_equal(values, record[key]) for key, values in layer_1.items())


def test_later_tokens_do_not_reach_back(path, record):
    shorter = Oracle(path).run(IDS[:3])
    for (layer, stage), values in shorter.items():
        if stage.startswith("attn_scores"):
            for token in range(3):
                pair = [valid_scores(r[layer, stage], token, 4) for r in (shorter, record)]
                np.testing.assert_allclose(*pair, rtol=1e-9)
        elif stage.endswith(".codes"):
            assert np.array_equal(values, record[layer, stage][:3])
        else:
            np.testing.assert_allclose(values, record[layer, stage][:3], rtol=1e-9, atol=1e-9 * np.abs(values).max())


def test_missing_input_is_named(path, record):
    partial = {key: values for key, values in record.items() if key != (1, "v_proj")}
    with pytest.raises(KeyError, match="v_proj of layer 1"):
        Oracle(path).stage_from_inputs(1, "attn_context", partial)


def test_without_sub_norms_their_input_is_quantised(tmp_path):
    oracle = Oracle(write_model(tmp_path / "m.gguf", sub_norms=False))
    record = oracle.run(IDS)
    assert oracle.inputs_of(0, "attn_out") == [(0, "attn_context")]
    assert (0, "attn_sub_norm") not in record
    assert {(0, "attn_context.codes"), (0, "ffn_act.codes")} <= record.keys()


def test_dedicated_head_is_used(tmp_path):
    path = write_model(tmp_path / "m.gguf", dedicated_head=True)
    own, tied = (Oracle(path, f"head={head}").run(IDS)[-1, "logits"] for head in ("dedicated", "tied"))
    assert Oracle(path).semantics.head == "dedicated"
    assert not np.allclose(own, tied)


@pytest.mark.parametrize("semantics, first_changed", [
    ("activation=silu", "ffn_act"),
    ("eps=1e-3", "attn_norm"),
    ("rope=norm", "q_rope"),
    ("theta=1e4", "q_rope"),
    ("sub_norms=off", "attn_out"),
    ("kv=f16", "attn_scores"),
    ("f16_q=on", "attn_scores"),
    ("f16_probabilities=on", "attn_context"),
    ("act_quant=none", "q_proj"),
    ("scale=divide", "q_proj"),
    ("f16_head_input=on", "logits"),
])  # fmt: skip
def test_semantics_change_their_stage_first(path, record, semantics, first_changed):
    changed = Oracle(path, semantics).run(IDS)
    common = [key for key in record if key in changed and "." not in key[1]]
    first = next(key for key in common if not np.array_equal(record[key], changed[key]))
    assert first[1] == first_changed


def test_float32_is_close_where_nothing_flips(path, record):
    single = Oracle(path).layer(0, record[-1, "embeddings"], dtype=np.float32)
    assert all(values.dtype != np.float64 for values in single.values())
    for stage in ("attn_norm", "q_proj", "q_rope", "attn_context", "attn_sub_norm"):
        error = np.linalg.norm(single[0, stage] - record[0, stage]) / np.linalg.norm(record[0, stage])
        assert error < 1e-6


@pytest.mark.parametrize("text", ["activation=relu3", "colour=red", "rope=gptj"])
def test_unknown_semantics_are_refused(text):
    with pytest.raises(ValueError, match="semantics"):
        Semantics().with_text(text)
