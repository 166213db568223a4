#include <gtest/gtest.h>

#include <algorithm>
#include <blake3.h>

#include "tests/plugins/fixture.h"

namespace bitnet {
namespace {

using test::Host;
using test::Recorder;
using test::Seen;

TEST(TraceHost, RunsStepsAndTensorsInOrder) {
    Recorder sink;
    Host host;
    EXPECT_EQ(trace_host_active(host.host), 0);
    ASSERT_EQ(trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error), BITNET_OK) << host.error;
    EXPECT_EQ(trace_host_active(host.host), 1);
    std::vector<float> values = {1, 2, 3, 4};
    for (int run = 0; run < 2; ++run) {
        host.begin_run();
        EXPECT_EQ(trace_host_run_open(host.host), 1);
        const int32_t tokens[] = {1, 2};
        trace_host_begin_step(host.host, 5, tokens, 2);
        host.tensor(BITNET_STAGE_ATTN_NORM, 3, 5, values, 2);
        trace_host_end_step(host.host, BITNET_OK);
        EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK);
        EXPECT_EQ(trace_host_run_open(host.host), 0);
    }
    ASSERT_EQ(sink.seen.size(), 10u);
    const uint32_t types[] = {BITNET_EVENT_RUN_BEGIN, BITNET_EVENT_STEP_BEGIN, BITNET_EVENT_TENSOR,
                              BITNET_EVENT_STEP_END, BITNET_EVENT_RUN_END};
    for (size_t i = 0; i < 10; ++i) {
        EXPECT_EQ(sink.seen[i].type, types[i % 5]);
        EXPECT_EQ(sink.seen[i].seq, i);
        EXPECT_EQ(sink.seen[i].run, i / 5);
        EXPECT_EQ(sink.seen[i].flags, 0u);
    }
    const Seen &tensor = sink.seen[2];
    EXPECT_EQ(tensor.stage_name, "attn_norm");
    EXPECT_EQ(tensor.position, 5);
    EXPECT_EQ(tensor.layer, 3);
    EXPECT_EQ(tensor.values, values);
    EXPECT_GT(tensor.ns, 0u);
    const bitnet_trace_stats_t stats = host.stats();
    EXPECT_EQ(stats.n_sinks, 1u);
    EXPECT_EQ(stats.n_events, 10u);
    EXPECT_EQ(stats.n_bytes, 32u);
    EXPECT_EQ(stats.n_failures, 0u);
    EXPECT_GT(stats.seconds, 0);
    EXPECT_STREQ(stats.last_failure, "");
    EXPECT_EQ(sink.n_flushed, 2);
    trace_host_detach_all(host.host);
    EXPECT_EQ(sink.n_closed, 1);
    EXPECT_EQ(trace_host_active(host.host), 0);
}

TEST(TraceHost, RunEndCounts) {
    uint64_t n_tensors = 0, n_rows = 0, n_tokens = 0;
    Recorder sink;
    sink.on_event = [&](const bitnet_event_t *event) {
        if (event->type == BITNET_EVENT_RUN_END) {
            const auto *end = reinterpret_cast<const bitnet_run_end_event_t *>(event);
            n_tensors = end->n_tensors, n_rows = end->n_rows, n_tokens = end->n_tokens;
        }
        return BITNET_OK;
    };
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    ASSERT_EQ(trace_host_select(host.host, "{0;2}:*:*", host.error), BITNET_OK);
    host.begin_run();
    std::vector<float> values(6);
    trace_host_begin_step(host.host, 0, nullptr, 3);
    host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 3);
    trace_host_end_step(host.host, BITNET_OK);
    trace_host_begin_step(host.host, 3, nullptr, 3);
    host.tensor(BITNET_STAGE_LOGITS, -1, 3, values, 3);
    trace_host_end_step(host.host, BITNET_E_CANCELLED);
    trace_host_end_run(host.host);
    EXPECT_EQ(n_tensors, 2u);
    EXPECT_EQ(n_rows, 2u);
    EXPECT_EQ(n_tokens, 3u);  // the cancelled step does not count
}

