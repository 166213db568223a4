"""The library against the oracle, stage by stage with its own inputs, and against what bitnet.cpp recorded."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_oracle import LINEAR_TENSORS, SUB_NORMS, Oracle, accumulate, through_f16
from library import LibraryError
from make_gguf import write_model
from tolerances import (
    REL_L2_MAX,
    STAGE_CLASS,
    compare_codes,
    compare_equal,
    compare_rel_l2,
    compare_rope,
    compare_scale,
    compare_stage,
)

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo_model" / "demo.gguf"
QUANTISED = {"attn_norm": ("q_proj", "k_proj", "v_proj"), "ffn_norm": ("ffn_gate", "ffn_up")}
QUANTISED |= {"attn_sub_norm": ("attn_out",), "ffn_sub_norm": ("ffn_out",)}

# Odd shapes, one thing of each at least: heads of 32, 64 and 80; n_kv = n_head, 1 and between; every embedding type;
# a dedicated head; transposed tables; no sub-norms; every architecture name.
MODELS = {
    "head_dim_32": {"n_embd": 256, "n_head": 8, "n_kv": 2},
    "head_dim_80_wide_attention": {"n_embd": 256, "n_head": 8, "n_kv": 4, "head_dim": 80, "n_ff": 896},
    "all_heads_bf16": {"n_embd": 128, "n_head": 4, "n_kv": 4, "embd_type": "BF16", "n_layer": 3, "vocab": 333},
    "one_kv_head_f32": {"n_embd": 384, "n_head": 6, "n_kv": 1, "embd_type": "F32", "n_ff": 640},
    "dedicated_head": {"dedicated_head": True, "vocab": 513, "eps": 1e-6, "theta": 10000.0},
    "transposed": {"transposed_embd": True, "embd_type": "BF16", "dedicated_head": True, "n_layer": 1},
    "no_sub_norms_silu": {"sub_norms": False, "arch": "llama", "n_kv": 1},
    "bitnet_25": {"arch": "bitnet-25", "n_embd": 512, "n_head": 4, "n_kv": 2, "transposed_embd": True},
}
# The library's spelling: the oracle's.
SEMANTICS = {
    "activation=silu": None,
    "activation=gelu": None,
    "activation=relu": None,
    "rope=norm": None,
    "eps=1e-3": None,
    "theta=10000": None,
    "sub_norms=off": None,
    "scale=divide": None,
    "kv=f16": None,
    "quant=none": "act_quant=none",
    "head_input=f16": "f16_head_input=on",
    "activation=silu,rope=norm,sub_norms=off,eps=1e-6,theta=10000": None,
}


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory, small_gguf):
    folder = tmp_path_factory.mktemp("models")
    paths = {name: write_model(folder / f"{name}.gguf", seed=i, **MODELS[name]) for i, name in enumerate(MODELS)}
    return {**paths, "small": small_gguf, "demo": DEMO}


@pytest.fixture
def path(request, model_paths):
    if not model_paths[request.param].exists():
        pytest.skip(f"{model_paths[request.param]} is not there")
    return model_paths[request.param]


every_model = pytest.mark.parametrize("path", [*MODELS, "small", "demo"], indirect=True)


def some_ids(n_vocab, n=17, seed=0):
    return np.random.default_rng(seed).integers(n_vocab, size=n).tolist()


def note(figures, label, layer, verdict):
    """Keep the verdict that comes nearest to its limit."""
    nearest = figures.get(label)
    if nearest is None or verdict.measured > nearest[0]:
        figures[label] = (verdict.measured, verdict.allowed, layer)


def without_sub_norms(record):
    """The codes of what a sub-norm would have given belong to its input, where the oracle looks for them."""
    moved = {}
    for layer, name in record:
        stage, _, companion = name.partition(".")
        if stage in SUB_NORMS and companion:
            moved[layer, f"{SUB_NORMS[stage]}.{companion}"] = record[layer, name]
    return {**record, **moved}


def check_integers(oracle, layer, record, n_checked):
    """Codes and scale from the recorded input; accumulators from the recorded codes."""
    for norm, linears in QUANTISED.items():
        stage = norm if oracle.semantics.sub_norms else SUB_NORMS.get(norm, norm)
        codes = record[layer, f"{stage}.codes"]
        for verdict in (
            compare_codes(f"layer {layer} {stage}.codes", record[layer, stage], codes),
            compare_scale(f"layer {layer} {stage}.scale", record[layer, stage], record[layer, f"{stage}.scale"]),
        ):
            assert verdict.ok, verdict.text
            n_checked[0] += 1
        for linear in linears:
            expected = accumulate(codes, oracle.weights(layer, linear)[0])
            verdict = compare_equal(f"layer {layer} {linear}.acc", expected, record[layer, f"{linear}.acc"])
            assert verdict.ok, verdict.text
            n_checked[0] += 1


def check_stages(oracle, record, figures, label):
    """Every stage of the record by the oracle's value for the recorded inputs. -> keys compared"""
    compared = set()
    points = [(-1, "embeddings"), (-1, "final_norm"), (-1, "logits")]
    points += [(layer, stage) for layer in range(oracle.n_layer) for stage in oracle.block_stages()]
    for layer, stage in points:
        verdict = compare_stage(oracle, layer, stage, record)
        note(figures, f"{label} {STAGE_CLASS[stage]}", layer, verdict)
        assert verdict.ok, verdict.text
        compared.add((layer, stage))
    return compared


