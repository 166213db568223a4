// bitnet_cpp.h, as BitNet-rs's crossval calls it: two passes, error buffers, positions, and every failure.
#include <bitnet_cpp.h>

#include <algorithm>
#include <cmath>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

constexpr int err_len = 512;

// What comes back through pointers, with marks that must be overwritten or left alone.
struct Answer {
    char err[err_len];
    int32_t first = -7, second = -7;
    Answer() { std::memset(err, 'x', sizeof err); }

    // Its reader takes all 512 bytes as UTF-8 and cuts the zeros off.
    std::string text() const { return std::string(err, strnlen(err, err_len)); }
    bool zeros_after_text() const {
        const size_t n = strnlen(err, err_len);
        return n < err_len && std::all_of(err + n, err + err_len, [](char c) { return c == 0; });
    }
};

void expect_failure(int status, const Answer &answer, std::vector<std::string> words, bool second = true) {
    EXPECT_EQ(status, -1);
    EXPECT_EQ(answer.first, 0);
    EXPECT_EQ(answer.second, second ? 0 : -7);
    EXPECT_TRUE(answer.zeros_after_text());
    EXPECT_EQ(answer.text().find('\n'), std::string::npos);
    for (const std::string &word : words)
        EXPECT_NE(answer.text().find(word), std::string::npos) << word << " is not in: " << answer.text();
}

std::vector<float> all_rows(const bitnet_model_t *model, const std::vector<int32_t> &tokens) {
    const Context ctx = context(model);
    EXPECT_OK(eval(ctx.get(), tokens, BITNET_LOGITS_ALL));
    return rows(ctx.get());
}

std::vector<int32_t> tokenized(const bitnet_model_t *model, const char *text, uint32_t flags) {
    std::vector<int32_t> tokens(100);
    size_t n = tokens.size();
    EXPECT_OK(bitnet_tokenize_text(model, text, SIZE_MAX, flags, tokens.data(), &n));
    tokens.resize(n);
    return tokens;
}

struct FreeContext {
    void operator()(bitnet_context_t *ctx) const { EXPECT_EQ(bitnet_cpp_free_context(ctx), 0); }
};
struct FreeSession {
    void operator()(bitnet_session_t *session) const { EXPECT_EQ(bitnet_cpp_session_free(session), 0); }
};

class Crossval : public testing::Test {
protected:
    const Model model_ = load();
    const bitnet_model_t *model() { return model_.get(); }

    std::unique_ptr<bitnet_context_t, FreeContext> open(int32_t n_ctx = 64, int32_t n_gpu_layers = 0) {
        bitnet_context_t *ctx = nullptr;
        Answer a;
        EXPECT_EQ(bitnet_cpp_init_context(&ctx, small_model, n_ctx, n_gpu_layers, a.err, err_len), 0) << a.text();
        EXPECT_EQ(a.text(), "");
        return std::unique_ptr<bitnet_context_t, FreeContext>(ctx);
    }
    std::unique_ptr<bitnet_session_t, FreeSession> open_session(int32_t n_ctx = 64) {
        bitnet_session_t *session = nullptr;
        Answer a;
        EXPECT_EQ(bitnet_cpp_session_create(&session, small_model, nullptr, n_ctx, 0, a.err, err_len), 0) << a.text();
        return std::unique_ptr<bitnet_session_t, FreeSession>(session);
    }
};

using Tokenize = std::function<int(const char *prompt, int add_bos, int special, int32_t *out, int32_t cap,
                                   int32_t *len, char *err, int32_t err_length)>;
using Eval = std::function<int(const int32_t *tokens, int32_t n, float *out, int32_t cap, int32_t *n_rows,
                               int32_t *n_cols, char *err, int32_t err_length)>;