TEST(TraceHost, SplitsRowsAtTheSelection) {
    Recorder sink(uint64_t(1) << BITNET_EVENT_TENSOR);
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    ASSERT_EQ(trace_host_select(host.host, "{11;12;14}:*:logits", host.error), BITNET_OK) << host.error;
    host.begin_run();
    EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_LOGITS, -1, 10, 6), 1);
    EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_LOGITS, -1, 15, 6), 0);
    EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_ATTN_NORM, 0, 10, 6), 0);
    std::vector<float> values = {0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5};
    host.tensor(BITNET_STAGE_LOGITS, -1, 10, values, 6, 20);
    const std::vector<Seen> seen = sink.tensors();
    ASSERT_EQ(seen.size(), 2u);
    EXPECT_EQ(seen[0].position, 11);
    EXPECT_EQ(seen[0].n_rows, 2u);
    EXPECT_EQ(seen[0].first_row, 21u);
    EXPECT_EQ(seen[0].values, (std::vector<float>{1, 1.5, 2, 2.5}));
    EXPECT_EQ(seen[1].position, 14);
    EXPECT_EQ(seen[1].first_row, 24u);
    EXPECT_EQ(seen[1].values, (std::vector<float>{4, 4.5}));
    EXPECT_EQ(seen[1].seq, seen[0].seq + 1);
}

TEST(TraceHost, WantsNothingThatNoSinkTakes) {
    Recorder sink(uint64_t(1) << BITNET_EVENT_STEP_END);
    Host host;
    EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_LOGITS, -1, 0, 1), 0);
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    host.begin_run();
    EXPECT_EQ(trace_host_wants(host.host, BITNET_STAGE_LOGITS, -1, 0, 1), 0);
    std::vector<float> values(4);
    host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 1);
    EXPECT_TRUE(sink.seen.empty());
    EXPECT_EQ(host.stats().n_events, 0u);
    EXPECT_EQ(host.stats().n_bytes, 0u);
}

TEST(TraceHost, AFailingSinkIsDetachedAndTheOthersGoOn) {
    Recorder bad, good;
    bad.on_event = [&](const bitnet_event_t *event) -> bitnet_status_t {
        bad.host->log(bad.host, BITNET_LOG_INFO, "one\ttwo");
        return event->type == BITNET_EVENT_TENSOR ? BITNET_E_IO : BITNET_OK;
    };
    Host host;
    trace_host_attach_sink(host.host, &bad.table, &bad, nullptr, host.error);
    trace_host_attach_sink(host.host, &good.table, &good, nullptr, host.error);
    host.begin_run();
    std::vector<float> values = {1, 2};
    for (int i = 0; i < 3; ++i) host.tensor(BITNET_STAGE_LOGITS, -1, i, values, 1);
    trace_host_end_run(host.host);
    EXPECT_EQ(bad.tensors().size(), 1u);
    EXPECT_EQ(bad.n_closed, 1);
    EXPECT_EQ(good.tensors().size(), 3u);
    EXPECT_EQ(good.n_closed, 0);
    const bitnet_trace_stats_t stats = host.stats();
    EXPECT_EQ(stats.n_failures, 1u);
    EXPECT_EQ(stats.n_sinks, 1u);
    EXPECT_STREQ(stats.last_failure, "sink 'recorder': event 1 failed: one two");
    EXPECT_EQ(test::logged().back(), "sink 'recorder': event 1 failed: one two");
    EXPECT_EQ(test::logged().front(), "sink 'recorder': one two");
}

TEST(TraceHost, AttachingEndsTheRunSoThatEverySinkSeesOneFromItsStart) {
    Recorder first, second;
    Host host;
    trace_host_attach_sink(host.host, &first.table, &first, nullptr, host.error);
    host.begin_run();
    trace_host_begin_step(host.host, 0, nullptr, 1);
    EXPECT_EQ(trace_host_attach_sink(host.host, &second.table, &second, nullptr, host.error), BITNET_E_BUSY);
    EXPECT_STREQ(host.error, "sinks cannot be attached during an evaluation");
    EXPECT_EQ(trace_host_select(host.host, "logits", host.error), BITNET_E_BUSY);
    trace_host_end_step(host.host, BITNET_OK);
    EXPECT_EQ(trace_host_attach_sink(host.host, &second.table, &second, nullptr, host.error), BITNET_OK);
    EXPECT_EQ(trace_host_run_open(host.host), 0);
    EXPECT_EQ(first.seen.back().type, uint32_t(BITNET_EVENT_RUN_END));
    host.begin_run();
    EXPECT_EQ(second.seen.at(0).type, uint32_t(BITNET_EVENT_RUN_BEGIN));
    EXPECT_EQ(second.seen.at(0).run, 1u);
}

