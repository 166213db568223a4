// What a sink can ask of the host (section 10 of the header): hashes, statistics, sketches, and replacing values.
#include <algorithm>
#include <cmath>

#include "tests/abi/stages.h"
#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

class Extensions : public Traced {};

TEST_F(Extensions, ServicesAnswerForTheEventUnderWayOnly) {
    const bitnet_ext_hash_t *hash = nullptr;
    const bitnet_ext_stats_t *service = nullptr;
    const bitnet_ext_sketch_t *sketch = nullptr;
    bitnet_tensor_event_t stale = {};
    int n = 0;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        const auto *host = recorder_.host;
        hash = static_cast<const bitnet_ext_hash_t *>(host->get_extension(host, BITNET_EXT_HASH));
        service = static_cast<const bitnet_ext_stats_t *>(host->get_extension(host, BITNET_EXT_STATS));
        sketch = static_cast<const bitnet_ext_sketch_t *>(host->get_extension(host, BITNET_EXT_SKETCH));
        EXPECT_EQ(host->get_extension(host, "bitnet.hash/2"), nullptr);
        EXPECT_EQ(host->get_extension(host, nullptr), nullptr);
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        for (uint32_t r = 0; r < tensor->n_rows; ++r) {
            const bitnet_stats_t *got = service->stats(host, tensor, r);
            EXPECT_NE(got, nullptr);
            EXPECT_EQ(got->n, tensor->row_elements);
            const auto *values =
                reinterpret_cast<const float *>(static_cast<const char *>(tensor->data) + r * tensor->row_stride);
            float largest = 0;
            for (uint64_t i = 0; i < tensor->row_elements; ++i) largest = std::max(largest, std::abs(values[i]));
            EXPECT_EQ(got->absmax, largest);
            EXPECT_EQ(std::abs(got->top_value[0]), largest);
            EXPECT_EQ(values[got->top_index[0]], got->top_value[0]);
            EXPECT_EQ(got, service->stats(host, tensor, r)) << "computed twice";
            EXPECT_NE(hash->blake3(host, tensor, r), nullptr);
            EXPECT_NE(sketch->sketch(host, tensor, r), nullptr);
            ++n;
        }
        EXPECT_EQ(service->stats(host, tensor, tensor->n_rows), nullptr);
        EXPECT_EQ(hash->blake3(host, tensor, UINT32_MAX), nullptr);
        EXPECT_EQ(service->stats(host, nullptr, 0), nullptr);
        EXPECT_EQ(service->stats(host, &stale, 0), nullptr);
        std::memcpy(&stale, tensor, sizeof stale);
        return BITNET_OK;
    };
    attach("layer_out");
    ASSERT_OK(eval(ctx(), prompt(3)));
    EXPECT_EQ(n, 3 * n_layer);
    EXPECT_EQ(service->stats(recorder_.host, &stale, 0), nullptr);
}

// Answers one (layer, stage) of every position with the given rows.
void replace(Recorder &recorder, int32_t layer, int32_t stage, const std::map<int32_t, std::vector<float>> &rows) {
    recorder.on_event = [&recorder, layer, stage, rows](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR || event->layer != layer) return BITNET_OK;
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        if (tensor->stage != stage) return BITNET_OK;
        const auto *host = recorder.host;
        const auto *ext = static_cast<const bitnet_ext_override_t *>(host->get_extension(host, BITNET_EXT_OVERRIDE));
        for (uint32_t r = 0; r < tensor->n_rows; ++r) {
            const auto it = rows.find(event->position + int32_t(r));
            if (it == rows.end()) continue;
            EXPECT_OK(ext->replace(host, tensor, r, it->second.data(), it->second.size()));
        }
        return BITNET_OK;
    };
}