// What every tokenizer of the header promises.
void check_tokenizer(const bitnet_model_t *model, const Tokenize &call) {
    const char *const text = "Hello <|eot_id|>, world";
    for (const int bos : {0, 1})
        for (const int special : {0, 1}) {
            const std::vector<int32_t> expected = tokenized(
                model, text, (bos ? BITNET_TOKENIZE_ADD_BOS : 0) | (special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0));
            const int32_t n = int32_t(expected.size());
            std::vector<int32_t> out(expected.size() + 1, -7);
            for (const int32_t cap : {0, -1}) {  // no capacity: the size alone
                Answer a;
                EXPECT_EQ(call(text, bos, special, out.data(), cap, &a.first, a.err, err_len), 0) << a.text();
                EXPECT_EQ(a.first, n);
                EXPECT_EQ(a.text(), "");
            }
            Answer size, small, right;
            EXPECT_EQ(call(text, bos, special, nullptr, 100, &size.first, size.err, err_len), 0);
            EXPECT_EQ(size.first, n);
            expect_failure(call(text, bos, special, out.data(), n - 1, &small.first, small.err, err_len), small,
                           {std::to_string(n), std::to_string(n - 1)}, false);
            EXPECT_EQ(out, std::vector<int32_t>(expected.size() + 1, -7));
            EXPECT_EQ(call(text, bos, special, out.data(), n, &right.first, right.err, err_len), 0) << right.text();
            EXPECT_EQ(right.first, n);
            EXPECT_EQ(out.back(), -7);
            out.pop_back();
            EXPECT_EQ(out, expected);
        }
    int32_t out[8];
    Answer a, b, c, d;
    expect_failure(call(nullptr, 0, 0, out, 8, &a.first, a.err, err_len), a, {"prompt is NULL"}, false);
    expect_failure(call("", 0, 0, out, 8, &b.first, b.err, err_len), b, {"no token"}, false);
    EXPECT_EQ(call("a", 0, 0, out, 8, nullptr, c.err, err_len), -1);
    EXPECT_NE(c.text().find("out_len is NULL"), std::string::npos);
    EXPECT_EQ(call("a", 0, 0, out, 8, &d.first, nullptr, err_len), -1);
    EXPECT_EQ(d.first, 0);
    d.first = -7;
    EXPECT_EQ(call("a", 0, 0, out, 8, &d.first, d.err, 0), -1);
    EXPECT_EQ(d.first, 0);
    EXPECT_EQ(d.err[0], 'x') << "err_len 0: not a byte may be written";
}

// What every evaluation of the header promises about arguments. `capacity`: tokens it holds.
void check_eval(const bitnet_model_t *model, const Eval &call, int32_t capacity) {
    const std::vector<int32_t> tokens = prompt(3);
    const int32_t need = 3 * n_vocab;
    std::vector<float> out(size_t(need) + 1, -7.0f);
    for (const int32_t cap : {0, -1}) {
        Answer a;
        EXPECT_EQ(call(tokens.data(), 3, out.data(), cap, &a.first, &a.second, a.err, err_len), 0) << a.text();
        EXPECT_EQ(a.first, 3);
        EXPECT_EQ(a.second, n_vocab);
    }
    Answer size, small, none, negative, null, over, wrong, no_rows, no_cols, no_err, right;
    EXPECT_EQ(call(tokens.data(), 3, nullptr, need, &size.first, &size.second, size.err, err_len), 0);
    EXPECT_EQ(size.first, 3);
    expect_failure(call(tokens.data(), 3, out.data(), need - 1, &small.first, &small.second, small.err, err_len), small,
                   {std::to_string(need), std::to_string(need - 1)});
    expect_failure(call(tokens.data(), 0, out.data(), need, &none.first, &none.second, none.err, err_len), none,
                   {"n_tokens is 0"});
    expect_failure(call(tokens.data(), -1, nullptr, 0, &negative.first, &negative.second, negative.err, err_len),
                   negative, {"n_tokens is -1"});
    expect_failure(call(nullptr, 3, out.data(), need, &null.first, &null.second, null.err, err_len), null,
                   {"tokens is NULL"});
    const std::vector<int32_t> many = prompt(capacity + 1);
    expect_failure(call(many.data(), capacity + 1, nullptr, 0, &over.first, &over.second, over.err, err_len), over,
                   {"overflow", std::to_string(capacity + 1), std::to_string(capacity)});
    const std::vector<int32_t> bad = {1, n_vocab, 2};
    expect_failure(call(bad.data(), 3, out.data(), need, &wrong.first, &wrong.second, wrong.err, err_len), wrong,
                   {std::to_string(n_vocab)});
    EXPECT_EQ(call(tokens.data(), 3, out.data(), need, nullptr, &no_rows.second, no_rows.err, err_len), -1);
    EXPECT_EQ(no_rows.second, 0);
    EXPECT_EQ(call(tokens.data(), 3, out.data(), need, &no_cols.first, nullptr, no_cols.err, err_len), -1);
    EXPECT_EQ(no_cols.first, 0);
    EXPECT_EQ(call(tokens.data(), 3, out.data(), need, &no_err.first, &no_err.second, nullptr, 0), -1);
    EXPECT_EQ(no_err.first, 0);
    EXPECT_EQ(out, std::vector<float>(size_t(need) + 1, -7.0f)) << "nothing may be written before this";

    EXPECT_EQ(call(tokens.data(), 3, out.data(), need, &right.first, &right.second, right.err, err_len), 0)
        << right.text();
    EXPECT_EQ(out.back(), -7.0f);
    out.pop_back();
    EXPECT_EQ(out, all_rows(model, tokens));
}

