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
    EXPECT_EQ(recorder_.seen.front().header.flags, 0u);
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
