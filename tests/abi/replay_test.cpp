// Section 12 of the header: replay. What each operation computes is tests/core/replay_test.cpp's; here the boundary's
// rules.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/abi/stages.h"

namespace bitnet_test {
namespace {

struct ReplayFree {
    void operator()(bitnet_replay_t *replay) const { bitnet_replay_free(replay); }
};
using Replay = std::unique_ptr<bitnet_replay_t, ReplayFree>;

Replay create(const bitnet_model_t *model, const char *semantics = nullptr) {
    bitnet_replay_t *replay = nullptr;
    EXPECT_OK(bitnet_replay_create(model, semantics, &replay));
    return Replay(replay);
}

class ReplayTest : public Traced {
protected:
    static constexpr int n_tokens = 5;
    const Replay replay_ = create(model_.get());
    std::map<Recorder::Key, std::vector<uint8_t>> recorded_;

    void SetUp() override {
        attach(everything);
        ASSERT_OK(eval(ctx(), prompt(n_tokens)));
        ASSERT_OK(bitnet_trace_end_run(ctx()));
        recorded_ = recorder_.by_key();
    }

    std::vector<uint8_t> rows(int32_t layer, int32_t stage) const {
        std::vector<uint8_t> all;
        for (int32_t p = 0; p < n_tokens; ++p) {
            const std::vector<uint8_t> &row = recorded_.at({p, layer, stage});
            all.insert(all.end(), row.begin(), row.end());
        }
        return all;
    }