TEST_F(Crossval, Generate) {
    void *const handle = bitnet_cpp_create_model(small_model);
    ASSERT_NE(handle, nullptr);
    std::vector<int32_t> expected(12);
    size_t n = 12;
    const Context ctx = context(model());
    ASSERT_OK(
        eval(ctx.get(), tokenized(model(), "Hello", bitnet_token_wants_bos(model()) ? BITNET_TOKENIZE_ADD_BOS : 0)));
    ASSERT_OK(bitnet_generate(ctx.get(), nullptr, expected.data(), &n));
    std::vector<uint32_t> out(13, 77777);
    int count = -7;
    ASSERT_EQ(bitnet_cpp_generate(handle, "Hello", 12, out.data(), &count), 0) << bitnet_last_error();
    ASSERT_EQ(count, int(n));
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(out[i], uint32_t(expected[i]));
    for (size_t i = n; i < out.size(); ++i) EXPECT_EQ(out[i], 77777u);

    const auto fails = [&](void *m, const char *text, int max, uint32_t *tokens) {
        count = -7;
        EXPECT_EQ(bitnet_cpp_generate(m, text, max, tokens, &count), -1);
        EXPECT_EQ(count, 0);
    };
    fails(nullptr, "a", 1, out.data());
    fails(handle, nullptr, 1, out.data());
    fails(handle, "a", 0, out.data());
    fails(handle, "a", 1, nullptr);
    EXPECT_EQ(bitnet_cpp_generate(handle, "a", 1, out.data(), nullptr), -1);
    bitnet_cpp_destroy_model(handle);
    bitnet_cpp_destroy_model(nullptr);
    EXPECT_EQ(bitnet_cpp_create_model(nullptr), nullptr);
    EXPECT_EQ(bitnet_cpp_create_model("/no/such.gguf"), nullptr);
}

TEST_F(Crossval, OneCallOneModel) {
    check_tokenizer(model(), [](const char *text, int bos, int special, int32_t *out, int32_t cap, int32_t *len,
                                char *err, int32_t n) {
        return crossval_bitnet_tokenize(small_model, text, bos, special, out, cap, len, err, n);
    });
    check_eval(
        model(),
        [](const int32_t *tokens, int32_t n, float *out, int32_t cap, int32_t *r, int32_t *c, char *err,
           int32_t length) {
            return crossval_bitnet_eval_with_tokens(small_model, tokens, n, 8, out, cap, r, c, err, length);
        },
        8);
    const int32_t token = 1;
    Answer a, b, c, d, e;
    const std::string path = "/no/such/" + std::string(600, 'p');
    expect_failure(crossval_bitnet_tokenize(path.c_str(), "a", 0, 0, nullptr, 0, &a.first, a.err, err_len), a,
                   {"/no/such/ppp"}, false);
    EXPECT_EQ(a.text().size(), size_t(err_len - 1)) << "as much as fits";
    expect_failure(crossval_bitnet_tokenize(nullptr, "a", 0, 0, nullptr, 0, &b.first, b.err, err_len), b,
                   {"model_path is NULL"}, false);
    expect_failure(
        crossval_bitnet_eval_with_tokens("/no/such", &token, 1, 8, nullptr, 0, &c.first, &c.second, c.err, err_len), c,
        {"/no/such"});
    expect_failure(
        crossval_bitnet_eval_with_tokens(small_model, &token, 1, 0, nullptr, 0, &d.first, &d.second, d.err, err_len), d,
        {"n_ctx is 0"});
    expect_failure(
        crossval_bitnet_eval_with_tokens(nullptr, &token, 1, 8, nullptr, 0, &e.first, &e.second, e.err, err_len), e,
        {"model_path is NULL"});
}

