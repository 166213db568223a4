// Section 14 of the header, as BitNet-rs's bitnet-sys calls it: every documented return code, sizes one too small,
// contexts side by side, handles freed in any order.
#include <algorithm>
#include <cmath>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

class BitnetSys : public testing::Test {
protected:
    const Model model_{bitnet_model_new_from_file(small_model)};
    bitnet_model_t *model() { return model_.get(); }
    Context make_context(int32_t n_ctx = 64, int32_t n_threads = 1) {
        const bitnet_params_t params{n_ctx, n_threads, 42, 1.0f};  // what its wrapper passes
        return Context(bitnet_context_new(model(), &params));
    }
    void SetUp() override { ASSERT_NE(model(), nullptr) << bitnet_last_error(); }

    int eval_row(bitnet_ctx_t *ctx, const std::vector<int32_t> &tokens, std::vector<float> &logits) {
        logits.assign(n_vocab, NAN);
        return bitnet_eval(ctx, tokens.data(), int(tokens.size()), logits.data(), n_vocab);
    }
};

TEST_F(BitnetSys, LoadFails) {
    EXPECT_EQ(bitnet_model_new_from_file(nullptr), nullptr);
    EXPECT_EQ(bitnet_model_new_from_file("/no/such.gguf"), nullptr);
    EXPECT_NE(std::string(bitnet_last_error()).find("/no/such.gguf"), std::string::npos);
    const bitnet_params_t params{-1, 1, 0, 1.0f};
    EXPECT_EQ(bitnet_context_new(model(), &params), nullptr);
    EXPECT_EQ(bitnet_context_new(model(), nullptr), nullptr);
    EXPECT_EQ(bitnet_context_new(nullptr, &params), nullptr);
}

TEST_F(BitnetSys, ContextDefaults) {
    const bitnet_params_t zero{};
    const Context ctx(bitnet_context_new(model(), &zero));
    ASSERT_NE(ctx, nullptr);
    auto info = make<bitnet_model_info_t>();
    ASSERT_OK(bitnet_model_get_info(model(), &info));
    EXPECT_EQ(bitnet_context_capacity(ctx.get()), info.n_ctx_train);
    EXPECT_EQ(bitnet_vocab_size(ctx.get()), n_vocab);
    EXPECT_EQ(bitnet_vocab_size(nullptr), -1);
}

