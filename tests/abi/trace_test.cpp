// Section 10 of the header with in-process sinks: events, order, selection, override, failing sinks.
#include <algorithm>
#include <set>

#include "tests/abi/stages.h"
#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

std::string name_of(int32_t position, int32_t layer, const std::string &stage) {
    std::string name = "t";
    name += std::to_string(position) + "/" + std::to_string(layer) + "/" + stage;
    return name;
}

class Trace : public Traced {
protected:
    std::set<std::string> traced(const char *selection, int n = 3) {
        attach(selection);
        recorder_.seen.clear();
        EXPECT_OK(bitnet_context_reset(ctx()));
        EXPECT_OK(eval(ctx(), prompt(n)));
        EXPECT_OK(bitnet_trace_set_sink(ctx(), nullptr, nullptr));
        std::set<std::string> names;
        for (const Seen &s : recorder_.of_type(BITNET_EVENT_TENSOR))
            for (uint32_t r = 0; r < s.n_rows; ++r)
                names.insert(name_of(s.header.position + int32_t(r), s.header.layer, s.name));
        return names;
    }
    bitnet_trace_stats_t stats() {
        auto out = make<bitnet_trace_stats_t>();
        EXPECT_OK(bitnet_trace_get_stats(ctx(), &out));
        return out;
    }
};

TEST(Stages, Names) {
    int n = 0;
    for (int32_t stage = -1; stage < 0x1000; ++stage) n += bitnet_stage_name(stage) != nullptr;
    EXPECT_EQ(n, BITNET_STAGE_COUNT + 4 + 4 + 7);
    for (const Expected &e : block_stages(1)) EXPECT_STREQ(bitnet_stage_name(e.stage), e.name);
    EXPECT_STREQ(bitnet_stage_name(BITNET_STAGE_EMBEDDINGS), "embeddings");
    EXPECT_STREQ(bitnet_stage_name(BITNET_STAGE_FINAL_NORM), "final_norm");
    EXPECT_STREQ(bitnet_stage_name(BITNET_STAGE_LOGITS), "logits");
    for (const int32_t stage : {0, 23, -1, INT32_MIN, INT32_MAX, BITNET_STAGE_LOGITS | BITNET_STAGE_ACC, 0x400})
        EXPECT_EQ(bitnet_stage_name(stage), nullptr) << stage;
}

TEST_F(Trace, OneTokenShowsEveryStageInOrder) {
    attach(everything);
    ASSERT_OK(eval(ctx(), {11}));
    ASSERT_OK(eval(ctx(), {12}));
    ASSERT_OK(bitnet_trace_end_run(ctx()));
    std::vector<std::tuple<int32_t, int32_t, Expected>> expected;
    for (int32_t position = 0; position < 2; ++position) {
        expected.emplace_back(position, -1, Expected{BITNET_STAGE_EMBEDDINGS, "embeddings", {n_embd}});
        for (int32_t layer = 0; layer < n_layer; ++layer)
            for (const Expected &e : block_stages(uint64_t(position) + 1)) expected.emplace_back(position, layer, e);
        expected.emplace_back(position, -1, Expected{BITNET_STAGE_FINAL_NORM, "final_norm", {n_embd}});
        expected.emplace_back(position, -1, Expected{BITNET_STAGE_LOGITS, "logits", {n_vocab}});
    }
    const std::vector<Seen> tensors = recorder_.of_type(BITNET_EVENT_TENSOR);
    ASSERT_EQ(tensors.size(), expected.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
        const Seen &s = tensors[i];
        const auto &[position, layer, e] = expected[i];
        const std::string where = std::to_string(i) + ": " + s.name + ", expected " + e.name;
        EXPECT_EQ(s.name, e.name) << where;
        EXPECT_EQ(s.stage, e.stage) << where;
        EXPECT_EQ(s.header.layer, layer) << where;
        EXPECT_EQ(s.header.position, position) << where;
        EXPECT_EQ(s.shape, e.shape) << where;
        EXPECT_EQ(s.dtype, e.dtype) << where;
        EXPECT_EQ(s.n_rows, 1u);
        EXPECT_EQ(s.first_row, 0u);
        uint64_t product = 1;
        for (const uint64_t n : s.shape) product *= n;
        EXPECT_EQ(s.row_elements, product) << where;
    }
    EXPECT_EQ(floats(tensors.back().rows[0]), row(ctx()));
    EXPECT_EQ(tensors[4].kernel, std::string("ternary.") + bitnet_model_isa(model_.get()));
}