def check_against_oracle(oracle, record, figures, label):
    quantised = oracle.semantics.act_quant == "int8"
    if quantised and not oracle.semantics.sub_norms:
        record = without_sub_norms(record)
    compared = check_stages(oracle, record, figures, label)
    n_checked = [0]
    if quantised:
        for layer in range(oracle.n_layer):
            check_integers(oracle, layer, record, n_checked)
        assert n_checked[0] == oracle.n_layer * (4 + 4 + 7)
    plain = {key for key in record if "." not in key[1]} - {(-1, "ids")}
    assert plain == compared  # nothing was traced that nobody looked at


# ---- against the oracle ----


def test_wrong_use_is_an_error(library, small_gguf):
    with pytest.raises(LibraryError, match="BITNET_E_IO.*no_such"):
        library.load("no_such.gguf")
    with pytest.raises(LibraryError, match="BITNET_E_INVALID.*tanh"):
        library.load(small_gguf, semantics="activation=tanh")
    context = library.load(small_gguf).context(n_ctx=8)
    with pytest.raises(ValueError, match="forced"):
        context.trace([1, 2], select="logits", forced={(0, "layer_out"): np.zeros((2, 256))})
    with pytest.raises(LibraryError, match="override failed"):
        context.trace([1, 2], forced={(0, "layer_out"): np.zeros((2, 255))})
    assert len(library.stage_names()) == 22 + 4 + 4 + 7


@every_model
def test_every_stage(library, figures, path):
    model, oracle = library.load(path), Oracle(path)
    record = model.context(n_ctx=32).trace(some_ids(oracle.n_vocab))
    check_against_oracle(oracle, record, figures, "oracle, every model:")


@every_model
def test_bits_that_the_f32_rule_defines(library, path):
    """The quantiser, the ternary linears and the residuals are defined operation by operation: no tolerance at all."""
    oracle = Oracle(path)
    record = library.load(path).context(n_ctx=32).trace(some_ids(oracle.n_vocab))
    for layer in range(oracle.n_layer):
        for stage in (*LINEAR_TENSORS, "attn_residual", "layer_out"):
            expected = oracle.stage_from_inputs(layer, stage, record, dtype=np.float32)
            verdict = compare_equal(f"layer {layer} {stage}", expected, record[layer, stage])
            assert verdict.ok, verdict.text


@every_model
def test_one_result_for_every_isa_thread_count_and_split(library, path):
    ids = None
    for isa in library.usable_isas():
        model = library.load(path, isa=isa)
        ids = ids or some_ids(model.info.n_vocab, n=11)
        for threads, batch, parts in ((1, 0, None), (3, 2, [4, 7]), (2, 64, [1] * 11)):
            record = model.context(threads, batch, n_ctx=16).trace(ids, parts)
            if isa == "scalar" and threads == 1:
                expected = record
            assert record.keys() == expected.keys()
            for key, rows in expected.items():
                assert np.array_equal(record[key], rows), f"{isa}, {threads} threads, parts {parts}: {key}"