TEST_F(BitnetSys, TokenizeInTwoPasses) {
    for (const int add_bos : {0, 1})
        for (const int special : {0, 1}) {
            const char *const text = "Hello <|eot_id|>, world";
            const uint32_t flags =
                (add_bos ? BITNET_TOKENIZE_ADD_BOS : 0) | (special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
            std::vector<int32_t> expected(100);
            size_t n = expected.size();
            ASSERT_OK(bitnet_tokenize_text(model(), text, SIZE_MAX, flags, expected.data(), &n));
            expected.resize(n);
            EXPECT_EQ(bitnet_tokenize(model(), text, add_bos, special, nullptr, 0), int(n));
            EXPECT_EQ(bitnet_tokenize(model(), text, add_bos, special, nullptr, 3), int(n));
            std::vector<int32_t> got(n + 1, -7);
            EXPECT_EQ(bitnet_tokenize(model(), text, add_bos, special, got.data(), 0), int(n));
            EXPECT_EQ(bitnet_tokenize(model(), text, add_bos, special, got.data(), int(n) - 1), -2);
            EXPECT_EQ(bitnet_tokenize(model(), text, add_bos, special, got.data(), -1), -2);
            EXPECT_EQ(got, std::vector<int32_t>(n + 1, -7));
            EXPECT_EQ(bitnet_tokenize(model(), text, add_bos, special, got.data(), int(n)), int(n));
            EXPECT_EQ(got.back(), -7);
            got.pop_back();
            EXPECT_EQ(got, expected);
        }
    int32_t out = 0;
    EXPECT_EQ(bitnet_tokenize(nullptr, "a", 0, 0, &out, 1), -1);
    EXPECT_EQ(bitnet_tokenize(model(), nullptr, 0, 0, &out, 1), -1);
    EXPECT_EQ(bitnet_tokenize(model(), "", 0, 0, &out, 1), 0);
}

TEST_F(BitnetSys, EvalBeginsAnew) {
    const Context ctx = make_context();
    std::vector<float> logits;
    for (const int n : {5, 2, 9}) {
        ASSERT_EQ(eval_row(ctx.get(), prompt(n), logits), 0) << bitnet_last_error();
        EXPECT_EQ(logits, logits_after(model(), prompt(n)));
        EXPECT_EQ(bitnet_context_position(ctx.get()), n);
    }
}

TEST_F(BitnetSys, EvalCodes) {
    const Context ctx = make_context(8);
    const std::vector<int32_t> tokens = prompt(8), too_many = prompt(9);
    std::vector<float> logits(n_vocab, -1.0f);
    const auto call = [&](bitnet_ctx_t *c, const int32_t *t, int n, float *out, int cap) {
        return bitnet_eval(c, t, n, out, cap);
    };
    EXPECT_EQ(call(nullptr, tokens.data(), 8, logits.data(), n_vocab), -1);
    EXPECT_EQ(call(ctx.get(), nullptr, 8, logits.data(), n_vocab), -1);
    EXPECT_EQ(call(ctx.get(), tokens.data(), 0, logits.data(), n_vocab), -1);
    EXPECT_EQ(call(ctx.get(), tokens.data(), -1, logits.data(), n_vocab), -1);
    EXPECT_EQ(call(ctx.get(), tokens.data(), 8, nullptr, n_vocab), -1);
    EXPECT_EQ(call(ctx.get(), tokens.data(), 8, logits.data(), 0), -1);
    EXPECT_EQ(call(ctx.get(), tokens.data(), 8, logits.data(), n_vocab - 1), -4);
    EXPECT_EQ(logits, std::vector<float>(n_vocab, -1.0f));
    EXPECT_EQ(bitnet_context_position(ctx.get()), 0);

    ASSERT_EQ(call(ctx.get(), tokens.data(), 3, logits.data(), n_vocab), 0);
    const std::vector<float> kept = row(ctx.get());
    std::vector<int32_t> wrong = prompt(3);
    for (const int32_t token : {-1, n_vocab}) {
        wrong[1] = token;
        EXPECT_EQ(call(ctx.get(), wrong.data(), 3, logits.data(), n_vocab), -2);
        EXPECT_EQ(bitnet_prefill(ctx.get(), wrong.data(), 3), -2);
    }
    EXPECT_EQ(call(ctx.get(), too_many.data(), 9, logits.data(), n_vocab), -2);
    EXPECT_EQ(bitnet_prefill(ctx.get(), too_many.data(), 9), -2);
    EXPECT_EQ(bitnet_context_position(ctx.get()), 3) << "a refused call must change nothing";
    EXPECT_EQ(row(ctx.get()), kept);
    EXPECT_EQ(call(ctx.get(), tokens.data(), 8, logits.data(), n_vocab + 5), 0);
}

TEST_F(BitnetSys, PrefillCodes) {
    const Context ctx = make_context();
    const std::vector<int32_t> tokens = prompt(4);
    EXPECT_EQ(bitnet_prefill(nullptr, tokens.data(), 4), -1);
    EXPECT_EQ(bitnet_prefill(ctx.get(), nullptr, 4), -1);
    EXPECT_EQ(bitnet_prefill(ctx.get(), tokens.data(), 0), -1);
    EXPECT_EQ(bitnet_prefill(ctx.get(), tokens.data(), 4), 0);
    EXPECT_EQ(row(ctx.get()), logits_after(model(), tokens));
}

// Greedy by hand: the largest logit, the lowest id among equals.
std::vector<int32_t> greedy(const bitnet_model_t *model, std::vector<int32_t> tokens, int n, int eos) {
    std::vector<int32_t> made;
    while (int(made.size()) < n) {
        const std::vector<float> logits = logits_after(model, tokens);
        made.push_back(int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        tokens.push_back(made.back());
        if (made.back() == eos) break;
    }
    return made;
}

TEST_F(BitnetSys, DecodeGreedy) {
    // As its parity test does it: prefill, eval of the same, decode.
    const Context ctx = make_context();
    const std::vector<int32_t> tokens = prompt(6), expected = greedy(model(), tokens, 8, -1);
    std::vector<float> logits;
    ASSERT_EQ(bitnet_prefill(ctx.get(), tokens.data(), 6), 0);
    ASSERT_EQ(eval_row(ctx.get(), tokens, logits), 0);
    std::vector<int32_t> out(8, -7);
    ASSERT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 3, out.data(), 8), 3);
    EXPECT_EQ(out[3], -7);
    ASSERT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 5, out.data() + 3, 5), 5) << "goes on from there";
    EXPECT_EQ(out, expected);

    for (const bool as_eos : {true, false}) {  // the end token is counted and ends it
        const int end = expected[2];
        const int at = int(std::find(expected.begin(), expected.end(), end) - expected.begin());
        ASSERT_EQ(bitnet_prefill(ctx.get(), tokens.data(), 6), 0);
        EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), as_eos ? end : -1, as_eos ? -1 : end, 8, out.data(), 8),
                  at + 1);
        EXPECT_EQ(out[size_t(at)], end);
        EXPECT_EQ(bitnet_context_position(ctx.get()), 6 + at) << "the end token is not evaluated";
    }
}