TEST_F(Trace, RunsAndStepsFrameTheTensors) {
    ASSERT_OK(bitnet_trace_set_prompt(ctx(), "a prompt\0 of bytes", 18));
    attach("layer_out");
    ASSERT_OK(eval(ctx(), {5, 6, 7}));
    ASSERT_OK(eval(ctx(), {8}, BITNET_LOGITS_NONE));
    ASSERT_OK(bitnet_context_truncate(ctx(), 2));
    ASSERT_OK(eval(ctx(), {9}));
    ASSERT_OK(bitnet_trace_set_sink(ctx(), nullptr, nullptr));
    std::string types;
    uint64_t seq = 0, time = 0;
    for (const Seen &s : recorder_.seen) {
        types += "?RsteEk"[s.header.type];
        EXPECT_EQ(s.header.seq, seq++);
        EXPECT_GE(s.header.time_ns, time);
        EXPECT_EQ(s.header.flags, 0u);
        time = s.header.time_ns;
    }
    EXPECT_EQ(types, "RstttkestttkeERstttkeE") << "R and E: run, s and e: step, t: tensor, k: cache";
    const std::vector<Seen> runs = recorder_.of_type(BITNET_EVENT_RUN_BEGIN),
                            steps = recorder_.of_type(BITNET_EVENT_STEP_BEGIN);
    const std::string semantics = bitnet_model_semantics(model_.get());
    EXPECT_EQ(runs[0].text, semantics + ";layer_out;" + std::string("a prompt\0 of bytes", 18));
    EXPECT_EQ(runs[1].text, semantics + ";layer_out;NULL") << "a prompt is of one run";
    EXPECT_EQ(runs[0].tokens, (std::vector<int32_t>{5, 6, 7}));
    EXPECT_EQ(runs[1].tokens, (std::vector<int32_t>{9}));
    EXPECT_EQ(steps[1].tokens, (std::vector<int32_t>{8}));
    EXPECT_EQ(steps[1].header.position, 3);
    EXPECT_EQ(steps[2].header.position, 2);
    EXPECT_EQ(steps[2].header.run, 1u);
    const std::vector<Seen> ends = recorder_.of_type(BITNET_EVENT_RUN_END);
    EXPECT_EQ(ends[0].end.n_tensors, 6u);
    EXPECT_EQ(ends[0].end.n_rows, 12u);
    EXPECT_EQ(ends[0].end.n_tokens, 4u);
    EXPECT_EQ(ends[1].end.n_tensors, 3u);
    EXPECT_EQ(recorder_.n_opened, 1);
    EXPECT_EQ(recorder_.n_closed, 1);
    EXPECT_GE(recorder_.n_flushed, 2);
}

TEST_F(Trace, RunEventSaysWhatRan) {
    struct Run {
        std::map<std::string, std::string> text;
        int32_t n_threads, n_batch;
    } run;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        EXPECT_EQ(event->size % 8, 0u);
        if (event->type != BITNET_EVENT_RUN_BEGIN) return BITNET_OK;
        EXPECT_EQ(event->size, sizeof(bitnet_run_begin_event_t));
        const auto &e = *reinterpret_cast<const bitnet_run_begin_event_t *>(event);
        run = {{{"engine", e.engine},
                {"version", e.engine_version},
                {"path", e.model_path},
                {"hash", e.model_hash},
                {"architecture", e.architecture},
                {"hyperparameters", e.hyperparameters},
                {"semantics", e.semantics},
                {"isa", e.isa},
                {"kv", e.kv_type}},
               e.n_threads,
               e.n_batch};
        return BITNET_OK;
    };
    const Context other = context(model_.get(), 32, 3, 7, BITNET_KV_F16);
    ASSERT_OK(bitnet_trace_set_sink(other.get(), &recorder_.table, &recorder_));
    ASSERT_OK(eval(other.get(), prompt(2)));
    char hash[65];
    size_t n = sizeof hash;
    ASSERT_OK(bitnet_model_hash(model_.get(), hash, &n));
    EXPECT_EQ(run.text["engine"], "bitnet-c");
    EXPECT_EQ(run.text["version"], bitnet_version());
    EXPECT_EQ(run.text["path"], small_model);
    EXPECT_EQ(run.text["hash"], hash);
    EXPECT_EQ(run.text["architecture"], "bitnet-b1.58");
    EXPECT_EQ(run.text["semantics"], bitnet_model_semantics(model_.get()));
    EXPECT_EQ(run.text["isa"], bitnet_model_isa(model_.get()));
    EXPECT_EQ(run.text["kv"], "f16");
    EXPECT_EQ(run.n_threads, 3);
    EXPECT_EQ(run.n_batch, 7);
    for (const char *item :
         {"n_layer=3", "n_embd=256", "n_ff=768", "n_vocab=512", "n_head=4", "n_head_kv=2", "head_dim=64"})
        EXPECT_NE(("," + run.text["hyperparameters"] + ",").find("," + std::string(item) + ","), std::string::npos)
            << item;
}

