// Section 5 of the header: limits, moving back, forking, saving and restoring.
#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

std::vector<uint8_t> save(bitnet_ctx_t *ctx) {
    size_t n = 0;
    EXPECT_OK(bitnet_context_save(ctx, nullptr, &n));
    std::vector<uint8_t> blob(n);
    EXPECT_OK(bitnet_context_save(ctx, blob.data(), &n));
    return blob;
}

TEST(Context, Limits) {
    const Model model = load();
    const auto create = [&](bitnet_context_params_t params) {
        bitnet_ctx_t *ctx = nullptr;
        params.struct_size = sizeof params;
        const bitnet_status_t status = bitnet_context_create(model.get(), &params, &ctx);
        EXPECT_EQ(ctx != nullptr, status == BITNET_OK);
        bitnet_context_free(ctx);
        return status;
    };
    bitnet_context_params_t params{};
    const auto with = [&](int32_t bitnet_context_params_t::*field, int32_t value) {
        bitnet_context_params_t changed = params;
        changed.*field = value;
        return create(changed);
    };
    params.n_ctx = 8;
    for (const int32_t n : {0, 1, 2, 256}) EXPECT_OK(with(&bitnet_context_params_t::n_threads, n)) << n;
    for (const int32_t n : {-1, 257, INT32_MAX, INT32_MIN})
        expect_error(with(&bitnet_context_params_t::n_threads, n), BITNET_E_INVALID,
                     {"n_threads", std::to_string(n), "256"});
    for (const int32_t n : {0, 1, 4096}) EXPECT_OK(with(&bitnet_context_params_t::n_batch, n)) << n;
    for (const int32_t n : {-1, 4097, INT32_MIN})
        expect_error(with(&bitnet_context_params_t::n_batch, n), BITNET_E_INVALID,
                     {"n_batch", std::to_string(n), "4096"});
    for (const int32_t n : {0, 1, 513}) EXPECT_OK(with(&bitnet_context_params_t::n_ctx, n)) << n;
    for (const int32_t n : {-1, INT32_MAX, INT32_MIN})
        expect_error(with(&bitnet_context_params_t::n_ctx, n), BITNET_E_INVALID, {"n_ctx", std::to_string(n)});
    for (const int32_t id : {1, -1})
        expect_error(with(&bitnet_context_params_t::device_id, id), BITNET_E_UNSUPPORTED,
                     {"device_id", std::to_string(id)});
    params.kv_type = 3;
    expect_error(create(params), BITNET_E_INVALID, {"kv_type", "3"});
}

TEST(Context, DefaultsAndQueries) {
    const Model model = load();
    bitnet_ctx_t *raw = nullptr;
    ASSERT_OK(bitnet_context_create(model.get(), nullptr, &raw));
    const Context ctx(raw);
    EXPECT_EQ(bitnet_context_capacity(raw), 512);
    EXPECT_EQ(bitnet_context_position(raw), 0);
    EXPECT_EQ(bitnet_logits_count(raw), 0);
    const uint64_t kv_bytes = 2ull * n_layer * n_head_kv * head_dim * 512 * 4;
    EXPECT_GE(bitnet_context_memory(raw), kv_bytes);
    const Context half = context(model.get(), 512, 1, 0, BITNET_KV_F16),
                  full = context(model.get(), 512, 1, 0, BITNET_KV_F32);
    EXPECT_EQ(bitnet_context_memory(full.get()) - bitnet_context_memory(half.get()), kv_bytes / 2);
    const uint64_t before = bitnet_context_memory(full.get());
    ASSERT_OK(eval(full.get(), prompt(40)));
    EXPECT_EQ(bitnet_context_memory(full.get()), before) << "all memory is there from the beginning";
    ASSERT_OK(eval(full.get(), prompt(40), BITNET_LOGITS_ALL));
    EXPECT_GE(bitnet_context_memory(full.get()), before + 39ull * n_vocab * 4);
}

TEST(Context, OfOnePosition) {
    const Model model = load();
    const Context ctx = context(model.get(), 1, 2, 4);
    EXPECT_EQ(bitnet_context_capacity(ctx.get()), 1);
    expect_error(eval(ctx.get(), {1, 2}), BITNET_E_OVERFLOW, {"2", "1"});
    EXPECT_EQ(bitnet_context_position(ctx.get()), 0);
    ASSERT_OK(eval(ctx.get(), {7}));
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), {7}));
    expect_error(eval(ctx.get(), {1}), BITNET_E_OVERFLOW);
    EXPECT_EQ(bitnet_context_position(ctx.get()), 1);
    ASSERT_OK(bitnet_context_reset(ctx.get()));
    ASSERT_OK(eval(ctx.get(), {9}));
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), {9}));
}