TEST_F(BitnetSys, DecodeCodes) {
    const Context ctx = make_context(8);
    const std::vector<int32_t> tokens = prompt(6);
    int out[8];
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 1, out, 8), -2) << "nothing was evaluated";
    ASSERT_EQ(bitnet_prefill(ctx.get(), tokens.data(), 6), 0);
    EXPECT_EQ(bitnet_decode_greedy(nullptr, ctx.get(), -1, -1, 1, out, 8), -1);
    EXPECT_EQ(bitnet_decode_greedy(model(), nullptr, -1, -1, 1, out, 8), -1);
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 0, out, 8), -1);
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 1, nullptr, 8), -1);
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 1, out, 0), -1);
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 2, out, 1), -5);
    EXPECT_EQ(bitnet_context_position(ctx.get()), 7) << "the one that fitted was evaluated";
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 1, out, 1), 1);
    EXPECT_EQ(bitnet_decode_greedy(model(), ctx.get(), -1, -1, 1, out, 1), -3) << "the context is full";
}

TEST_F(BitnetSys, TiesGoToTheLowestId) {
    // A final norm of zeros makes every logit equal.
    std::vector<uint8_t> file = read_file(small_model);
    for (size_t i = 0; i < bitnet_model_tensor_count(model()); ++i) {
        auto tensor = make<bitnet_tensor_info_t>();
        ASSERT_OK(bitnet_model_tensor(model(), i, &tensor));
        if (std::string(tensor.name) == "output_norm.weight")
            std::fill_n(file.begin() + long(tensor.file_offset), tensor.n_bytes, uint8_t(0));
    }
    bitnet_model_t *handle = nullptr;
    ASSERT_OK(bitnet_load_memory(file.data(), file.size(), "ties", nullptr, &handle));
    const Model ties(handle);
    const bitnet_params_t params{16, 1, 0, 1.0f};
    const Context ctx(bitnet_context_new(ties.get(), &params));
    std::vector<float> logits;
    ASSERT_EQ(eval_row(ctx.get(), prompt(3), logits), 0);
    ASSERT_EQ(logits, std::vector<float>(n_vocab, 0.0f)) << "not the tie this test wants";
    int out[4] = {-7, -7, -7, -7};
    EXPECT_EQ(bitnet_decode_greedy(ties.get(), ctx.get(), -1, -1, 4, out, 4), 4);
    for (const int token : out) EXPECT_EQ(token, 0);
}

TEST_F(BitnetSys, ContextsSideBySide) {
    const Context a = make_context(64, 1), b = make_context(64, 2);
    std::vector<float> from_a, from_b;
    int out_a = -1, out_b = -1;
    for (int n = 1; n < 6; ++n) {
        ASSERT_EQ(bitnet_prefill(a.get(), prompt(n).data(), n), 0);
        ASSERT_EQ(eval_row(b.get(), prompt(2 * n), from_b), 0);
        ASSERT_EQ(bitnet_decode_greedy(model(), a.get(), -1, -1, 1, &out_a, 1), 1);
        ASSERT_EQ(bitnet_decode_greedy(model(), b.get(), -1, -1, 1, &out_b, 1), 1);
        EXPECT_EQ(from_b, logits_after(model(), prompt(2 * n)));
        EXPECT_EQ(out_a, greedy(model(), prompt(n), 1, -1)[0]);
        EXPECT_EQ(out_b, greedy(model(), prompt(2 * n), 1, -1)[0]);
    }
}

TEST(BitnetSysLifetime, AHundredTimesInEitherOrder) {
    const bitnet_params_t params{16, 1, 0, 1.0f};
    const std::vector<int32_t> tokens = prompt(3);
    std::vector<float> first, logits(n_vocab);
    for (int i = 0; i < 100; ++i) {
        bitnet_model_t *model = bitnet_model_new_from_file(small_model);
        bitnet_ctx_t *ctx = bitnet_context_new(model, &params);
        ASSERT_NE(ctx, nullptr) << bitnet_last_error();
        if (i % 2) bitnet_model_free(model);  // the context keeps what it needs
        ASSERT_EQ(bitnet_eval(ctx, tokens.data(), 3, logits.data(), n_vocab), 0);
        if (i == 0) first = logits;
        EXPECT_EQ(logits, first);
        bitnet_context_free(ctx);
        if (i % 2 == 0) bitnet_model_free(model);
    }
}

}  // namespace
}  // namespace bitnet_test