TEST_F(Trace, EveryRowOnceAndTheSameForEverySplit) {
    const std::vector<int32_t> tokens = prompt(9);
    std::map<Recorder::Key, std::vector<uint8_t>> expected;
    for (const size_t part : {9, 1, 4})
        for (const int n_batch : {64, 2}) {
            Recorder recorder;
            const Context other = context(model_.get(), 32, int(part % 3) + 1, n_batch);
            ASSERT_OK(bitnet_trace_set_sink(other.get(), &recorder.table, &recorder));
            ASSERT_OK(bitnet_trace_select(other.get(), everything));
            for (size_t i = 0; i < tokens.size(); i += part)
                ASSERT_OK(eval(other.get(),
                               {tokens.begin() + int(i), tokens.begin() + int(std::min(i + part, tokens.size()))}));
            if (expected.empty()) expected = recorder.by_key();
            EXPECT_EQ(expected.size(), 9u * (3 + 34 * n_layer));
            EXPECT_EQ(recorder.by_key(), expected) << "parts of " << part << ", batch " << n_batch;
        }
}

TEST_F(Trace, DefaultIsEveryStageButScoresAndCompanions) {
    std::set<std::string> expected;
    for (int t = 0; t < 3; ++t) {
        for (const char *name : {"embeddings", "final_norm", "logits"}) expected.insert(name_of(t, -1, name));
        for (int layer = 0; layer < n_layer; ++layer)
            for (const Expected &e : block_stages(1))
                if (e.stage < 0x100 && e.stage != BITNET_STAGE_ATTN_SCORES) expected.insert(name_of(t, layer, e.name));
    }
    EXPECT_EQ(traced(""), expected);
    EXPECT_EQ(traced(nullptr), expected);
    EXPECT_EQ(traced("*"), expected);
}

TEST_F(Trace, Selections) {
    using Names = std::set<std::string>;
    EXPECT_EQ(traced("1:2:ffn_act"), Names{"t1/2/ffn_act"});
    EXPECT_EQ(traced("0-1:0:q_proj"), (Names{"t0/0/q_proj", "t1/0/q_proj"}));
    EXPECT_EQ(traced("2:{0;2}:v_proj"), (Names{"t2/0/v_proj", "t2/2/v_proj"}));
    EXPECT_EQ(traced("2:1:{ffn_gate;ffn_up}"), (Names{"t2/1/ffn_gate", "t2/1/ffn_up"}));
    EXPECT_EQ(traced("0:1:?_rope"), (Names{"t0/1/q_rope", "t0/1/k_rope"}));
    EXPECT_EQ(traced("2:*:logits"), Names{"t2/-1/logits"});
    EXPECT_EQ(traced("1:attn_scores"), traced("*:1:attn_scores"));
    EXPECT_EQ(traced("1:attn_scores").size(), 3u);
    EXPECT_EQ(traced("layer_out,!1:*:*"), traced("{0;2}:*:layer_out"));
    EXPECT_EQ(traced("0:0:ffn_out.acc,1:1:attn_norm.codes"), (Names{"t0/0/ffn_out.acc", "t1/1/attn_norm.codes"}));
    EXPECT_EQ(traced("9:*:*").size(), 0u) << "a token that is not there yet";
}

TEST_F(Trace, SelectionThatCanMatchNothingIsRefusedAndTheOldOneStays) {
    attach("layer_out");
    for (const char *wrong :
         {"atn_norm", "0:0:nonsense", "*:*:*:*", "5-2:*:logits", "!*", "a:0:logits", "0:0:q_proj,,"}) {
        const bitnet_status_t status = bitnet_trace_select(ctx(), wrong);
        expect_error(status, BITNET_E_INVALID);
    }
    expect_error(bitnet_trace_select(ctx(), "atn_norm"), BITNET_E_INVALID,
                 {"atn_norm", "attn_norm", "layer_out", "logits"});
    ASSERT_OK(eval(ctx(), {5}));
    for (const Seen &s : recorder_.of_type(BITNET_EVENT_TENSOR)) EXPECT_EQ(s.name, "layer_out");
    EXPECT_EQ(recorder_.of_type(BITNET_EVENT_TENSOR).size(), size_t(n_layer));
}