    static size_t element_bytes(int32_t dtype) { return dtype == BITNET_DTYPE_I8 ? 1 : 4; }
    static int32_t dtype_of(int32_t stage) {
        const int32_t companion = stage & ~0xff;
        return companion == BITNET_STAGE_CODES ? BITNET_DTYPE_I8
               : companion == BITNET_STAGE_ACC ? BITNET_DTYPE_I32
                                               : BITNET_DTYPE_F32;
    }
    static bitnet_rows_t view(int32_t stage, const std::vector<uint8_t> &bytes) {
        const int32_t dtype = dtype_of(stage);
        const size_t row = bytes.size() / n_tokens;
        return {stage, dtype, n_tokens, row / element_bytes(dtype), row, bytes.data()};
    }
};

TEST_F(ReplayTest, EveryOperationGivesWhatWasTraced) {
    const size_t n = bitnet_replay_operation_count(replay_.get());
    EXPECT_EQ(n * n_tokens, recorded_.size());
    const std::vector<int32_t> tokens = prompt(n_tokens);
    for (size_t i = 0; i < n; ++i) {
        auto operation = make<bitnet_operation_t>();
        ASSERT_OK(bitnet_replay_operation(replay_.get(), i, &operation));
        std::vector<std::vector<uint8_t>> bytes;
        std::vector<bitnet_rows_t> inputs;
        for (uint32_t k = 0; k < operation.n_inputs; ++k)
            bytes.push_back(rows(operation.input_layer[k], operation.input_stage[k]));
        for (uint32_t k = 0; k < operation.n_inputs; ++k) inputs.push_back(view(operation.input_stage[k], bytes[k]));
        if (operation.n_inputs == 0) inputs.push_back({0, BITNET_DTYPE_I32, n_tokens, 1, 4, tokens.data()});
        auto params = make<bitnet_replay_params_t>();
        params.stage = operation.stage;
        params.layer = operation.layer;
        params.inputs = inputs.data();
        params.n_inputs = uint32_t(inputs.size());
        size_t n_elements = 0;
        ASSERT_OK(bitnet_replay_run(replay_.get(), &params, nullptr, &n_elements));
        if (operation.row_elements) {
            EXPECT_EQ(n_elements, n_tokens * operation.row_elements);
        }
        std::vector<uint8_t> out(n_elements * element_bytes(operation.dtype));
        ASSERT_OK(bitnet_replay_run(replay_.get(), &params, out.data(), &n_elements));
        EXPECT_EQ(out, rows(operation.layer, operation.stage)) << bitnet_stage_name(operation.stage);
        EXPECT_EQ(operation.dtype, dtype_of(operation.stage));
    }
    auto operation = make<bitnet_operation_t>();
    expect_error(bitnet_replay_operation(replay_.get(), n, &operation), BITNET_E_INVALID,
                 {std::to_string(n) + ": there are " + std::to_string(n)});
}

TEST_F(ReplayTest, BufferAndStructRules) {
    const std::vector<uint8_t> norm = rows(1, BITNET_STAGE_ATTN_NORM);
    const bitnet_rows_t input = view(BITNET_STAGE_ATTN_NORM, norm);
    auto params = make<bitnet_replay_params_t>();
    params.stage = BITNET_STAGE_K_PROJ;
    params.layer = 1;
    params.inputs = &input;
    params.n_inputs = 1;
    const size_t need = n_tokens * n_head_kv * head_dim;
    std::vector<float> out(need, 42.0f);
    size_t n = need - 1;
    expect_error(bitnet_replay_run(replay_.get(), &params, out.data(), &n), BITNET_E_BUFFER,
                 {std::to_string(need - 1), std::to_string(need)});
    EXPECT_EQ(n, need);
    for (const float value : out) ASSERT_EQ(value, 42.0f);
    ASSERT_OK(bitnet_replay_run(replay_.get(), &params, out.data(), &n));
    for (const uint32_t size : {0u, 31u, 5000u}) {
        params.struct_size = size;
        expect_error(bitnet_replay_run(replay_.get(), &params, out.data(), &n), BITNET_E_ABI, {std::to_string(size)});
        auto operation = make<bitnet_operation_t>();
        operation.struct_size = size;
        expect_error(bitnet_replay_operation(replay_.get(), 0, &operation), BITNET_E_ABI, {std::to_string(size)});
    }
    params.struct_size = sizeof params;
    params.n_inputs = 0;
    expect_error(bitnet_replay_run(replay_.get(), &params, out.data(), &n), BITNET_E_INVALID,
                 {"bitnet_replay_run: k_proj of layer 1: its input attn_norm", "missing"});
}

TEST_F(ReplayTest, Semantics) {
    EXPECT_STREQ(bitnet_replay_semantics(replay_.get()), bitnet_model_semantics(model_.get()));
    const Replay other = create(model_.get(), "activation=silu,rope_offset@1=1");
    const std::string text = bitnet_replay_semantics(other.get());
    EXPECT_EQ(text.find("activation=silu"), 0u);
    EXPECT_NE(text.find(",rope_offset@1=1"), std::string::npos) << text;
    bitnet_replay_t *out = nullptr;
    expect_error(bitnet_replay_create(model_.get(), "activation=swish", &out), BITNET_E_INVALID, {"swish", "silu"});
    expect_error(bitnet_replay_create(model_.get(), "kv@3=f16", &out), BITNET_E_INVALID, {"layer 3", "0 to 2"});
    EXPECT_EQ(out, nullptr);
    // Without sub-norms the projection reads what the norm would have read.
    const Replay without = create(model_.get(), "sub_norms=off");
    for (size_t i = 0; i < bitnet_replay_operation_count(without.get()); ++i) {
        auto operation = make<bitnet_operation_t>();
        ASSERT_OK(bitnet_replay_operation(without.get(), i, &operation));
        EXPECT_NE(operation.stage, BITNET_STAGE_ATTN_SUB_NORM);
        if (operation.stage == BITNET_STAGE_ATTN_OUT) {
            EXPECT_EQ(operation.input_stage[0], BITNET_STAGE_ATTN_CONTEXT);
        }
    }
}

TEST_F(ReplayTest, OneThreadAtATime) {
    const std::vector<uint8_t> q = rows(0, BITNET_STAGE_Q_ROPE), k = rows(0, BITNET_STAGE_K_ROPE),
                               v = rows(0, BITNET_STAGE_V_PROJ);
    const bitnet_rows_t inputs[] = {view(BITNET_STAGE_Q_ROPE, q), view(BITNET_STAGE_K_ROPE, k),
                                    view(BITNET_STAGE_V_PROJ, v)};
    auto params = make<bitnet_replay_params_t>();
    params.stage = BITNET_STAGE_ATTN_CONTEXT;
    params.inputs = inputs;
    params.n_inputs = 3;
    std::atomic<bool> stop{false};
    const auto run = [&] {
        std::vector<float> out(n_tokens * n_embd);
        size_t n = out.size();
        return bitnet_replay_run(replay_.get(), &params, out.data(), &n);
    };
    std::thread other([&] {
        while (!stop) run();
    });
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    bitnet_status_t status = BITNET_OK;
    while (status == BITNET_OK && std::chrono::steady_clock::now() < end) status = run();
    stop = true;
    other.join();
    expect_error(status, BITNET_E_BUSY, {"bitnet_replay_run", "in use by another thread"});
    EXPECT_OK(run());
}

TEST_F(ReplayTest, OutlivesTheModelHandle) {
    bitnet_model_t *model = nullptr;
    ASSERT_OK(bitnet_load(small_model, nullptr, &model));
    const Replay replay = create(model);
    bitnet_model_free(model);
    const std::vector<uint8_t> norm = rows(0, BITNET_STAGE_ATTN_NORM);
    const bitnet_rows_t input = view(BITNET_STAGE_ATTN_NORM, norm);
    auto params = make<bitnet_replay_params_t>();
    params.stage = BITNET_STAGE_Q_PROJ;
    params.inputs = &input;
    params.n_inputs = 1;
    std::vector<uint8_t> out(n_tokens * n_embd * 4);
    size_t n = out.size() / 4;
    ASSERT_OK(bitnet_replay_run(replay.get(), &params, out.data(), &n));
    EXPECT_EQ(out, rows(0, BITNET_STAGE_Q_PROJ));
}

}  // namespace
}  // namespace bitnet_test