TEST(TraceHost, RefusesBadTables) {
    Recorder sink;
    Host host;
    auto attach = [&] { return trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error); };
    EXPECT_EQ(trace_host_attach_sink(host.host, nullptr, nullptr, nullptr, host.error), BITNET_E_INVALID);
    EXPECT_STREQ(host.error, "sink is NULL");
    sink.table.abi_version = 0x20003;
    EXPECT_EQ(attach(), BITNET_E_ABI);
    EXPECT_STREQ(host.error, "sink: built for plugin ABI 2.3, this host has 1.0 (the major must be equal)");
    sink.table.abi_version = BITNET_ABI_VERSION;
    sink.table.struct_size = 8;
    EXPECT_EQ(attach(), BITNET_E_ABI);
    EXPECT_STREQ(host.error, "sink: its table is 8 bytes, expected at least 56 and at most 4096");
    sink.table.struct_size = sizeof sink.table;
    sink.table.event = nullptr;
    EXPECT_EQ(attach(), BITNET_E_INVALID);
    EXPECT_STREQ(host.error, "sink: its table has no event function");
    EXPECT_EQ(trace_host_active(host.host), 0);
    EXPECT_EQ(trace_host_attach_sink(host.host, &sink.table, nullptr, nullptr, nullptr), BITNET_E_INVALID);
}

TEST(TraceHost, ServicesAreSharedAndOnlyForTheEventUnderWay) {
    Recorder first, second;
    std::vector<const void *> results;
    const bitnet_ext_hash_t *hash = nullptr;
    bitnet_tensor_event_t kept = {};
    auto use = [&](Recorder &sink) {
        return [&](const bitnet_event_t *event) {
            const bitnet_trace_host_t *api = sink.host;
            hash = static_cast<const bitnet_ext_hash_t *>(api->get_extension(api, BITNET_EXT_HASH));
            const auto *stats = static_cast<const bitnet_ext_stats_t *>(api->get_extension(api, BITNET_EXT_STATS));
            const auto *sketch = static_cast<const bitnet_ext_sketch_t *>(api->get_extension(api, BITNET_EXT_SKETCH));
            const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
            for (uint32_t row = 0; row < tensor->n_rows; ++row) {
                results.push_back(hash->blake3(api, tensor, row));
                results.push_back(stats->stats(api, tensor, row));
                results.push_back(sketch->sketch(api, tensor, row));
                EXPECT_NE(hash->multiset(api, tensor, row), 0u);
            }
            EXPECT_EQ(hash->blake3(api, tensor, tensor->n_rows), nullptr);
            kept = *tensor;
            EXPECT_NE(hash->blake3(api, &kept, 0), nullptr);  // an event may be copied
            EXPECT_EQ(hash->blake3(api, nullptr, 0), nullptr);
            EXPECT_EQ(api->get_extension(api, "bitnet.unknown/1"), nullptr);
            EXPECT_EQ(api->get_extension(api, nullptr), nullptr);
            return BITNET_OK;
        };
    };
    first.table.want = second.table.want = uint64_t(1) << BITNET_EVENT_TENSOR;
    first.on_event = use(first);
    second.on_event = use(second);
    Host host;
    trace_host_attach_sink(host.host, &first.table, &first, nullptr, host.error);
    trace_host_attach_sink(host.host, &second.table, &second, nullptr, host.error);
    host.begin_run();
    std::vector<float> values = {1, 2, 3, 4, 5, 6};
    host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 3);
    ASSERT_EQ(results.size(), 18u);
    for (size_t i = 0; i < 9; ++i) {
        EXPECT_NE(results[i], nullptr);
        EXPECT_EQ(results[i], results[i + 9]);
    }
    EXPECT_EQ(hash->blake3(first.host, &kept, 0), nullptr);
    values.assign(2000, 1.0f);
    host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 1000);  // the cache grows
    EXPECT_EQ(results.size(), 18u + 6000u);
    EXPECT_EQ(std::count(results.begin(), results.end(), nullptr), 0);
}