TEST_F(Extensions, OverridingEmbeddingsIsEvaluatingOtherTokens) {
    const std::vector<int32_t> tokens = prompt(5), others = {200, 201, 202, 203, 204};
    Recorder source;
    const Context other = context(model_.get());
    ASSERT_OK(bitnet_trace_set_sink(other.get(), &source.table, &source));
    ASSERT_OK(eval(other.get(), others));
    const std::vector<float> expected = row(other.get());
    std::map<int32_t, std::vector<float>> rows;
    for (const auto &[key, bytes] : source.by_key())
        if (std::get<2>(key) == BITNET_STAGE_EMBEDDINGS) rows[std::get<0>(key)] = floats(bytes);
    ASSERT_EQ(rows.size(), 5u);
    replace(recorder_, -1, BITNET_STAGE_EMBEDDINGS, rows);
    attach();
    ASSERT_OK(eval(ctx(), tokens));
    EXPECT_EQ(row(ctx()), expected);
    // Everything behind the override is as in the other run, and every event from the next one on says so.
    auto got = recorder_.by_key(), wanted = source.by_key();
    for (const auto &[key, bytes] : wanted) {
        if (std::get<2>(key) == BITNET_STAGE_EMBEDDINGS) continue;
        EXPECT_EQ(got.at(key), bytes);
    }
    bool behind = false;
    for (const Seen &s : recorder_.seen) {
        EXPECT_EQ(s.header.flags, behind ? BITNET_EVENT_FLAG_OVERRIDDEN : 0u) << s.name;
        behind |= s.stage == BITNET_STAGE_EMBEDDINGS;
    }
    ASSERT_OK(bitnet_trace_end_run(ctx()));
    EXPECT_EQ(recorder_.seen.back().header.flags, BITNET_EVENT_FLAG_OVERRIDDEN);
    // The next run is untouched again.
    recorder_.on_event = nullptr;
    recorder_.seen.clear();
    ASSERT_OK(bitnet_context_reset(ctx()));
    ASSERT_OK(eval(ctx(), tokens));
    EXPECT_EQ(recorder_.seen.front().header.flags, BITNET_EVENT_FLAG_OVERRIDABLE) << "it has asked for the extension";
    EXPECT_EQ(recorder_.seen[1].header.flags, 0u);
    EXPECT_EQ(row(ctx()), logits_after(model_.get(), tokens));
}

// Each stage replaced by what it is anyway, one at a time: the same bits. Then by something else: other logits.
TEST_F(Extensions, EveryFloatStageCanBeReplaced) {
    const std::vector<int32_t> tokens = prompt(4);
    Recorder source;
    const Context other = context(model_.get());
    ASSERT_OK(bitnet_trace_set_sink(other.get(), &source.table, &source));
    ASSERT_OK(bitnet_trace_select(other.get(), everything));
    ASSERT_OK(eval(other.get(), tokens));
    const std::vector<float> expected = row(other.get());
    const auto recorded = source.by_key();
    std::vector<std::pair<int32_t, int32_t>> points = {
        {-1, BITNET_STAGE_EMBEDDINGS}, {-1, BITNET_STAGE_FINAL_NORM}, {-1, BITNET_STAGE_LOGITS}};
    for (const Expected &e : block_stages(1))
        if (e.dtype == BITNET_DTYPE_F32) points.emplace_back(1, e.stage);
    for (const auto &[layer, stage] : points) {
        std::map<int32_t, std::vector<float>> same, changed;
        for (int32_t t = 0; t < 4; ++t) {
            same[t] = changed[t] = floats(recorded.at({t, layer, stage}));
            for (float &v : changed[t]) v = v * 1.5f + 0.25f;
        }
        const Context fresh = context(model_.get());
        ASSERT_OK(bitnet_trace_set_sink(fresh.get(), &recorder_.table, &recorder_));
        ASSERT_OK(bitnet_trace_select(fresh.get(), everything));
        replace(recorder_, layer, stage, same);
        ASSERT_OK(eval(fresh.get(), tokens));
        EXPECT_EQ(row(fresh.get()), expected) << bitnet_stage_name(stage);
        replace(recorder_, layer, stage, changed);
        ASSERT_OK(bitnet_context_reset(fresh.get()));
        ASSERT_OK(eval(fresh.get(), tokens));
        EXPECT_NE(row(fresh.get()), expected) << bitnet_stage_name(stage);
        if (stage != BITNET_STAGE_LOGITS) continue;
        EXPECT_EQ(row(fresh.get()), changed[3]);
    }
}