TEST_F(Crossval, ErrorsAreUtf8AndEndWithAWholeCharacter) {
    const std::string path =
        "/no/such/\xff" + std::string(300, 'p') + "\xe2\x82\xac\xe2\x82\xac.gguf";  // 0xff, and euro signs
    for (int32_t length = 1; length <= err_len; ++length) {
        Answer a;
        ASSERT_EQ(crossval_bitnet_tokenize(path.c_str(), "a", 0, 0, nullptr, 0, &a.first, a.err, length), -1);
        ASSERT_TRUE(length == err_len || a.err[length] == 'x') << "written beyond err_len";
        const std::string text(a.err, strnlen(a.err, size_t(length)));
        ASSERT_LT(text.size(), size_t(length));
        for (size_t i = 0; i < text.size(); ++i) {
            ASSERT_NE(text[i], '\xff');
            ASSERT_TRUE(text[i] != '\xe2' || i + 2 < text.size()) << "half a character at the end of " << text;
        }
    }
}

TEST_F(Crossval, Context) {
    const auto ctx = open();
    check_tokenizer(model(), [&](const char *text, int bos, int special, int32_t *out, int32_t cap, int32_t *len,
                                 char *err, int32_t n) {
        return bitnet_cpp_tokenize_with_context(ctx.get(), text, bos, special, out, cap, len, err, n);
    });
    EXPECT_EQ(bitnet_cpp_get_position(ctx.get()), 0);
    check_eval(
        model(),
        [&](const int32_t *tokens, int32_t n, float *out, int32_t cap, int32_t *r, int32_t *c, char *err,
            int32_t length) {
            return bitnet_cpp_eval_with_context(ctx.get(), tokens, n, 0, out, cap, r, c, err, length);
        },
        64);
    EXPECT_EQ(bitnet_cpp_get_position(ctx.get()), 3) << "one evaluation moved it, and no size query or failure";

    Answer a, b;
    const std::vector<int32_t> tokens = prompt(3);
    expect_failure(
        bitnet_cpp_eval_with_context(nullptr, tokens.data(), 3, 0, nullptr, 0, &a.first, &a.second, a.err, err_len), a,
        {"ctx is NULL"});
    expect_failure(
        bitnet_cpp_eval_with_context(ctx.get(), tokens.data(), 3, 1, nullptr, 0, &b.first, &b.second, b.err, err_len),
        b, {"seq_id is 1"});
    EXPECT_EQ(bitnet_cpp_get_position(nullptr), -1);
    EXPECT_EQ(bitnet_cpp_free_context(nullptr), 0);
    bitnet_cpp_reset_context(nullptr);
}