TEST(TraceHost, OverrideReplacesValuesAndMarksTheRun) {
    Recorder first, second;
    std::vector<bitnet_status_t> statuses;
    std::vector<double> means;
    auto mean_of = [&](Recorder &sink, const bitnet_event_t *event) {
        const auto *stats =
            static_cast<const bitnet_ext_stats_t *>(sink.host->get_extension(sink.host, BITNET_EXT_STATS));
        means.push_back(stats->stats(sink.host, reinterpret_cast<const bitnet_tensor_event_t *>(event), 1)->mean);
    };
    first.table.want = uint64_t(1) << BITNET_EVENT_TENSOR;
    first.on_event = [&](const bitnet_event_t *event) {
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        mean_of(first, event);
        if (tensor->stage != BITNET_STAGE_FFN_OUT) return BITNET_OK;
        const auto *override_ext =
            static_cast<const bitnet_ext_override_t *>(first.host->get_extension(first.host, BITNET_EXT_OVERRIDE));
        const float values[] = {30, 50};
        statuses.push_back(override_ext->replace(first.host, tensor, 1, values, 3));
        statuses.push_back(override_ext->replace(first.host, tensor, 2, values, 2));
        statuses.push_back(override_ext->replace(first.host, tensor, 1, nullptr, 2));
        statuses.push_back(override_ext->replace(first.host, tensor, 1, values, 2));
        return BITNET_OK;
    };
    second.on_event = [&](const bitnet_event_t *event) {
        if (event->type == BITNET_EVENT_TENSOR) mean_of(second, event);
        return BITNET_OK;
    };
    Host host;
    trace_host_attach_sink(host.host, &first.table, &first, nullptr, host.error);
    trace_host_attach_sink(host.host, &second.table, &second, nullptr, host.error);
    host.begin_run();
    std::vector<float> values = {1, 2, 3, 4};
    host.tensor(BITNET_STAGE_FFN_ACT, 0, 0, values, 2);
    host.tensor(BITNET_STAGE_FFN_OUT, 0, 0, values, 2);
    EXPECT_EQ(values, (std::vector<float>{1, 2, 30, 50}));
    host.tensor(BITNET_STAGE_LAYER_OUT, 0, 0, values, 2);
    trace_host_end_run(host.host);
    host.begin_run();
    EXPECT_EQ(statuses,
              (std::vector<bitnet_status_t>{BITNET_E_INVALID, BITNET_E_INVALID, BITNET_E_INVALID, BITNET_OK}));
    EXPECT_EQ(means, (std::vector<double>{3.5, 3.5, 3.5, 40, 40, 40}));
    std::vector<uint32_t> flags;
    for (const Seen &seen : second.seen) flags.push_back(seen.flags);
    EXPECT_EQ(flags, (std::vector<uint32_t>{0, 0, 1, 1, 1,
                                            BITNET_EVENT_FLAG_OVERRIDABLE}));  // begin, act, out, layer_out, end, begin
}

std::string hash_of(const float *values, size_t n) {
    uint8_t digest[32];
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, values, n * sizeof(float));
    blake3_hasher_finalize(&hasher, digest, sizeof digest);
    return {reinterpret_cast<const char *>(digest), sizeof digest};
}

// A sink that asks for the hashes of rows in an order of its own.
struct Hashing : Recorder {
    std::vector<uint32_t> order;  // empty: as they come
    std::vector<std::string> hashes;

    Hashing() : Recorder(uint64_t(1) << BITNET_EVENT_TENSOR) {
        on_event = [this](const bitnet_event_t *event) {
            const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
            for (uint32_t i = 0; i < tensor->n_rows; ++i) ask(tensor, order.empty() ? i : order[i]);
            return BITNET_OK;
        };
    }
    void ask(const bitnet_tensor_event_t *tensor, uint32_t row) {
        const auto *hash = static_cast<const bitnet_ext_hash_t *>(host->get_extension(host, BITNET_EXT_HASH));
        hashes.push_back({reinterpret_cast<const char *>(hash->blake3(host, tensor, row)), 32});
    }
};

