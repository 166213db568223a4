// Section 11 of the header: a foreign engine's tensors into the same sinks.
#include <atomic>
#include <thread>

#include "tests/abi/stages.h"
#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

struct TraceClose {
    void operator()(bitnet_trace_t *trace) const { bitnet_trace_close(trace); }
};
using ForeignTrace = std::unique_ptr<bitnet_trace_t, TraceClose>;

bitnet_trace_params_t foreign_params() {
    auto params = make<bitnet_trace_params_t>();
    params.engine = "other";
    params.engine_version = "7";
    params.hyperparameters = "n_layer=3,n_embd=4";
    params.plugins = "";
    return params;
}

ForeignTrace open_trace(const bitnet_trace_params_t &params = foreign_params()) {
    bitnet_trace_t *trace = nullptr;
    EXPECT_OK(bitnet_trace_open(&params, &trace));
    return ForeignTrace(trace);
}

const float four[] = {1, -2, 3, -4};

bitnet_trace_tensor_t tensor(int32_t stage, int32_t layer, int32_t position, const void *data = four) {
    auto t = make<bitnet_trace_tensor_t>();
    t.stage = stage;
    t.layer = layer;
    t.position = position;
    t.n_dims = 1;
    t.shape[0] = 4;
    t.data = data;
    return t;
}

class Foreign : public testing::Test {
protected:
    Recorder recorder_;
    ForeignTrace trace_ = open_trace();
    bitnet_trace_t *trace() { return trace_.get(); }
    void attach() { ASSERT_OK(bitnet_trace_add_sink(trace(), &recorder_.table, &recorder_)); }
    std::string types() const {
        std::string text;
        for (const Seen &s : recorder_.seen) text += "?RsteEk"[s.header.type];
        return text;
    }
};

// The same tensors, once from our engine and once handed in by "another": the sinks see the same.
TEST_F(Foreign, EventsAreThoseOfOurOwnEngine) {
    const Model model = load();
    const Context ctx = context(model.get());
    Recorder ours;
    ASSERT_OK(bitnet_trace_set_sink(ctx.get(), &ours.table, &ours));
    ASSERT_OK(bitnet_trace_select(ctx.get(), everything));
    attach();
    ASSERT_OK(bitnet_trace_reselect(trace(), everything));
    ours.on_event = [&](const bitnet_event_t *event) {
        if (event->type == BITNET_EVENT_STEP_BEGIN) {
            const auto &step = *reinterpret_cast<const bitnet_step_event_t *>(event);
            EXPECT_OK(bitnet_trace_step(trace(), event->position, step.tokens, step.n_tokens));
        } else if (event->type == BITNET_EVENT_KV_STATE) {
            EXPECT_OK(bitnet_trace_kv(trace(), &reinterpret_cast<const bitnet_kv_event_t *>(event)->kv));
        } else if (event->type == BITNET_EVENT_TENSOR) {
            const auto &e = *reinterpret_cast<const bitnet_tensor_event_t *>(event);
            auto t = make<bitnet_trace_tensor_t>();
            t.stage = e.stage;
            t.layer = event->layer;
            t.position = event->position;
            t.dtype = e.dtype;
            t.n_rows = e.n_rows;
            t.n_dims = e.n_dims;
            std::memcpy(t.shape, e.shape, sizeof t.shape);
            t.row_stride = e.row_stride;
            t.data = e.data;
            t.kernel = e.kernel;
            t.ns = e.ns;
            EXPECT_OK(bitnet_trace_emit(trace(), &t));
        }
        return BITNET_OK;
    };
    ASSERT_OK(eval(ctx.get(), prompt(3)));
    ASSERT_OK(eval(ctx.get(), {9}));
    ASSERT_OK(bitnet_trace_end_run(ctx.get()));
    ASSERT_OK(bitnet_trace_end(trace()));
    ASSERT_EQ(ours.seen.size(), recorder_.seen.size());
    for (size_t i = 0; i < ours.seen.size(); ++i) {
        const Seen &a = ours.seen[i], &b = recorder_.seen[i];
        EXPECT_EQ(a.header.type, b.header.type);
        EXPECT_EQ(a.header.seq, b.header.seq);
        EXPECT_EQ(a.header.layer, b.header.layer);
        EXPECT_EQ(a.header.position, b.header.position);
        EXPECT_EQ(a.name, b.name);
        EXPECT_EQ(a.first_row, b.first_row);
        EXPECT_EQ(a.shape, b.shape);
        EXPECT_EQ(a.rows, b.rows);
        EXPECT_EQ(a.kernel, b.kernel);
        EXPECT_EQ(a.tokens, b.tokens);
        EXPECT_EQ(a.end.n_rows, b.end.n_rows);
        EXPECT_EQ(a.end.n_tokens, b.end.n_tokens);
        EXPECT_EQ(a.kv.n_bytes, b.kv.n_bytes);
    }
}