TEST_F(Crossval, ContextPositions) {
    const auto ctx = open(8);
    const std::vector<int32_t> tokens = prompt(8);
    const std::vector<float> expected = all_rows(model(), tokens);
    const auto call = [&](int32_t from, int32_t n, std::vector<float> &out, Answer &a) {
        out.assign(size_t(n) * n_vocab, NAN);
        return bitnet_cpp_eval_with_context(ctx.get(), tokens.data() + from, n, 0, out.data(), int32_t(out.size()),
                                            &a.first, &a.second, a.err, err_len);
    };
    for (int round = 0; round < 2; ++round) {
        std::vector<float> out, all;
        for (const auto &[from, n] : {std::pair{0, 4}, {4, 1}, {5, 2}}) {
            Answer a;
            ASSERT_EQ(call(from, n, out, a), 0) << a.text();
            all.insert(all.end(), out.begin(), out.end());
            EXPECT_EQ(bitnet_cpp_get_position(ctx.get()), from + n);
        }
        EXPECT_EQ(all, std::vector<float>(expected.begin(), expected.begin() + long(all.size())));
        Answer over;  // 7 + 2 > 8, in the words that its tests look for
        expect_failure(call(0, 2, out, over), over, {"overflow", "7", "2", "8"});
        EXPECT_EQ(bitnet_cpp_get_position(ctx.get()), 7);
        Answer last;
        EXPECT_EQ(call(7, 1, out, last), 0) << "exactly full is allowed";
        bitnet_cpp_reset_context(ctx.get());
        EXPECT_EQ(bitnet_cpp_get_position(ctx.get()), 0);
    }
}

TEST_F(Crossval, ContextsSideBySide) {
    const auto a = open(), b = open(32, -1);  // "all layers on the GPU" is no failure
    for (int n = 1; n < 4; ++n)
        for (bitnet_context_t *ctx : {a.get(), b.get()}) {
            const std::vector<int32_t> tokens = prompt(ctx == a.get() ? n : 2 * n);
            std::vector<float> out(tokens.size() * n_vocab);
            Answer answer;
            bitnet_cpp_reset_context(ctx);
            ASSERT_EQ(bitnet_cpp_eval_with_context(ctx, tokens.data(), int32_t(tokens.size()), 0, out.data(),
                                                   int32_t(out.size()), &answer.first, &answer.second, answer.err,
                                                   err_len),
                      0)
                << answer.text();
            EXPECT_EQ(out, all_rows(model(), tokens));
        }
}

TEST_F(Crossval, ContextFails) {
    bitnet_context_t *ctx = reinterpret_cast<bitnet_context_t *>(this);
    const auto fails = [&](const char *path, int32_t n_ctx, const char *word) {
        Answer a;
        ctx = reinterpret_cast<bitnet_context_t *>(this);
        EXPECT_EQ(bitnet_cpp_init_context(&ctx, path, n_ctx, 0, a.err, err_len), -1);
        EXPECT_EQ(ctx, nullptr);
        EXPECT_NE(a.text().find(word), std::string::npos) << a.text();
    };
    fails(nullptr, 8, "model_path is NULL");
    fails("/no/such.gguf", 8, "/no/such.gguf");
    fails(small_model, 0, "n_ctx is 0");
    fails(small_model, -1, "n_ctx is -1");
    Answer a;
    EXPECT_EQ(bitnet_cpp_init_context(nullptr, small_model, 8, 0, a.err, err_len), -1);
    EXPECT_NE(a.text().find("out_ctx is NULL"), std::string::npos);
    ctx = reinterpret_cast<bitnet_context_t *>(this);
    EXPECT_EQ(bitnet_cpp_init_context(&ctx, small_model, 8, 0, nullptr, 0), -1);
    EXPECT_EQ(ctx, nullptr);
}