@every_model
def test_free_running_greedy_choice(library, path):
    """At every position, unless the oracle itself sees no difference between its two best beyond the noise."""
    oracle = Oracle(path)
    ids = some_ids(oracle.n_vocab, n=24, seed=1)
    ours = library.load(path).context(n_ctx=32).eval(ids).astype(np.float64)
    theirs = oracle.run(ids)[-1, "logits"]
    n_equal = 0
    for position, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        best, second = np.argsort(-b, kind="stable")[:2]
        if np.argmax(a) == best:
            n_equal += 1
            continue
        noise = np.abs(a - b).max()
        assert b[best] - b[second] <= 2 * noise, (
            f"position {position}: {np.argmax(a)} against {best}, noise {noise:.3g}"
        )
    assert n_equal >= 22


@pytest.mark.parametrize("name, n_ids", [("small", 17), ("demo", 17), ("no_sub_norms_silu", 9)])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_semantics(library, model_paths, figures, name, n_ids, semantics):
    path = model_paths[name]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    oracle = Oracle(path, SEMANTICS[semantics] or semantics)
    record = library.load(path, semantics=semantics).context(n_ctx=32).trace(some_ids(oracle.n_vocab, n_ids))
    check_against_oracle(oracle, record, figures, "oracle, other semantics:")


@pytest.mark.parametrize(
    "semantics, stage", [("activation=silu", "ffn_act"), ("rope=norm", "q_rope"), ("eps=1e-3", "attn_norm")]
)
def test_the_comparison_sees_other_semantics(library, small_gguf, semantics, stage):
    record = library.load(small_gguf).context(n_ctx=32).trace(some_ids(512))
    assert compare_stage(Oracle(small_gguf), 0, stage, record).ok
    assert not compare_stage(Oracle(small_gguf, semantics), 0, stage, record).ok


def test_far_positions(library, small_gguf, figures):
    """RoPE and attention at the end of the context that the model was trained for."""
    oracle = Oracle(small_gguf)
    ids = some_ids(512, n=512, seed=2)
    select = "{q_proj;k_proj;v_proj;q_rope;k_rope;attn_scores;attn_scores_softmax;attn_context}"
    record = library.load(small_gguf).context(threads=2).trace(ids, parts=[500, 12], select=select)
    for layer in range(oracle.n_layer):
        for stage in ("q_rope", "k_rope", "attn_scores", "attn_scores_softmax", "attn_context"):
            verdict = compare_stage(oracle, layer, stage, record)
            note(figures, f"oracle, 512 positions: {stage}", layer, verdict)
            assert verdict.ok, verdict.text


# ---- against bitnet.cpp ----

UNRECORDED = {"attn_scores", "attn_scores_softmax"}
# Its K and V are f16, and so is q; ours is not. What that does to a layer is a class of its own.
LAYER_REL_L2_MAX = {"before": 1e-6, "attention": 5e-3, "after": 2e-2}
WHOLE_PASS_REL_L2_MAX = 1e-6
BEFORE_ATTENTION = ("attn_norm", "q_proj", "k_proj", "v_proj", "q_rope", "k_rope")


def recorded_stages(oracle):
    return [stage for stage in oracle.block_stages() if stage not in UNRECORDED]


@pytest.fixture(scope="module")
def bitnetcpp_context(library, small_gguf):
    return library.load(small_gguf).context(kv="f16", n_ctx=8)


