"""Every number that the modeltracer plugin writes, computed again in numpy from the values themselves."""

import numpy as np
import pytest

from bitnet_oracle import LINEAR_TENSORS, Oracle
from modeltracer_trace import trace
from test_demo_model import ADD_BOS, MODEL, PARSE_SPECIAL

PROMPT = "What is 47+35? 82 Monday, Tuesday"
PARTS = [7, 4, 1, 1]  # a prefill, a second one, and two tokens alone; the last part is what is left
POINTS = {
    "post_norm": "attn_norm",
    "post_attn": "attn_out",
    "residual": "attn_residual",
    "post_ffn": "ffn_out",
    "output": "layer_out",
}
TRACKED = (17, 401)
DIGITS = 6e-9  # nine digits are written


@pytest.fixture(scope="module")
def model(library):
    return library.load(MODEL)


@pytest.fixture(scope="module")
def tokens(model):
    return model.tokenize(PROMPT, ADD_BOS | PARSE_SPECIAL)


@pytest.fixture(scope="module")
def parts(tokens):
    return [*PARTS, len(tokens) - sum(PARTS)]


@pytest.fixture(scope="module")
def raw(model, tokens, parts):
    return model.context(threads=1).trace(tokens, parts=parts)


@pytest.fixture(scope="module")
def traced(model, tokens, parts, tmp_path_factory):
    config = f"positions=all,track={TRACKED[0]};{TRACKED[1]},top=3"
    return trace(model, tokens, tmp_path_factory.mktemp("modeltracer"), config, parts)


@pytest.fixture(scope="module")
def oracle():
    return Oracle(MODEL)


def near(value, expected, scale=0.0):
    return abs(value - expected) <= DIGITS * abs(expected) + 1e-12 * scale


def check_statistics(written, row):
    wide = row.astype(np.float64)
    assert (written["count"], written["nan_count"], written["inf_count"]) == (row.size, 0, 0)
    assert np.float32(written["min"]) == row.min() and np.float32(written["max"]) == row.max()
    assert near(written["mean"], wide.mean(), np.abs(wide).max())
    assert near(written["std"], wide.std(ddof=1))
    assert near(written["l2_norm"], np.linalg.norm(wide))


def test_activations(traced, raw, tokens, model):
    layers = {(r["seq"], r["layer"]): r for r in traced.of("activation") if r["layer"] >= 0}
    assert sorted(layers) == [(p, layer) for p in range(len(tokens)) for layer in range(model.info.n_layer)]
    for (position, layer), record in layers.items():
        for point, stage in POINTS.items():
            check_statistics(record[point], raw[layer, stage][position])
        came_in = raw[layer - 1, "layer_out"] if layer else raw[-1, "embeddings"]
        check_statistics(record["input"], came_in[position])
        out, attn = (
            np.linalg.norm(raw[layer, stage][position].astype(np.float64)) for stage in ("layer_out", "attn_out")
        )
        assert near(record["residual_ratio"], out / (out + attn))
    whole = {
        (r["seq"], *(key for key in ("embeddings", "logits") if key in r)): r
        for r in traced.of("activation")
        if r["layer"] < 0
    }
    assert len(whole) == 2 * len(tokens)
    for (position, stage), record in whole.items():
        check_statistics(record[stage], raw[-1, stage][position])


def test_attention(traced, raw, tokens, model):
    records = traced.of("attention")
    assert [(r["seq"], r["layer"]) for r in records if r["seq"] == 9] == [
        (9, layer) for layer in range(model.info.n_layer)
    ]
    assert len(records) == len(tokens) * model.info.n_layer
    flags = dict.fromkeys(("sink", "uniform", "recency", "collapse"), 0)
    for record in records:
        position, n_kv = record["seq"], record["seq"] + 1
        rows = raw[record["layer"], "attn_scores_softmax"][position].reshape(model.info.n_head, -1)[:, :n_kv]
        assert record["n_kv"] == n_kv and len(record["heads"]) == len(rows)
        for head, row in zip(record["heads"], rows, strict=True):
            expected = head_of(row, position)
            assert head["top_k_positions"] == expected["top"]
            assert [np.float32(w) for w in head["top_k_weights"]] == list(row[expected["top"]])
            assert abs(head["tail_mass"] - expected["tail"]) < 1e-9
            assert abs(head["entropy"] - expected["entropy"]) < 1e-8
            for name in flags:
                assert head[name] is bool(expected[name]), (record["seq"], record["layer"], name)
                flags[name] += head[name]
    assert traced.summary()["attention"] == flags
    assert flags["sink"] and flags["recency"] and flags["collapse"]  # so that the comparison had something to compare