// Rows that are hashed several at once have the hashes that they have one by one, whatever is asked for when.
TEST(TraceHost, HashesOfManyRows) {
    constexpr size_t kElements = 300;
    for (uint32_t n_rows : {1, 2, 5, 200}) {
        std::vector<float> values(n_rows * kElements);
        for (size_t i = 0; i < values.size(); ++i) values[i] = float(i % 977) * 0.25f;
        for (int way = 0; way < 3; ++way) {
            Hashing sink;
            for (uint32_t i = 0; way && i < n_rows; ++i)
                sink.order.push_back(way == 1 ? n_rows - 1 - i : i / 3 * 3 % n_rows);
            Host host;
            trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
            host.begin_run();
            host.tensor(BITNET_STAGE_FFN_OUT, 0, 0, values, n_rows);
            ASSERT_EQ(sink.hashes.size(), n_rows);
            for (uint32_t i = 0; i < n_rows; ++i) {
                const uint32_t row = way ? sink.order[i] : i;
                EXPECT_EQ(sink.hashes[i], hash_of(&values[row * kElements], kElements))
                    << n_rows << " rows, way " << way << ", number " << i;
            }
        }
    }
}

// Also of a row that is replaced after it was hashed together with others.
TEST(TraceHost, HashesOfReplacedRows) {
    std::vector<float> values(4 * 500);
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
    const std::vector<float> before = values, fresh(500, 7);
    Hashing sink;
    sink.on_event = [&](const bitnet_event_t *event) {
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        const auto *ext =
            static_cast<const bitnet_ext_override_t *>(sink.host->get_extension(sink.host, BITNET_EXT_OVERRIDE));
        sink.ask(tensor, 0);
        sink.ask(tensor, 1);
        EXPECT_EQ(ext->replace(sink.host, tensor, 2, fresh.data(), fresh.size()), BITNET_OK);
        sink.ask(tensor, 2);
        sink.ask(tensor, 3);
        return BITNET_OK;
    };
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    host.begin_run();
    host.tensor(BITNET_STAGE_FFN_OUT, 0, 0, values, 4);
    for (size_t row = 0; row < 4; ++row)
        EXPECT_EQ(sink.hashes[row], hash_of(row == 2 ? fresh.data() : &before[row * 500], 500)) << row;
}

// An engine may announce rows, and then leave some out, give others, or give one at another length.
TEST(TraceHost, HashesOfExpectedRows) {
    constexpr size_t kRows = 90;
    std::vector<std::vector<float>> rows;
    std::vector<TraceRowBytes> expected;
    for (size_t i = 0; i < kRows; ++i) {
        rows.push_back(std::vector<float>(i == 40 ? 70000 : 1 + i * 37 % 900, float(i)));
        if (i % 7 != 3) expected.push_back({rows[i].data(), rows[i].size() * sizeof(float)});
    }
    expected[4].n_bytes -= 4;
    Hashing sink;
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    host.begin_run();
    EXPECT_FALSE(trace_host_hashes(host.host));
    trace_host_expect(host.host, expected.data(), expected.size());  // outside of a step: nothing is expected
    std::vector<std::string> wanted;
    for (int step = 0; step < 3; ++step) {
        trace_host_begin_step(host.host, step, nullptr, 1);
        if (step != 1) trace_host_expect(host.host, expected.data(), expected.size());
        for (size_t i = 0; i < kRows; ++i) {
            if (i % 11 == 5) continue;
            host.tensor(BITNET_STAGE_FFN_OUT, 0, step, rows[i], 1);
            wanted.push_back(hash_of(rows[i].data(), rows[i].size()));
        }
        trace_host_end_step(host.host, BITNET_OK);
        EXPECT_TRUE(trace_host_hashes(host.host));
        for (std::vector<float> &row : rows) row[0] += 1;  // what was announced holds no longer than its step
    }
    EXPECT_EQ(sink.hashes, wanted);
}