TEST_F(Foreign, NothingAttachedLooksAtNothing) {
    EXPECT_EQ(bitnet_trace_enabled(trace()), 0);
    EXPECT_EQ(bitnet_trace_wants(trace(), BITNET_STAGE_Q_PROJ, 0, 0), 0);
    EXPECT_OK(bitnet_trace_step(trace(), -5, nullptr, 0));
    EXPECT_OK(bitnet_trace_emit(trace(), nullptr));
    EXPECT_OK(bitnet_trace_end(trace()));
}

TEST_F(Foreign, EnabledAndWants) {
    attach();
    EXPECT_EQ(bitnet_trace_enabled(trace()), 1);
    ASSERT_OK(bitnet_trace_reselect(trace(), "1:2:q_proj"));
    EXPECT_EQ(bitnet_trace_wants(trace(), BITNET_STAGE_Q_PROJ, 2, 1), 1);
    EXPECT_EQ(bitnet_trace_wants(trace(), BITNET_STAGE_Q_PROJ, 2, 0), 0);
    EXPECT_EQ(bitnet_trace_wants(trace(), BITNET_STAGE_K_PROJ, 2, 1), 0);
    EXPECT_EQ(bitnet_trace_wants(trace(), 4711, 2, 1), 0);
    expect_error(bitnet_trace_reselect(trace(), "nonsense"), BITNET_E_INVALID, {"nonsense", "q_proj"});
    // A sink that fails is gone, and the next call looks at nothing again.
    recorder_.on_event = [](const bitnet_event_t *) { return BITNET_E_IO; };
    const auto t = tensor(BITNET_STAGE_Q_PROJ, 2, 1);
    EXPECT_OK(bitnet_trace_emit(trace(), &t));
    EXPECT_EQ(bitnet_trace_enabled(trace()), 0);
    auto stats = make<bitnet_trace_stats_t>();
    ASSERT_OK(bitnet_trace_statistics(trace(), &stats));
    EXPECT_EQ(stats.n_failures, 1u);
    EXPECT_EQ(recorder_.n_closed, 1);
}

TEST_F(Foreign, StepsBeginByThemselves) {
    auto params = foreign_params();
    const std::vector<int32_t> ids = {10, 11, 12};
    params.tokens = ids.data();
    params.n_tokens = ids.size();
    trace_ = open_trace(params);
    attach();
    const float two_rows[] = {1, 2, 3, 4, 5, 6, 7, 8};
    auto t = tensor(BITNET_STAGE_EMBEDDINGS, -1, 0, two_rows);
    t.n_rows = 2;
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    t = tensor(BITNET_STAGE_ATTN_NORM, 0, 1);  // of the step that is open
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    t = tensor(BITNET_STAGE_EMBEDDINGS, -1, 2);
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    t = tensor(BITNET_STAGE_LOGITS, -1, 5);  // beyond the ids that are known
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    ASSERT_OK(bitnet_trace_end(trace()));
    EXPECT_EQ(types(), "RsttestesteE");
    const std::vector<Seen> steps = recorder_.of_type(BITNET_EVENT_STEP_BEGIN);
    ASSERT_EQ(steps.size(), 3u);
    EXPECT_EQ(steps[0].tokens, (std::vector<int32_t>{10, 11}));
    EXPECT_EQ(steps[1].tokens, (std::vector<int32_t>{12}));
    EXPECT_TRUE(steps[2].tokens.empty());
    EXPECT_EQ(steps[2].header.position, 5);
    const std::vector<Seen> tensors = recorder_.of_type(BITNET_EVENT_TENSOR);
    EXPECT_EQ(tensors[0].n_rows, 2u);
    EXPECT_EQ(floats(tensors[0].rows[1]), (std::vector<float>{5, 6, 7, 8}));
    EXPECT_EQ(tensors[1].first_row, 1u);
}