template <class Table> const Table *extension(const Recorder &recorder, const char *id) {
    return static_cast<const Table *>(recorder.host->get_extension(recorder.host, id));
}

TEST_F(Extensions, LensOnTheLastLayerGivesTheLogits) {
    const bitnet_ext_lens_t *lens = nullptr;
    std::vector<std::vector<float>> seen;
    std::vector<float> hidden;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR || event->layer != n_layer - 1) return BITNET_OK;
        lens = extension<bitnet_ext_lens_t>(recorder_, BITNET_EXT_LENS);
        EXPECT_EQ(lens->n_vocab, n_vocab);
        EXPECT_EQ(lens->n_embd, n_embd);
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        for (uint32_t r = 0; r < tensor->n_rows; ++r) {
            const auto *x =
                reinterpret_cast<const float *>(static_cast<const char *>(tensor->data) + r * tensor->row_stride);
            hidden.assign(x, x + n_embd);
            const float *logits = lens->logits(recorder_.host, hidden.data());
            seen.emplace_back(logits, logits + n_vocab);
        }
        EXPECT_EQ(lens->logits(recorder_.host, nullptr), nullptr);
        return BITNET_OK;
    };
    attach("layer_out");
    ASSERT_OK(eval(ctx(), prompt(4), BITNET_LOGITS_ALL));
    ASSERT_EQ(seen.size(), 4u);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(seen[size_t(i)], row(ctx(), i));
    EXPECT_EQ(lens->logits(recorder_.host, hidden.data()), nullptr) << "no event is under way";
}

// What the linears and the logits are without quantisation is what a model with quant=none computes from equal inputs.
TEST_F(Extensions, ReferenceIsTheModelWithoutQuantisation) {
    const std::vector<int32_t> tokens = prompt(4);
    const Model unquantised = load("quant=none");
    Recorder other;
    const Context plain = context(unquantised.get());
    ASSERT_OK(bitnet_trace_set_sink(plain.get(), &other.table, &other));
    ASSERT_OK(eval(plain.get(), tokens, BITNET_LOGITS_ALL));
    const auto expected = other.by_key();
    int n_linear = 0, n_logits = 0;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        const auto *reference = extension<bitnet_ext_reference_t>(recorder_, BITNET_EXT_REFERENCE);
        for (uint32_t r = 0; r < tensor->n_rows; ++r) {
            const auto at = [&](const float *values) {
                const auto *bytes = reinterpret_cast<const uint8_t *>(values);
                return std::vector<uint8_t>(bytes, bytes + 4 * tensor->row_elements);
            };
            const Recorder::Key key{event->position + int32_t(r), event->layer, tensor->stage};
            const float *linear = reference->linear(recorder_.host, tensor, r);
            const float *logits = reference->logits(recorder_.host, tensor, r);
            EXPECT_EQ(linear != nullptr, tensor->stage == BITNET_STAGE_Q_PROJ) << tensor->stage_name;
            EXPECT_EQ(logits != nullptr, tensor->stage == BITNET_STAGE_LOGITS) << tensor->stage_name;
            if (linear && event->layer == 0) {  // where the inputs are equal
                EXPECT_EQ(at(linear), expected.at(key));
                ++n_linear;
            }
            if (logits) {
                EXPECT_EQ(at(logits), expected.at(key));
                ++n_logits;
            }
        }
        EXPECT_EQ(reference->linear(recorder_.host, tensor, tensor->n_rows), nullptr);
        return BITNET_OK;
    };
    attach("attn_norm,q_proj,logits");
    ASSERT_OK(eval(ctx(), {tokens[0], tokens[1]}, BITNET_LOGITS_ALL));
    ASSERT_OK(eval(ctx(), {tokens[2], tokens[3]}, BITNET_LOGITS_ALL));
    EXPECT_EQ(n_linear, 4);
    EXPECT_EQ(n_logits, 4);
    EXPECT_NE(row(ctx()), row(plain.get())) << "quantisation must show";
    // Back to the middle: the reference goes back too.
    ASSERT_OK(bitnet_context_reset(ctx()));
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    EXPECT_EQ(n_logits, 8);
    EXPECT_EQ(row(ctx()), logits_after(model_.get(), tokens)) << "asking changes nothing";
}