def head_of(row, position):
    wide = row.astype(np.float64)
    order = sorted(range(len(row)), key=lambda i: (-wide[i], i))[:10]
    top = [i for i in order if wide[i] >= 0.01]
    counted = wide[row > np.float32(1e-10)]
    entropy = -(counted * np.log(counted)).sum()
    choice = len(row) > 1
    return {
        "top": top,
        "tail": max(wide.sum() - wide[top].sum(), 0.0),
        "entropy": entropy,
        "sink": choice and wide[0] > 0.3 and order[0] == 0,
        "uniform": choice and entropy / np.log(len(row)) > 0.95,
        "recency": choice and wide[max(position - 5, 0) :].sum() > 0.7,
        "collapse": choice and entropy < 0.1,
    }


def ranks_between(logits, token, tolerance):
    """The ranks that are possible when each logit may be wrong by so much."""
    others = np.delete(logits, token)
    return (others > logits[token] + 2 * tolerance).sum(), (others > logits[token] - 2 * tolerance).sum()


def test_logit_lens(traced, raw, tokens, model, oracle):
    records = traced.of("logits")
    n_layer = model.info.n_layer
    assert [r["seq"] for r in records] == list(range(len(tokens)))
    for record in records:
        final = raw[-1, "logits"][record["seq"]]
        order = np.argsort(-final, kind="stable")
        best = [int(t) for t in order[:3]]
        assert record["layers"] == list(range(n_layer)) and record["best_token"] == best[0]
        assert [t["token_id"] for t in record["tracked_tokens"]] == [*TRACKED, *(t for t in best if t not in TRACKED)]
        assert [t["tracked"] for t in record["tracked_tokens"]][:2] == [True, True]
        hidden = np.stack([raw[layer, "layer_out"][record["seq"]] for layer in range(n_layer)]).astype(np.float64)
        lens = oracle.head(oracle._norm(hidden, "output_norm"))
        probabilities = np.exp(final.astype(np.float64) - final.max())
        probabilities /= probabilities.sum()
        for token in record["tracked_tokens"]:
            check_token(token, lens, final, probabilities)
            if token["token_id"] == best[0]:
                assert token["final_rank"] == 0 and token["decisive_layer"] == record["decisive_layer"]


def check_token(token, lens, final, probabilities):
    t, ranks = token["token_id"], token["per_layer_rank"]
    tolerance = 1e-5 * np.abs(lens).max()
    assert np.abs(np.array(token["per_layer_logit"]) - lens[:, t]).max() < tolerance
    for rank, logits in zip(ranks, lens, strict=True):
        low, high = ranks_between(logits, t, tolerance)
        assert low <= rank <= high
    # The last layer's lens is the model itself.
    assert np.float32(token["per_layer_logit"][-1]) == final[t] == np.float32(token["final_logit"])
    assert ranks[-1] == token["final_rank"] == (final > final[t]).sum()
    assert near(token["final_probability"], probabilities[t])
    jumps = np.abs(np.diff(ranks))
    assert token["decisive_layer"] == (int(np.argmax(jumps)) + 1 if jumps.any() else None)


def check_error(written, quantised, exact):
    quantised, exact = quantised.astype(np.float64), exact.astype(np.float64)
    error = quantised - exact
    assert np.isclose(written["mse"], (error**2).mean(), rtol=1e-3)
    assert np.isclose(written["max_abs_error"], np.abs(error).max(), rtol=1e-3)
    cosine = quantised @ exact / np.linalg.norm(quantised) / np.linalg.norm(exact)
    assert np.isclose(1 - written["cosine_similarity"], 1 - cosine, rtol=1e-3, atol=1e-8)
    assert abs(written["snr_db"] - 10 * np.log10((exact**2).sum() / (error**2).sum())) < 0.02
    assert written["verdict"] == ("ok" if cosine > 0.995 else "warning" if cosine >= 0.99 else "critical")


def test_quantisation_of_linears(traced, raw, tokens, oracle, model):
    float_oracle = Oracle(MODEL, act_quant="none")
    records = traced.of("quantisation")
    assert len(records) == len(tokens) * model.info.n_layer * len(LINEAR_TENSORS)
    exact = {}
    for record in records:
        key = record["layer"], record["stage"]
        if key not in exact:
            exact[key] = float_oracle.stage_from_inputs(*key, raw)
        check_error(record, raw[key][record["seq"]], exact[key][record["seq"]])
    summary = traced.summary()
    assert summary["quantisation"]["linears"] == len(records)
    assert summary["quantisation"]["worst_cosine"] == min(r["cosine_similarity"] for r in records)
    assert summary["summary"]["quant_warnings"] == sum(r["verdict"] == "warning" for r in records)
    assert summary["summary"]["quant_criticals"] == sum(r["verdict"] == "critical" for r in records) == 0


def log_softmax(logits):
    wide = logits.astype(np.float64)
    return (
        wide
        - wide.max(axis=-1, keepdims=True)
        - np.log(np.exp(wide - wide.max(axis=-1, keepdims=True)).sum(-1, keepdims=True))
    )