TEST(TraceHost, OverrideIsForOwnF32StagesOnly) {
    Recorder sink(uint64_t(1) << BITNET_EVENT_TENSOR);
    bitnet_status_t status = BITNET_OK;
    sink.on_event = [&](const bitnet_event_t *event) {
        const auto *ext =
            static_cast<const bitnet_ext_override_t *>(sink.host->get_extension(sink.host, BITNET_EXT_OVERRIDE));
        const float values[2] = {7, 7};
        status = ext->replace(sink.host, reinterpret_cast<const bitnet_tensor_event_t *>(event), 0, values, 2);
        return BITNET_OK;
    };
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    trace_host_select(host.host, "**,*.*", host.error);
    host.begin_run();
    int8_t codes[2] = {1, 2};
    bitnet_tensor_event_t rows = {};
    rows.stage = BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES;
    rows.dtype = BITNET_DTYPE_I8;
    rows.n_rows = rows.n_dims = 1;
    rows.row_elements = rows.shape[0] = rows.row_stride = 2;
    rows.data = codes;
    trace_host_tensor(host.host, &rows, codes);
    EXPECT_EQ(status, BITNET_E_UNSUPPORTED);
    float foreign[2] = {1, 2};
    rows.stage = BITNET_STAGE_ATTN_NORM;
    rows.dtype = BITNET_DTYPE_F32;
    rows.row_stride = 8;
    rows.data = foreign;
    status = BITNET_OK;
    trace_host_tensor(host.host, &rows, nullptr);
    EXPECT_EQ(status, BITNET_E_UNSUPPORTED);
    EXPECT_EQ(foreign[0], 1);
}

TEST(TraceHost, ForeignStageNamesPassTheDefaultSelection) {
    Recorder sink(uint64_t(1) << BITNET_EVENT_TENSOR);
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    float value = 1;
    bitnet_tensor_event_t rows = {};
    rows.stage_name = "kqv_out";
    rows.n_rows = rows.n_dims = 1;
    rows.row_elements = rows.shape[0] = 1;
    rows.row_stride = 4;
    rows.data = &value;
    host.begin_run();
    trace_host_tensor(host.host, &rows, nullptr);
    trace_host_select(host.host, "logits", host.error);
    host.begin_run();
    trace_host_tensor(host.host, &rows, nullptr);
    ASSERT_EQ(sink.tensors().size(), 1u);
    EXPECT_EQ(sink.tensors()[0].stage_name, "kqv_out");
}

TEST(TraceHost, PromptAndSelectionReachTheRunRecordOnce) {
    std::vector<std::string> prompts, selections;
    Recorder sink(uint64_t(1) << BITNET_EVENT_RUN_BEGIN);
    sink.on_event = [&](const bitnet_event_t *event) {
        const auto *run = reinterpret_cast<const bitnet_run_begin_event_t *>(event);
        prompts.push_back(run->prompt ? std::string(run->prompt, run->n_prompt_bytes) : "(none)");
        selections.push_back(run->selection);
        return BITNET_OK;
    };
    Host host;
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    EXPECT_EQ(trace_host_select(host.host, "nope", host.error), BITNET_E_INVALID);
    trace_host_set_prompt(host.host, "a\0b", 3);
    host.begin_run();
    trace_host_select(host.host, "logits", host.error);
    host.begin_run();
    trace_host_set_prompt(host.host, "", 0);
    host.begin_run();
    trace_host_set_prompt(host.host, "x", 1);
    trace_host_set_prompt(host.host, nullptr, 0);
    host.begin_run();
    EXPECT_EQ(prompts, (std::vector<std::string>{std::string("a\0b", 3), "(none)", "", "(none)"}));
    EXPECT_EQ(selections, (std::vector<std::string>{"", "logits", "logits", "logits"}));
}

TEST(TraceHost, ASinkMayNotAttachSelectOrEnd) {
    Recorder sink, other;
    std::vector<bitnet_status_t> statuses;
    Host host;  // declared last: its end delivers to the sinks
    sink.on_event = [&](const bitnet_event_t *) {
        char error[TRACE_ERROR_BYTES];
        statuses.push_back(trace_host_attach_sink(host.host, &other.table, &other, nullptr, error));
        statuses.push_back(trace_host_select(host.host, "logits", error));
        statuses.push_back(trace_host_end_run(host.host));
        trace_host_detach_all(host.host);
        return BITNET_OK;
    };
    trace_host_attach_sink(host.host, &sink.table, &sink, nullptr, host.error);
    host.begin_run();
    EXPECT_EQ(statuses, (std::vector<bitnet_status_t>(3, BITNET_E_BUSY)));
    EXPECT_EQ(trace_host_active(host.host), 1);
    sink.on_event = nullptr;
}

}  // namespace
}  // namespace bitnet