TEST_F(Extensions, ReferenceLogitsNeedTokensFromTheBeginning) {
    int n = 0;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        const auto *reference = extension<bitnet_ext_reference_t>(recorder_, BITNET_EXT_REFERENCE);
        EXPECT_EQ(reference->logits(recorder_.host, reinterpret_cast<const bitnet_tensor_event_t *>(event), 0),
                  nullptr);
        ++n;
        return BITNET_OK;
    };
    ASSERT_OK(eval(ctx(), prompt(2)));
    attach("logits");
    ASSERT_OK(eval(ctx(), {7}));
    ASSERT_OK(bitnet_context_reset(ctx()));
    const std::vector<float> embeddings(n_embd, 0.5f);
    auto params = make<bitnet_eval_params_t>();
    params.embeddings = embeddings.data();
    ASSERT_OK(bitnet_eval_tokens(ctx(), nullptr, 1, &params));
    ASSERT_OK(eval(ctx(), {7}));
    EXPECT_EQ(n, 3);
}

TEST_F(Extensions, ASinkCanStopTheEvaluation) {
    const std::vector<float> before = logits_after(model_.get(), prompt(3));
    int n = 0;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR || event->layer != 1) return BITNET_OK;
        extension<bitnet_ext_stop_t>(recorder_, BITNET_EXT_STOP)
            ->stop(recorder_.host, ++n == 1 ? "seen\nenough" : "more");
        return BITNET_OK;
    };
    ASSERT_OK(eval(ctx(), prompt(3)));  // nothing is attached yet
    attach("layer_out,ffn_out");
    expect_error(eval(ctx(), {9}), BITNET_E_USER, {"sink 'recorder': seen enough"});
    EXPECT_EQ(bitnet_context_position(ctx()), 3) << "as after any failure";
    for (const Seen &s : recorder_.of_type(BITNET_EVENT_TENSOR)) EXPECT_LE(s.header.layer, 1);
    EXPECT_EQ(recorder_.of_type(BITNET_EVENT_STEP_END).back().status, BITNET_E_USER);
    recorder_.on_event = nullptr;
    ASSERT_OK(eval(ctx(), {9}));
    ASSERT_OK(bitnet_context_reset(ctx()));
    ASSERT_OK(eval(ctx(), prompt(3)));
    EXPECT_EQ(row(ctx()), before);
}

TEST_F(Extensions, AStopAtTheBeginningOrTheEndOfTheEvaluation) {
    uint32_t when = BITNET_EVENT_RUN_BEGIN;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type == when)
            extension<bitnet_ext_stop_t>(recorder_, BITNET_EXT_STOP)->stop(recorder_.host, nullptr);
        return BITNET_OK;
    };
    attach("logits");
    expect_error(eval(ctx(), {9}), BITNET_E_USER, {"no reason given"});
    when = BITNET_EVENT_STEP_BEGIN;
    expect_error(eval(ctx(), {9}), BITNET_E_USER);
    when = BITNET_EVENT_TENSOR;  // the logits themselves: the last that there is
    expect_error(eval(ctx(), {9}), BITNET_E_USER);
    EXPECT_EQ(bitnet_context_position(ctx()), 0);
    when = BITNET_EVENT_STEP_END;  // nothing is under way any more
    EXPECT_OK(eval(ctx(), {9}));
    when = BITNET_EVENT_RUN_END;
    EXPECT_OK(eval(ctx(), {9}));
    EXPECT_OK(bitnet_trace_end_run(ctx()));
    EXPECT_OK(eval(ctx(), {9}));
    recorder_.on_event = nullptr;  // the last run ends after this function's variables
}