TEST_F(Crossval, Session) {
    const auto session = open_session(8);
    check_tokenizer(model(), [&](const char *text, int bos, int special, int32_t *out, int32_t cap, int32_t *len,
                                 char *err, int32_t n) {
        return bitnet_cpp_session_tokenize(session.get(), text, bos, special, out, cap, len, err, n);
    });
    for (int round = 0; round < 3; ++round)  // each evaluation begins anew: three of 3 tokens fit into 8 positions
        check_eval(
            model(),
            [&](const int32_t *tokens, int32_t n, float *out, int32_t cap, int32_t *r, int32_t *c, char *err,
                int32_t length) {
                return bitnet_cpp_session_eval(session.get(), tokens, n, out, cap, r, c, err, length);
            },
            8);
    Answer a, b, c, d;
    bitnet_session_t *none = reinterpret_cast<bitnet_session_t *>(this);
    EXPECT_EQ(bitnet_cpp_session_create(&none, small_model, "/tokenizer.json", 8, 0, a.err, err_len), -1);
    EXPECT_EQ(none, nullptr);
    EXPECT_NE(a.text().find("/tokenizer.json"), std::string::npos);
    EXPECT_EQ(bitnet_cpp_session_create(nullptr, small_model, nullptr, 8, 0, b.err, err_len), -1);
    expect_failure(bitnet_cpp_session_eval(nullptr, nullptr, 1, nullptr, 0, &c.first, &c.second, c.err, err_len), c,
                   {"session is NULL"});
    expect_failure(bitnet_cpp_session_tokenize(nullptr, "a", 0, 0, nullptr, 0, &d.first, d.err, err_len), d,
                   {"session is NULL"}, false);
    EXPECT_EQ(bitnet_cpp_session_free(nullptr), 0);
}

TEST_F(Crossval, NoGpu) {
    const auto ctx = open();
    const int32_t token = 1;
    Answer a, b;
    expect_failure(bitnet_cpp_eval_gpu(ctx.get(), &token, 1, nullptr, 0, &a.first, &a.second, a.err, err_len), a,
                   {"no GPU"});
    expect_failure(bitnet_cpp_eval_gpu(nullptr, &token, 1, nullptr, 0, &b.first, &b.second, b.err, err_len), b,
                   {"ctx is NULL"});
    bitnet_capabilities_t caps;
    std::memset(&caps, 0x55, sizeof caps);
    EXPECT_EQ(bitnet_cpp_get_capabilities(nullptr), -1);
    ASSERT_EQ(bitnet_cpp_get_capabilities(&caps), 0);
    const auto usable = [](const std::string &name) {
        for (int32_t i = 0; i < bitnet_isa_count(); ++i)
            if (bitnet_isa_name(i) == name) return bitnet_isa_usable(i);
        return 0;
    };
    EXPECT_EQ(caps.has_avx2, usable("avx2"));
    EXPECT_EQ(caps.has_avx512, usable("avx512vnni"));
    EXPECT_EQ(caps.has_neon, usable("neon"));
    EXPECT_EQ(caps.has_cuda + caps.has_metal + caps.has_hip, 0);
}

TEST_F(Crossval, MoreLogitsThanACapacityCanSay) {
    // int32 holds 2^31 - 1: with 512 logits a row that ends at 4194303 rows, fewer than this context pretends to hold.
    const std::vector<int32_t> tokens(4194304, 1);
    Answer fits, over;
    EXPECT_EQ(crossval_bitnet_eval_with_tokens(small_model, tokens.data(), 4194303, INT32_MAX, nullptr, 0, &fits.first,
                                               &fits.second, fits.err, err_len),
              0)
        << fits.text();
    expect_failure(crossval_bitnet_eval_with_tokens(small_model, tokens.data(), 4194304, INT32_MAX, nullptr, 0,
                                                    &over.first, &over.second, over.err, err_len),
                   over, {"4194304", "2147483647"});
}

TEST(CrossvalLifetime, AHundredTimes) {
    const int32_t token = 3;
    for (int i = 0; i < 100; ++i) {
        bitnet_context_t *ctx = nullptr;
        Answer a;
        ASSERT_EQ(bitnet_cpp_init_context(&ctx, small_model, 8, 0, a.err, err_len), 0) << a.text();
        std::vector<float> out(n_vocab);
        ASSERT_EQ(
            bitnet_cpp_eval_with_context(ctx, &token, 1, 0, out.data(), n_vocab, &a.first, &a.second, a.err, err_len),
            0)
            << a.text();
        ASSERT_EQ(bitnet_cpp_free_context(ctx), 0);
        void *model = bitnet_cpp_create_model(small_model);
        ASSERT_NE(model, nullptr);
        bitnet_cpp_destroy_model(model);
    }
}

}  // namespace
}  // namespace bitnet_test