TEST(Context, ResetAndTruncateForget) {
    const Model model = load();
    const std::vector<int32_t> tokens = prompt(10);
    const std::vector<float> expected = logits_after(model.get(), tokens);
    const Context ctx = context(model.get());
    ASSERT_OK(eval(ctx.get(), {400, 401, 402}));
    ASSERT_OK(bitnet_context_reset(ctx.get()));
    EXPECT_EQ(bitnet_context_position(ctx.get()), 0);
    EXPECT_EQ(bitnet_logits_count(ctx.get()), 0);
    EXPECT_EQ(bitnet_get_logits_ith(ctx.get(), -1), nullptr);
    EXPECT_EQ(bitnet_get_hidden_ith(ctx.get(), -1), nullptr);

    ASSERT_OK(eval(ctx.get(), {tokens.begin(), tokens.begin() + 6}));
    ASSERT_OK(eval(ctx.get(), {400, 401, 402}));
    ASSERT_OK(bitnet_context_truncate(ctx.get(), 6));
    EXPECT_EQ(bitnet_context_position(ctx.get()), 6);
    EXPECT_EQ(bitnet_get_logits_ith(ctx.get(), -1), nullptr);
    ASSERT_OK(eval(ctx.get(), {tokens.begin() + 6, tokens.end()}));
    EXPECT_EQ(row(ctx.get()), expected);

    for (const int32_t n : {-1, 11, INT32_MAX, INT32_MIN})
        expect_error(bitnet_context_truncate(ctx.get(), n), BITNET_E_INVALID, {std::to_string(n), "10"});
    EXPECT_EQ(bitnet_context_position(ctx.get()), 10);
    ASSERT_OK(bitnet_context_truncate(ctx.get(), 10));
    EXPECT_EQ(bitnet_context_position(ctx.get()), 10);
    ASSERT_OK(bitnet_context_truncate(ctx.get(), 0));
    ASSERT_OK(eval(ctx.get(), tokens));
    EXPECT_EQ(row(ctx.get()), expected);
}

class Kv : public testing::TestWithParam<uint32_t> {};

TEST_P(Kv, ForkIsIndependent) {
    const Model model = load();
    const std::vector<int32_t> tokens = prompt(7);
    Recorder recorder;
    const Context ctx = context(model.get(), 32, 2, 3, GetParam());
    ASSERT_OK(bitnet_trace_set_sink(ctx.get(), &recorder.table, &recorder));
    ASSERT_OK(eval(ctx.get(), tokens));
    bitnet_ctx_t *raw = nullptr;
    ASSERT_OK(bitnet_context_fork(ctx.get(), &raw));
    const Context fork(raw);
    EXPECT_EQ(bitnet_context_position(raw), 7);
    EXPECT_EQ(bitnet_context_capacity(raw), 32);
    EXPECT_EQ(bitnet_logits_count(raw), 0);
    EXPECT_EQ(bitnet_get_logits_ith(raw, -1), nullptr);
    auto stats = make<bitnet_trace_stats_t>();
    ASSERT_OK(bitnet_trace_get_stats(raw, &stats));
    EXPECT_EQ(stats.n_sinks, 0u);
    const size_t n_seen = recorder.seen.size();
    ASSERT_OK(eval(raw, {50, 51}));
    EXPECT_EQ(recorder.seen.size(), n_seen);
    const std::vector<float> of_fork = row(raw);
    ASSERT_OK(eval(ctx.get(), {60, 61}));
    const std::vector<float> of_first = row(ctx.get());
    EXPECT_NE(of_fork, of_first);

    const Context fresh = context(model.get(), 32, 1, 0, GetParam());
    std::vector<int32_t> longer = tokens;
    longer.insert(longer.end(), {50, 51});
    ASSERT_OK(eval(fresh.get(), longer));
    EXPECT_EQ(row(fresh.get()), of_fork);
    ASSERT_OK(bitnet_context_truncate(ctx.get(), 7));
    ASSERT_OK(eval(ctx.get(), {50, 51}));
    EXPECT_EQ(row(ctx.get()), of_fork);
}

TEST_P(Kv, RestoredStateGivesTheSameBits) {
    const Model model = load();
    const Context ctx = context(model.get(), 32, 1, 0, GetParam());
    ASSERT_OK(eval(ctx.get(), prompt(7)));
    const std::vector<uint8_t> blob = save(ctx.get());
    EXPECT_EQ(save(ctx.get()), blob);
    EXPECT_NE(bitnet_get_logits_ith(ctx.get(), -1), nullptr) << "saving leaves the logits";
    ASSERT_OK(eval(ctx.get(), {50, 51}));
    const std::vector<float> expected = row(ctx.get());

    const Context other = context(load().get(), 9, 2, 3, GetParam());  // same file, another handle, just enough room
    ASSERT_OK(eval(other.get(), {1, 2, 3}));
    ASSERT_OK(bitnet_context_restore(other.get(), blob.data(), blob.size()));
    EXPECT_EQ(bitnet_context_position(other.get()), 7);
    EXPECT_EQ(bitnet_logits_count(other.get()), 0);
    EXPECT_EQ(save(other.get()), blob);
    ASSERT_OK(eval(other.get(), {50, 51}));
    EXPECT_EQ(row(other.get()), expected);
}

INSTANTIATE_TEST_SUITE_P(Types, Kv, testing::Values(BITNET_KV_F32, BITNET_KV_F16),
                         [](const auto &p) { return p.param == BITNET_KV_F32 ? "f32" : "f16"; });