def test_bitnetcpp_each_op_forced(bitnetcpp_context, small_gguf, bitnetcpp, figures):
    """Every op computes from bitnet.cpp's own inputs."""
    oracle = Oracle(small_gguf)
    forced = {key: rows for key, rows in bitnetcpp.items() if key != (-1, "ids")}
    record = bitnetcpp_context.trace(bitnetcpp[-1, "ids"], forced=forced)
    points = [(layer, stage) for layer in range(oracle.n_layer) for stage in recorded_stages(oracle)]
    points += [(-1, stage) for stage in ("embeddings", "final_norm", "logits")]
    assert set(points) == forced.keys()
    for layer, stage in points:
        kind = STAGE_CLASS[stage]
        name, reference, ours = f"layer {layer} {stage}", bitnetcpp[layer, stage], record[layer, stage]
        if kind == "rope":
            verdict = compare_rope(name, reference, ours, np.arange(len(ours)))
        else:
            verdict = compare_rel_l2(
                name, reference, ours, REL_L2_MAX["attention_kv_f16" if kind == "attention" else kind]
            )
        note(figures, f"bitnet.cpp, each op forced: {stage}", layer, verdict)
        assert verdict.ok, verdict.text
        if kind == "linear":  # the same integers and the same two scales in the same order
            verdict = compare_equal(name, reference, ours)
            assert verdict.ok, verdict.text


def test_bitnetcpp_each_layer_forced(bitnetcpp_context, small_gguf, bitnetcpp, figures):
    """Each layer starts from bitnet.cpp's residual stream and then runs freely to its end."""
    oracle = Oracle(small_gguf)
    forced = {(layer, "layer_out"): bitnetcpp[layer, "layer_out"] for layer in range(oracle.n_layer)}
    forced[-1, "embeddings"] = bitnetcpp[-1, "embeddings"]
    record = bitnetcpp_context.trace(bitnetcpp[-1, "ids"], forced=forced)
    for layer in range(oracle.n_layer):
        for stage in recorded_stages(oracle):
            where = "before" if stage in BEFORE_ATTENTION else "attention" if stage == "attn_context" else "after"
            name = f"layer {layer} {stage}"
            allowed = LAYER_REL_L2_MAX[where]
            verdict = compare_rel_l2(name, bitnetcpp[layer, stage], record[layer, stage], allowed)
            note(figures, f"bitnet.cpp, each layer forced: {stage}", layer, verdict)
            assert verdict.ok, verdict.text
    for stage in ("final_norm", "logits"):
        verdict = compare_rel_l2(stage, bitnetcpp[-1, stage], record[-1, stage], REL_L2_MAX["head"])
        note(figures, f"bitnet.cpp, each layer forced: {stage}", -1, verdict)
        assert verdict.ok, verdict.text


def test_bitnetcpp_free_running(library, small_gguf, bitnetcpp, figures):
    """No layer forced: the same tokens on top, and logits within what the KV type explains."""
    for kv in ("f16", "f32"):
        logits = library.load(small_gguf).context(kv=kv, n_ctx=8).eval(bitnetcpp[-1, "ids"]).astype(np.float64)
        reference = bitnetcpp[-1, "logits"].astype(np.float64)
        assert np.array_equal(logits.argmax(axis=1), reference.argmax(axis=1))
        cosine = np.sum(logits * reference, 1) / (np.linalg.norm(logits, axis=1) * np.linalg.norm(reference, axis=1))
        figures[f"bitnet.cpp, free-running logits, kv={kv}: 1 - cosine"] = (1 - cosine.min(), 1e-2, -1)
        assert cosine.min() > 0.99


def test_bitnetcpp_with_its_roundings(bitnetcpp_context, small_gguf, bitnetcpp, figures):
    """bitnet.cpp also rounds q to f16, and an ulp can move an element of k or v to the next f16.

    With what attention reads as there, and nothing else, the whole pass is its pass: no code flips.
    """
    oracle = Oracle(small_gguf)
    forced = {(layer, "q_rope"): through_f16(bitnetcpp[layer, "q_rope"]) for layer in range(oracle.n_layer)}
    forced |= {(layer, s): bitnetcpp[layer, s] for layer in range(oracle.n_layer) for s in ("k_rope", "v_proj")}
    record = bitnetcpp_context.trace(bitnetcpp[-1, "ids"], forced=forced)
    for layer, stage in bitnetcpp.keys() - {(-1, "ids")}:
        name = f"layer {layer} {stage}"
        verdict = compare_rel_l2(name, bitnetcpp[layer, stage], record[layer, stage], WHOLE_PASS_REL_L2_MAX)
        note(figures, "bitnet.cpp, any stage, its q, k, v given", layer, verdict)
        assert verdict.ok, verdict.text