TEST_F(Foreign, APositionEvaluatedAgainBeginsARun) {
    attach();
    const int32_t ids[] = {1, 2, 3};
    ASSERT_OK(bitnet_trace_step(trace(), 0, ids, 3));
    ASSERT_OK(bitnet_trace_step(trace(), 3, ids, 1));
    ASSERT_OK(bitnet_trace_step(trace(), 2, ids, 1));
    ASSERT_OK(bitnet_trace_end(trace()));
    ASSERT_OK(bitnet_trace_step(trace(), 3, ids, 1));
    trace_.reset();
    EXPECT_EQ(types(), "RseseERseERseE");
    EXPECT_EQ(recorder_.of_type(BITNET_EVENT_RUN_END)[0].end.n_tokens, 4u);
    EXPECT_EQ(recorder_.n_closed, 1);
}

TEST_F(Foreign, NamesSayThePlaceToo) {
    attach();
    auto t = tensor(0, 7, 9);
    t.name = "t2/blk1/ffn_gate";
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    t.name = "attn_norm.scale";
    t.layer = 0;
    ASSERT_OK(bitnet_trace_emit(trace(), &t));  // not selected
    t.name = "t2/logits";
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    t.name = "all_layers_out";
    t.layer = -2;
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    const std::vector<Seen> seen = recorder_.of_type(BITNET_EVENT_TENSOR);
    ASSERT_EQ(seen.size(), 3u);
    EXPECT_EQ(seen[0].name, "ffn_gate");
    EXPECT_EQ(seen[0].header.layer, 1);
    EXPECT_EQ(seen[0].header.position, 2);
    EXPECT_EQ(seen[1].header.layer, -1);
    EXPECT_EQ(seen[2].name, "layer_out");
    EXPECT_EQ(seen[2].header.layer, 2);
    EXPECT_EQ(seen[2].header.position, 9);
}

TEST_F(Foreign, InputsReachTheSinks) {
    attach();
    const float per_row[] = {1, 2, 3, 4}, shared[] = {9};
    const float out[] = {5, 6, 7, 8};
    bitnet_tensor_input_t inputs[2] = {};
    inputs[0].name = "ffn_norm";
    inputs[0].stage = BITNET_STAGE_FFN_NORM;
    inputs[0].n_dims = 1;
    inputs[0].shape[0] = inputs[0].row_elements = 2;
    inputs[0].row_stride = 8;
    inputs[0].data = per_row;
    inputs[1].n_dims = 1;
    inputs[1].shape[0] = inputs[1].row_elements = 1;
    inputs[1].data = shared;
    auto t = tensor(BITNET_STAGE_FFN_GATE, 0, 0, out);
    t.shape[0] = 2;
    t.n_rows = 2;
    t.inputs = inputs;
    t.n_inputs = 2;
    std::vector<float> seen;
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        const auto &e = *reinterpret_cast<const bitnet_tensor_event_t *>(event);
        EXPECT_EQ(e.n_inputs, 2u);
        EXPECT_STREQ(e.inputs[0].name, "ffn_norm");
        EXPECT_STREQ(e.inputs[1].name, "");
        seen.push_back(*static_cast<const float *>(e.inputs[0].data));
        seen.push_back(*static_cast<const float *>(e.inputs[1].data));
        return BITNET_OK;
    };
    ASSERT_OK(bitnet_trace_reselect(trace(), "1:*:*"));  // the second row alone
    ASSERT_OK(bitnet_trace_emit(trace(), &t));
    EXPECT_EQ(seen, (std::vector<float>{3, 9}));
    inputs[0].row_elements = 3;
    expect_error(bitnet_trace_emit(trace(), &t), BITNET_E_INVALID, {"inputs[0].row_elements is 3", "expected 2"});
}