TEST_F(Trace, EnvironmentIsTheInitialSelection) {
    const Env env("BITNET_TRACE_SELECT", "1:0:ffn_act");
    const Context other = context(model_.get());
    ASSERT_OK(bitnet_trace_set_sink(other.get(), &recorder_.table, &recorder_));
    ASSERT_OK(eval(other.get(), prompt(3)));
    ASSERT_EQ(recorder_.of_type(BITNET_EVENT_TENSOR).size(), 1u);
    EXPECT_EQ(recorder_.of_type(BITNET_EVENT_TENSOR)[0].name, "ffn_act");
}

TEST_F(Trace, SinksOnlyGetWhatTheyWant) {
    Recorder ends(uint64_t(1) << BITNET_EVENT_RUN_END), nothing(0);  // detached below
    attach("logits");
    ASSERT_OK(bitnet_trace_set_sink(ctx(), &ends.table, &ends));
    ASSERT_OK(bitnet_trace_set_sink(ctx(), &nothing.table, &nothing));
    EXPECT_EQ(stats().n_sinks, 3u);
    ASSERT_OK(eval(ctx(), prompt(2)));
    ASSERT_OK(bitnet_trace_end_run(ctx()));
    EXPECT_EQ(ends.seen.size(), 1u);
    EXPECT_EQ(nothing.seen.size(), 0u);
    EXPECT_EQ(recorder_.of_type(BITNET_EVENT_TENSOR).size(), 2u);
    EXPECT_EQ(stats().n_events, recorder_.seen.size());
    EXPECT_EQ(stats().n_bytes, 2u * n_vocab * sizeof(float));
    EXPECT_GT(stats().seconds, 0);
    ASSERT_OK(bitnet_trace_set_sink(ctx(), nullptr, nullptr));
    EXPECT_EQ(stats().n_sinks, 0u);
    for (const Recorder *one : {&recorder_, &ends, &nothing}) EXPECT_EQ(one->n_closed, 1);
}

TEST_F(Trace, TracingDoesNotChangeTheResult) {
    const std::vector<float> expected = logits_after(model_.get(), prompt(12));
    for (const char *selection : {"", everything, "attn_scores", "logits", "*.acc", "3:*:*"}) {
        attach(selection);
        ASSERT_OK(bitnet_context_reset(ctx()));
        ASSERT_OK(eval(ctx(), prompt(12)));
        EXPECT_EQ(row(ctx()), expected) << selection;
        ASSERT_OK(bitnet_trace_set_sink(ctx(), nullptr, nullptr));
    }
}

TEST_F(Trace, FailingSinkIsDetachedAndNothingElseChanges) {
    const std::vector<int32_t> tokens = prompt(6);
    const std::vector<float> expected = logits_after(model_.get(), tokens);
    attach();
    ASSERT_OK(eval(ctx(), tokens));
    ASSERT_OK(bitnet_trace_end_run(ctx()));
    const size_t n_events = recorder_.seen.size();
    for (const size_t fail_at : {size_t(0), size_t(1), size_t(2), n_events / 2, n_events - 2, n_events - 1}) {
        Recorder failing, sound;
        const Context other = context(model_.get());
        failing.on_event = [&](const bitnet_event_t *) {
            if (failing.seen.size() <= fail_at) return BITNET_OK;
            failing.host->log(failing.host, BITNET_LOG_ERROR, "the disk is on fire");
            return BITNET_E_IO;
        };
        ASSERT_OK(bitnet_trace_set_sink(other.get(), &failing.table, &failing));
        ASSERT_OK(bitnet_trace_set_sink(other.get(), &sound.table, &sound));
        ASSERT_OK(eval(other.get(), tokens));
        EXPECT_EQ(row(other.get()), expected);
        const bitnet_status_t ended = bitnet_trace_end_run(other.get());
        if (fail_at == n_events - 1) {
            expect_error(ended, BITNET_E_PLUGIN, {"the disk is on fire"});
        } else {
            EXPECT_OK(ended);
        }
        EXPECT_EQ(failing.seen.size(), fail_at + 1);
        EXPECT_EQ(failing.n_closed, 1);
        EXPECT_EQ(sound.seen.size(), n_events);
        auto out = make<bitnet_trace_stats_t>();
        ASSERT_OK(bitnet_trace_get_stats(other.get(), &out));
        EXPECT_EQ(out.n_sinks, 1u);
        EXPECT_EQ(out.n_failures, 1u);
        EXPECT_NE(std::string(out.last_failure).find("the disk is on fire"), std::string::npos) << out.last_failure;
        EXPECT_NE(std::string(out.last_failure).find("recorder"), std::string::npos) << out.last_failure;
    }
}