def test_quantisation_of_logits(traced, raw, tokens):
    exact = Oracle(MODEL, act_quant="none").run(tokens)[-1, "logits"]
    records = traced.of("quantisation_logits")
    assert [r["seq"] for r in records] == list(range(len(tokens)))
    log_q, log_e = log_softmax(raw[-1, "logits"]), log_softmax(exact)
    kl = (np.exp(log_e) * (log_e - log_q)).sum(axis=1)
    for record in records:
        check_error(record, raw[-1, "logits"][record["seq"]], exact[record["seq"]])
        assert np.isclose(record["kl_divergence"], kl[record["seq"]], rtol=1e-2, atol=1e-6)
    follow = np.arange(len(tokens) - 1), np.array(tokens[1:])
    nll, nll_exact = -log_q[follow], -log_e[follow]
    likelihoods = traced.of("likelihood")
    assert [(r["seq"], r["next_token"]) for r in likelihoods] == list(enumerate(tokens[1:]))
    assert np.allclose([r["nll"] for r in likelihoods], nll, rtol=1e-7, atol=1e-9)
    assert np.allclose([r["nll_unquantised"] for r in likelihoods], nll_exact, rtol=1e-3, atol=1e-4)
    written = traced.summary()["quantisation"]
    assert np.isclose(written["mean_kl_divergence"], kl.mean(), rtol=1e-2)
    assert np.isclose(written["perplexity"], np.exp(nll.mean()), rtol=1e-6)
    assert np.isclose(written["perplexity_unquantised"], np.exp(nll_exact.mean()), rtol=1e-3)
    assert np.isclose(written["perplexity_delta"], written["perplexity"] - written["perplexity_unquantised"], rtol=1e-4)


def test_cache(traced, tokens, model, parts):
    records = traced.of("kv")
    assert len(records) == len(parts)
    held = 0
    info = model.info
    bytes_of_position = 2 * info.n_layer * info.n_head_kv * info.head_dim * 4
    for step, (record, size) in enumerate(zip(records, parts, strict=True)):
        assert (record["step"], record["hits"], record["misses"]) == (step, held, size)
        assert near(record["cache_hit_rate"], held / (held + size))
        held += size
        assert (record["valid_positions"], record["max_positions"], record["seq"]) == (held, info.n_ctx_train, held - 1)
        assert (record["evictions_this_step"], record["oldest_position"], record["fragmentation"]) == (0, 0, 0)
        assert record["used_bytes"] == held * bytes_of_position <= record["cache_size_bytes"]
        assert record["eviction_rate"] == 0 and record["window_exhausted"] is False
    assert np.isclose(traced.summary()["summary"]["avg_hit_rate"], np.mean([r["cache_hit_rate"] for r in records]))


def test_summary_and_text(traced, tokens, model, parts):
    n_traces = len(tokens) * model.info.n_layer * model.info.n_head
    nine = traced.summary()["summary"]
    assert list(nine) == [
        "total_forwards",
        "anomalies_detected",
        "attention_traces",
        "logit_traces",
        "kv_steps",
        "total_evictions",
        "avg_hit_rate",
        "quant_warnings",
        "quant_criticals",
    ]
    expected = {"total_forwards": len(parts), "anomalies_detected": 0, "attention_traces": n_traces}
    expected |= {"logit_traces": len(tokens), "kv_steps": len(parts), "total_evictions": 0, "quant_criticals": 0}
    assert expected.items() <= nine.items()
    text = traced.text_path.read_text().splitlines()
    assert text[0] == "ModelTracer Summary, run 0:"
    assert text[1:6] == [
        f"  Forward passes: {len(parts)}",
        "  Anomalies: 0",
        f"  Attention traces: {n_traces}",
        f"  Logit traces: {len(tokens)}",
        f"  KV cache steps: {len(parts)}",
    ]
    assert text[-1] == "  First anomaly: none" and text[7] == f"  Avg hit rate: {100 * nine['avg_hit_rate']:.4g}%"


def test_the_last_position_alone_by_default(model, tokens, parts, traced, tmp_path):
    alone = trace(model, tokens, tmp_path, "", parts)
    last = {sum(parts[: i + 1]) - 1 for i in range(len(parts))}
    for kind in ("quantisation", "quantisation_logits"):
        assert alone.of(kind) == [r for r in traced.of(kind) if r["seq"] in last] != []
    assert [r["seq"] for r in alone.of("logits")] == sorted(last)
    assert all(len(r["tracked_tokens"]) == 5 for r in alone.of("logits"))
    assert alone.of("likelihood") == [r for r in traced.of("likelihood") if r["seq"] in last] != []
    assert alone.of("activation") == traced.of("activation")


def test_lightweight(model, tokens, tmp_path, traced):
    light = trace(model, tokens, tmp_path, "preset=lightweight")
    kinds = {r["record"] for r in light.records}
    assert kinds == {"run", "modeltracer", "step", "activation", "kv", "forward", "summary", "run_end"}
    by_place = {(r["seq"], r["layer"], *r): r for r in traced.of("activation")}
    assert len(by_place) == len(light.of("activation"))
    assert all(by_place[r["seq"], r["layer"], *r] == r for r in light.of("activation"))
    assert light.summary()["summary"] | {"kv_steps": 1, "total_forwards": 1} == light.summary()["summary"]