TEST_F(Foreign, WrongTensorsAreRefusedByName) {
    attach();
    const auto refused = [&](const bitnet_trace_tensor_t &t, std::vector<std::string> words) {
        expect_error(bitnet_trace_emit(trace(), &t), BITNET_E_INVALID, std::move(words));
    };
    auto t = tensor(999, 0, 0);
    refused(t, {"stage is 999"});
    t = tensor(0, 0, 0);
    refused(t, {"name"});
    t.name = "t0/blk0/q_prog";
    refused(t, {"q_prog", "q_proj"});
    refused(tensor(BITNET_STAGE_Q_PROJ, -1, 0), {"q_proj at layer -1", "0 to 2"});
    refused(tensor(BITNET_STAGE_Q_PROJ, 3, 0), {"q_proj at layer 3", "0 to 2"});
    refused(tensor(BITNET_STAGE_LOGITS, 0, 0), {"logits at layer 0", "-1"});
    refused(tensor(BITNET_STAGE_LOGITS, -1, -1), {"-1"});
    refused(tensor(BITNET_STAGE_LOGITS, -1, INT32_MAX), {"2147483647"});
    t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    t.dtype = 5;
    refused(t, {"dtype is 5"});
    t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    t.n_dims = 0;
    refused(t, {"n_dims is 0"});
    t.n_dims = 5;
    refused(t, {"n_dims is 5"});
    t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    t.shape[0] = 0;
    refused(t, {"shape[0] is 0"});
    t.shape[0] = UINT64_MAX;
    refused(t, {"shape[0]"});
    t.n_dims = 2;
    t.shape[0] = t.shape[1] = uint64_t(1) << 32;
    refused(t, {"shape[1]"});
    t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    t.row_stride = 15;
    refused(t, {"row_stride is 15", "16"});
    t = tensor(BITNET_STAGE_LOGITS, -1, 0, nullptr);
    refused(t, {"data"});
    t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    t.struct_size = 8;
    expect_error(bitnet_trace_emit(trace(), &t), BITNET_E_ABI, {"struct_size"});
    auto kv = make<bitnet_kv_state_t>();
    expect_error(bitnet_trace_kv(trace(), &kv), BITNET_E_INVALID, {"no step"});
    expect_error(bitnet_trace_step(trace(), -1, nullptr, 1), BITNET_E_INVALID, {"-1"});
    expect_error(bitnet_trace_step(trace(), 0, nullptr, 0), BITNET_E_INVALID, {"0 positions"});
    EXPECT_TRUE(recorder_.seen.empty());
}

TEST(ForeignOpen, WrongParametersAreRefusedByName) {
    bitnet_trace_t *trace = nullptr;
    const auto refused = [&](const bitnet_trace_params_t &params, bitnet_status_t status,
                             std::vector<std::string> words) {
        expect_error(bitnet_trace_open(&params, &trace), status, std::move(words));
        EXPECT_EQ(trace, nullptr);
    };
    auto params = foreign_params();
    params.engine = "";
    refused(params, BITNET_E_INVALID, {"engine"});
    params = foreign_params();
    params.flags = 1;
    refused(params, BITNET_E_INVALID, {"flags is 0x1"});
    params = foreign_params();
    params.model_hash = "abc";
    refused(params, BITNET_E_INVALID, {"model_hash is 'abc'", "64"});
    params = foreign_params();
    params.hyperparameters = "n_layer";
    refused(params, BITNET_E_INVALID, {"hyperparameters", "n_layer", "key=value"});
    params = foreign_params();
    params.semantics = "=x";
    refused(params, BITNET_E_INVALID, {"semantics", "key=value"});
    params = foreign_params();
    params.selection = "nonsense";
    refused(params, BITNET_E_INVALID, {"nonsense"});
    params = foreign_params();
    params.plugins = "no_such_plugin";
    refused(params, BITNET_E_PLUGIN, {"no_such_plugin"});
}