TEST_F(Trace, WrongTablesAreRefused) {
    const auto attach_table = [&](auto change) {
        bitnet_trace_sink_t table = recorder_.table;
        change(table);
        return bitnet_trace_set_sink(ctx(), &table, &recorder_);
    };
    expect_error(attach_table([](auto &t) { t.struct_size = 0; }), BITNET_E_ABI);
    expect_error(attach_table([](auto &t) { t.struct_size = sizeof t - 1; }), BITNET_E_ABI);
    expect_error(attach_table([](auto &t) { t.struct_size = UINT32_MAX; }), BITNET_E_ABI);
    expect_error(attach_table([](auto &t) { t.abi_version = 2u << 16; }), BITNET_E_ABI, {"2.0", "1.0"});
    expect_error(attach_table([](auto &t) { t.abi_version = 0; }), BITNET_E_ABI);
    expect_error(attach_table([](auto &t) { t.event = nullptr; }), BITNET_E_INVALID, {"event"});
    expect_error(attach_table([](auto &t) {
                     t.open = [](void **, const bitnet_trace_host_t *, const char *) { return BITNET_E_NOMEM; };
                 }),
                 BITNET_E_USER, {"open"});
    EXPECT_EQ(stats().n_sinks, 0u);
    EXPECT_EQ(recorder_.n_closed, 0);
    EXPECT_OK(attach_table([](auto &t) {
        t.open = nullptr;
        t.flush = nullptr;
        t.close = nullptr;
        t.name = nullptr;
        t.abi_version = BITNET_ABI_VERSION + 1;  // a newer minor
    }));
    ASSERT_OK(eval(ctx(), {5}));
    EXPECT_GT(recorder_.seen.size(), 3u);
}

TEST_F(Trace, CancelledStepIsMarkedAndTokensOfTheRunCountOnce) {
    attach("layer_out");
    ASSERT_OK(eval(ctx(), {5, 6}));
    auto params = make<bitnet_eval_params_t>();
    int left = 1;
    params.cancel = [](void *user) -> int32_t { return --*static_cast<int *>(user) < 0; };
    params.cancel_user = &left;
    const int32_t tokens[] = {7, 8};
    expect_error(bitnet_eval_tokens(ctx(), tokens, 2, &params), BITNET_E_CANCELLED);
    ASSERT_OK(eval(ctx(), {7, 8}));
    ASSERT_OK(bitnet_trace_end_run(ctx()));
    const std::vector<Seen> ends = recorder_.of_type(BITNET_EVENT_STEP_END);
    ASSERT_EQ(ends.size(), 3u);
    EXPECT_EQ(ends[0].status, BITNET_OK);
    EXPECT_EQ(ends[1].status, BITNET_E_CANCELLED);
    EXPECT_EQ(ends[2].status, BITNET_OK);
    uint64_t n_tokens = 0;
    for (const Seen &s : recorder_.of_type(BITNET_EVENT_RUN_END)) n_tokens += s.end.n_tokens;
    EXPECT_EQ(n_tokens, 4u);
    // One record for each (run, position, layer, stage): what was computed twice must not be in one run twice.
    std::set<std::tuple<uint32_t, int32_t, int32_t>> records;
    for (const Seen &s : recorder_.of_type(BITNET_EVENT_TENSOR))
        for (uint32_t r = 0; r < s.n_rows; ++r)
            EXPECT_TRUE(records.emplace(s.header.run, s.header.position + int32_t(r), s.header.layer).second)
                << "run " << s.header.run << " position " << s.header.position + int32_t(r) << " layer "
                << s.header.layer;
}

TEST_F(Trace, EvalThatIsRefusedIsNoStep) {
    attach();
    expect_error(eval(ctx(), {n_vocab}), BITNET_E_INVALID);
    EXPECT_EQ(recorder_.seen.size(), 0u);
    EXPECT_EQ(stats().n_failures, 0u);
}

TEST_F(Trace, FreeingTheContextEndsTheRun) {
    {
        const Context other = context(model_.get());
        ASSERT_OK(bitnet_trace_set_sink(other.get(), &recorder_.table, &recorder_));
        ASSERT_OK(eval(other.get(), {5}));
    }
    EXPECT_EQ(recorder_.seen.back().header.type, uint32_t(BITNET_EVENT_RUN_END));
    EXPECT_EQ(recorder_.n_closed, 1);
}

}  // namespace
}  // namespace bitnet_test