TEST_F(Extensions, StateOfTheCache) {
    attach("logits");
    ASSERT_OK(eval(ctx(), prompt(5)));
    ASSERT_OK(eval(ctx(), {9}));
    ASSERT_OK(bitnet_context_truncate(ctx(), 2));
    ASSERT_OK(eval(ctx(), {9, 10}));
    ASSERT_OK(bitnet_context_reset(ctx()));
    ASSERT_OK(eval(ctx(), {1}));
    const std::vector<Seen> seen = recorder_.of_type(BITNET_EVENT_KV_STATE);
    ASSERT_EQ(seen.size(), 4u);
    const int32_t valid[] = {5, 6, 4, 1}, position[] = {4, 5, 3, 0};
    const uint64_t hits[] = {0, 5, 2, 0}, misses[] = {5, 1, 2, 1}, evicted[] = {0, 0, 4, 4};
    for (size_t i = 0; i < 4; ++i) {
        const bitnet_kv_state_t &kv = seen[i].kv;
        EXPECT_EQ(kv.struct_size, sizeof kv);
        EXPECT_EQ(seen[i].header.position, position[i]);
        EXPECT_EQ(kv.n_valid, valid[i]);
        EXPECT_EQ(kv.n_max, 64);
        EXPECT_EQ(kv.oldest, 0);
        EXPECT_EQ(kv.n_bytes_used, uint64_t(valid[i]) * n_layer * 2 * n_head_kv * head_dim * 4);
        EXPECT_EQ(kv.n_bytes, uint64_t(64) * n_layer * 2 * n_head_kv * head_dim * 4);
        EXPECT_EQ(kv.n_hits, hits[i]);
        EXPECT_EQ(kv.n_misses, misses[i]);
        EXPECT_EQ(kv.n_evicted, evicted[i]);
    }
}

TEST_F(Extensions, WhatCannotBeReplaced) {
    int n = 0;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        const auto *host = recorder_.host;
        const auto *ext = static_cast<const bitnet_ext_override_t *>(host->get_extension(host, BITNET_EXT_OVERRIDE));
        const std::vector<float> values(tensor->row_elements + 1);
        const size_t right = tensor->row_elements;
        if (tensor->dtype != BITNET_DTYPE_F32) {
            EXPECT_EQ(ext->replace(host, tensor, 0, values.data(), right), BITNET_E_UNSUPPORTED);
            ++n;
        }
        EXPECT_EQ(ext->replace(host, tensor, 0, values.data(), right + 1), BITNET_E_INVALID);
        EXPECT_EQ(ext->replace(host, tensor, 0, values.data(), 0), BITNET_E_INVALID);
        EXPECT_EQ(ext->replace(host, tensor, tensor->n_rows, values.data(), right), BITNET_E_INVALID);
        EXPECT_EQ(ext->replace(host, tensor, 0, nullptr, right), BITNET_E_INVALID);
        return BITNET_OK;
    };
    attach(everything);
    ASSERT_OK(eval(ctx(), {5}));
    EXPECT_EQ(n, 11 * n_layer);
    EXPECT_EQ(row(ctx()), logits_after(model_.get(), {5}));
    for (const Seen &s : recorder_.seen) EXPECT_EQ(s.header.flags, 0u);
}

}  // namespace
}  // namespace bitnet_test