TEST(Context, EmptyStateIsSavedAndRestored) {
    const Model model = load();
    const Context ctx = context(model.get());
    const std::vector<uint8_t> blob = save(ctx.get());
    ASSERT_OK(eval(ctx.get(), prompt(3)));
    ASSERT_OK(bitnet_context_restore(ctx.get(), blob.data(), blob.size()));
    EXPECT_EQ(bitnet_context_position(ctx.get()), 0);
    ASSERT_OK(eval(ctx.get(), prompt(5)));
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), prompt(5)));
}

TEST(Context, RepeatPenaltySurvivesARestore) {
    const Model model = load();
    const Context ctx = context(model.get());
    auto params = make<bitnet_generate_params_t>();
    params.max_tokens = 6;
    params.repeat_penalty = 1.5f;
    const auto generate = [&](bitnet_ctx_t *c) {
        std::vector<int32_t> out(6);
        size_t n = out.size();
        EXPECT_OK(bitnet_generate(c, &params, out.data(), &n));
        return out;
    };
    ASSERT_OK(eval(ctx.get(), prompt(8)));
    const std::vector<uint8_t> blob = save(ctx.get());
    ASSERT_OK(eval(ctx.get(), {3}));
    const std::vector<int32_t> expected = generate(ctx.get());
    const Context other = context(model.get());
    ASSERT_OK(bitnet_context_restore(other.get(), blob.data(), blob.size()));
    ASSERT_OK(eval(other.get(), {3}));
    EXPECT_EQ(generate(other.get()), expected);
}

TEST(Context, StateOfAnotherKindIsRefused) {
    const Model model = load();
    const Context f32 = context(model.get(), 32, 1, 0, BITNET_KV_F32),
                  f16 = context(model.get(), 32, 1, 0, BITNET_KV_F16);
    ASSERT_OK(eval(f32.get(), prompt(4)));
    const std::vector<uint8_t> blob = save(f32.get());
    expect_error(bitnet_context_restore(f16.get(), blob.data(), blob.size()), BITNET_E_INVALID, {"KV"});
    const Model silu = load("activation=silu");
    const Context other = context(silu.get(), 32);
    expect_error(bitnet_context_restore(other.get(), blob.data(), blob.size()), BITNET_E_INVALID, {"semantics"});
    const Context narrow = context(model.get(), 3);
    expect_error(bitnet_context_restore(narrow.get(), blob.data(), blob.size()), BITNET_E_OVERFLOW, {"4", "3"});

    std::vector<uint8_t> bytes = read_file(small_model);
    bytes.push_back(0);
    bitnet_model_t *raw = nullptr;
    ASSERT_OK(bitnet_load_memory(bytes.data(), bytes.size(), nullptr, nullptr, &raw));
    const Model longer(raw);
    const Context foreign = context(raw, 32);
    expect_error(bitnet_context_restore(foreign.get(), blob.data(), blob.size()), BITNET_E_INVALID, {"model"});
}

// Every byte of the blob, and every length: an error, and a context that goes on as if nothing had happened.
TEST(Context, DamagedStateChangesNothing) {
    const Model model = load();
    const Context ctx = context(model.get(), 16);
    ASSERT_OK(eval(ctx.get(), prompt(2)));
    const std::vector<uint8_t> blob = save(ctx.get());
    ASSERT_OK(eval(ctx.get(), {9}, BITNET_LOGITS_LAST));
    const std::vector<float> logits = row(ctx.get());
    const std::vector<uint8_t> state = save(ctx.get());
    const auto refused = [&](const std::vector<uint8_t> &damaged, size_t n, const std::string &what) {
        const bitnet_status_t status = bitnet_context_restore(ctx.get(), damaged.data(), n);
        ASSERT_LT(status, 0) << what;
        ASSERT_NE(status, BITNET_E_INTERNAL) << what << ": " << bitnet_last_error();
        ASSERT_EQ(std::string(bitnet_last_error()).find('\n'), std::string::npos) << what;
    };
    for (size_t i = 0; i < blob.size(); ++i) {
        for (const uint8_t mask : {uint8_t(1u << i % 8), uint8_t(0xff)}) {
            std::vector<uint8_t> damaged = blob;
            damaged[i] ^= mask;
            refused(damaged, damaged.size(), "byte " + std::to_string(i));
            if (HasFatalFailure()) return;
        }
    }
    for (size_t n = 0; n < blob.size(); n += n < 300 ? 1 : 97) {
        refused({blob.begin(), blob.begin() + int(n)}, n, "cut to " + std::to_string(n));
        if (HasFatalFailure()) return;
    }
    std::vector<uint8_t> longer = blob;
    longer.push_back(0);
    refused(longer, longer.size(), "one byte more");
    EXPECT_EQ(bitnet_context_position(ctx.get()), 3);
    EXPECT_EQ(row(ctx.get()), logits);
    EXPECT_EQ(save(ctx.get()), state);
    ASSERT_OK(bitnet_context_restore(ctx.get(), blob.data(), blob.size()));
    EXPECT_EQ(bitnet_context_position(ctx.get()), 2);
}

}  // namespace
}  // namespace bitnet_test