TEST(ForeignOpen, TheEnvironmentNeverFailsIt) {
    const Env plugins("BITNET_TRACE_PLUGIN", "no_such_plugin");
    auto params = foreign_params();
    params.plugins = nullptr;
    const ForeignTrace trace = open_trace(params);
    EXPECT_EQ(bitnet_trace_enabled(trace.get()), 0);
    auto stats = make<bitnet_trace_stats_t>();
    ASSERT_OK(bitnet_trace_statistics(trace.get(), &stats));
    EXPECT_EQ(stats.n_failures, 1u);
    EXPECT_NE(std::string(stats.last_failure).find("no_such_plugin"), std::string::npos);
}

TEST_F(Foreign, ASinkThatAsksToStopIsReportedOnce) {
    recorder_.on_event = [&](const bitnet_event_t *event) {
        if (event->type == BITNET_EVENT_TENSOR)
            static_cast<const bitnet_ext_stop_t *>(recorder_.host->get_extension(recorder_.host, BITNET_EXT_STOP))
                ->stop(recorder_.host, "seen enough");
        return BITNET_OK;
    };
    attach();
    EXPECT_EQ(recorder_.host->get_extension(recorder_.host, BITNET_EXT_LENS), nullptr);
    EXPECT_EQ(recorder_.host->get_extension(recorder_.host, BITNET_EXT_REFERENCE), nullptr);
    auto t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    expect_error(bitnet_trace_emit(trace(), &t), BITNET_E_USER, {"sink 'recorder': seen enough"});
    recorder_.on_event = nullptr;
    t = tensor(BITNET_STAGE_LOGITS, -1, 1);
    EXPECT_OK(bitnet_trace_emit(trace(), &t));
}

TEST_F(Foreign, ASinkThatCallsBackIsBusy) {
    bitnet_status_t status = BITNET_OK;
    const auto t = tensor(BITNET_STAGE_LOGITS, -1, 0);
    recorder_.on_event = [&](const bitnet_event_t *) {
        status = bitnet_trace_emit(trace(), &t);
        return BITNET_OK;
    };
    attach();
    EXPECT_OK(bitnet_trace_emit(trace(), &t));
    expect_error(status, BITNET_E_BUSY, {"in use"});
    recorder_.on_event = nullptr;  // the run ends after this function's variables
}

TEST_F(Foreign, ManyThreadsEmitIntoOneTrace) {
    attach();
    constexpr int n_threads = 4, n_each = 200;
    const int32_t ids[1] = {1};
    ASSERT_OK(bitnet_trace_step(trace(), 0, ids, 1));
    std::vector<std::thread> threads;
    std::atomic<int> failed{0};
    for (int i = 0; i < n_threads; ++i)
        threads.emplace_back([&, i] {
            for (int j = 0; j < n_each; ++j) {
                const float values[] = {float(i), float(j), 0, 0};
                auto t = tensor(BITNET_STAGE_Q_PROJ + i, j % 3, 0, values);
                failed += bitnet_trace_emit(trace(), &t) != BITNET_OK;
                failed += bitnet_trace_enabled(trace()) != 1;
            }
        });
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(failed, 0);
    ASSERT_OK(bitnet_trace_end(trace()));
    EXPECT_EQ(recorder_.of_type(BITNET_EVENT_TENSOR).size(), size_t(n_threads * n_each));
    uint64_t seq = 0;
    for (const Seen &s : recorder_.seen) EXPECT_EQ(s.header.seq, seq++);
}

}  // namespace
}  // namespace bitnet_test
