// libllama.so as BitNet-rs calls it, in both generations of its header, beside functions that take the names of
// bitnet_c.h.
#include "tests/abi/llama_test.h"

#include <bitnet_c.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

// BitNet-rs links its own wrappers statically, under names that libbitnet.so exports too. Whoever calls these has left
// its library.
static int n_interposed = 0;
extern "C" {
void bitnet_model_free(bitnet_model_t *) { ++n_interposed; }
void bitnet_context_free(bitnet_ctx_t *) { ++n_interposed; }
bitnet_model_t *bitnet_model_new_from_file(const char *) { return ++n_interposed, nullptr; }
bitnet_ctx_t *bitnet_context_new(bitnet_model_t *, const bitnet_params_t *) { return ++n_interposed, nullptr; }
int bitnet_tokenize(bitnet_model_t *, const char *, int, int, int32_t *, int) { return ++n_interposed, -1; }
int bitnet_eval(bitnet_ctx_t *, const int32_t *, int, float *, int) { return ++n_interposed, -1; }
bitnet_status_t bitnet_load(const char *, const bitnet_load_params_t *, bitnet_model_t **) {
    return ++n_interposed, -1;
}
bitnet_status_t bitnet_eval_tokens(bitnet_ctx_t *, const int32_t *, size_t, const bitnet_eval_params_t *) {
    return ++n_interposed, -1;
}
bitnet_status_t bitnet_context_create(const bitnet_model_t *, const bitnet_context_params_t *, bitnet_ctx_t **) {
    return ++n_interposed, -1;
}
}

namespace bitnet_test {
namespace {

const char *const small_model = "tests/data/small.gguf";
constexpr int n_vocab = 512, n_embd = 256;

std::vector<int32_t> prompt(int n) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back((i * 37 + 11) % n_vocab);
    return tokens;
}

// The library beside it, past what this program defines: what the logits must equal, bit for bit.
class Reference {
public:
    Reference() : library_(dlopen(LIBBITNET, RTLD_NOW | RTLD_LOCAL)) { EXPECT_NE(library_, nullptr) << dlerror(); }
    template <class F> F *function(F *, const char *name) const {
        void *address = dlsym(library_, name);
        EXPECT_NE(address, nullptr) << name;
        F *f = nullptr;
        std::memcpy(&f, &address, sizeof f);
        return f;
    }
#define FUNCTION(name) function(static_cast<decltype(::name) *>(nullptr), #name)
    // Logits of all rows, one after another.
    std::vector<float> rows(const std::vector<int32_t> &tokens) const {
        bitnet_model_t *model = nullptr;
        bitnet_ctx_t *ctx = nullptr;
        bitnet_context_params_t size{};
        size.struct_size = sizeof size;
        size.n_ctx = 64;
        bitnet_eval_params_t all{};
        all.struct_size = sizeof all;
        all.logits = BITNET_LOGITS_ALL;
        EXPECT_EQ(FUNCTION(bitnet_load)(small_model, nullptr, &model), 0);
        EXPECT_EQ(FUNCTION(bitnet_context_create)(model, &size, &ctx), 0);
        EXPECT_EQ(FUNCTION(bitnet_eval_tokens)(ctx, tokens.data(), tokens.size(), &all), 0);
        std::vector<float> out(tokens.size() * n_vocab);
        for (size_t i = 0; i < tokens.size(); ++i) {
            size_t n = n_vocab;
            EXPECT_EQ(FUNCTION(bitnet_copy_logits)(ctx, int32_t(i), out.data() + i * n_vocab, &n), 0);
        }
        FUNCTION(bitnet_model_free)(model);
        FUNCTION(bitnet_context_free)(ctx);
        return out;
    }
    std::vector<float> row(const std::vector<int32_t> &tokens) const {
        const std::vector<float> all = rows(tokens);
        return {all.end() - n_vocab, all.end()};
    }

private:
    void *library_;
};

class Llama : public testing::Test {
protected:
    const Reference reference_;
    llama_model *model_ = nullptr;
    llama_context *ctx_ = nullptr;

    void SetUp() override {
        n_interposed = 0;
        llama_backend_init();
        model_ = llama_load_model_from_file(small_model, llama_model_default_params());
        ASSERT_NE(model_, nullptr);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 64;
        params.n_threads = params.n_threads_batch = 1;
        ctx_ = llama_new_context_with_model(model_, params);
        ASSERT_NE(ctx_, nullptr);
    }
    void TearDown() override {
        llama_free_model(model_);  // before its context, as a Rust struct drops its fields
        llama_free(ctx_);
        llama_backend_free();
        EXPECT_EQ(n_interposed, 0) << "a library was left for a function of this program";
    }

    // As bitnet-sys fills a batch: sequence ids on its own stack.
    int32_t decode(const std::vector<int32_t> &tokens, int32_t pos_0, const std::vector<int> &flags = {}) {
        llama_batch batch = llama_batch_init(int32_t(tokens.size()), 0, 1);
        llama_seq_id own[1] = {0};
        for (size_t i = 0; i < tokens.size(); ++i) {
            batch.token[i] = tokens[i];
            batch.pos[i] = pos_0 + int32_t(i);
            batch.n_seq_id[i] = 1;
            batch.seq_id[i] = own;
            batch.logits[i] = flags.empty() ? 1 : int8_t(flags[i]);
        }
        batch.n_tokens = int32_t(tokens.size());
        const int32_t status = llama_decode(ctx_, batch);
        llama_batch_free(batch);
        llama_batch_free(batch);
        return status;
    }
    static std::vector<float> copy(const float *row) {
        EXPECT_NE(row, nullptr);
        return row ? std::vector<float>(row, row + n_vocab) : std::vector<float>();
    }
};

TEST_F(Llama, Queries) {
    EXPECT_EQ(llama_n_vocab(model_), n_vocab);
    EXPECT_EQ(llama_n_embd(model_), n_embd);
    EXPECT_GT(llama_n_ctx_train(model_), 0);
    EXPECT_EQ(llama_n_ctx(ctx_), 64u);
    EXPECT_EQ(llama_get_model(ctx_), model_);
    EXPECT_NE(std::string(llama_print_system_info()).find("bitnet-c"), std::string::npos);
    EXPECT_EQ(llama_token_get_text(model_, n_vocab), nullptr);
    EXPECT_NE(llama_token_get_text(model_, 5), nullptr);
    EXPECT_GE(llama_token_eos(model_), 0);
    EXPECT_GE(llama_token_bos(model_), 0);
}

TEST_F(Llama, Tokenize) {
    const char *const text = "Hello world";
    const int32_t length = int32_t(std::strlen(text)),
                  n = llama_tokenize(model_, text, length, nullptr, 0, true, false);
    ASSERT_GT(n, 1);
    std::vector<int32_t> tokens(size_t(n) + 1, -7), again(size_t(n), -7);
    EXPECT_EQ(llama_tokenize(model_, text, length, tokens.data(), n - 1, true, false), -n);
    EXPECT_EQ(tokens, std::vector<int32_t>(size_t(n) + 1, -7));
    EXPECT_EQ(llama_tokenize(model_, text, length, tokens.data(), n, true, false), n);
    EXPECT_EQ(tokens.back(), -7);
    EXPECT_EQ(tokens[0], llama_token_bos(model_));
    EXPECT_EQ(llama_tokenize(model_, text, -1, again.data(), n, true, false), n);
    EXPECT_TRUE(std::equal(again.begin(), again.end(), tokens.begin()));
    EXPECT_EQ(llama_tokenize(model_, text, length, nullptr, 0, false, false), n - 1);
    EXPECT_EQ(llama_tokenize(model_, text, 5, nullptr, 0, false, false),
              llama_tokenize(model_, "Hello", 5, nullptr, 0, false, false));
    EXPECT_EQ(llama_tokenize(model_, "", 0, nullptr, 0, false, false), 0);
    testing::internal::CaptureStderr();
    EXPECT_EQ(llama_tokenize(nullptr, text, length, nullptr, 0, true, false), INT32_MIN);
    EXPECT_EQ(llama_tokenize(model_, nullptr, 3, nullptr, 0, true, false), INT32_MIN);
    EXPECT_NE(testing::internal::GetCapturedStderr().find("NULL"), std::string::npos);
}

TEST_F(Llama, EveryRowOfEveryKindOfBatch) {
    const std::vector<int32_t> tokens = prompt(6);
    const std::vector<float> expected = reference_.rows(tokens);
    const auto row_of = [&](size_t i) {
        return std::vector<float>(expected.begin() + long(i) * n_vocab, expected.begin() + long(i + 1) * n_vocab);
    };
    llama_set_causal_attn(ctx_, false);
    for (const std::vector<int> &flags :
         {std::vector<int>(6, 1), std::vector<int>(6, 0), {0, 0, 0, 0, 0, 1}, {0, 1, 0, 1, 0, 0}}) {
        ASSERT_EQ(decode(tokens, 0, flags), 0);
        EXPECT_EQ(llama_get_kv_cache_token_count(ctx_), 6);
        const bool none = std::count(flags.begin(), flags.end(), 1) == 0;
        std::vector<size_t> wanted;
        for (size_t i = 0; i < 6; ++i)
            if (none || flags[i]) wanted.push_back(i);
        for (size_t i = 0; i < 6; ++i) {
            const bool asked = std::find(wanted.begin(), wanted.end(), i) != wanted.end();
            const float *row = llama_get_logits_ith(ctx_, int32_t(i));
            ASSERT_EQ(row != nullptr, asked) << i;
            if (asked) {
                EXPECT_EQ(copy(row), row_of(i));
            }
        }
        EXPECT_EQ(copy(llama_get_logits(ctx_)), row_of(wanted.back()));
        EXPECT_EQ(copy(llama_get_logits_ith(ctx_, -int32_t(wanted.size()))), row_of(wanted.front()));
        EXPECT_EQ(llama_get_logits_ith(ctx_, -int32_t(wanted.size()) - 1), nullptr);
        EXPECT_EQ(llama_get_logits_ith(ctx_, 6), nullptr);
    }
    llama_batch borrowed = llama_batch_get_one(const_cast<int32_t *>(tokens.data()), 6, 0, 0);  // replaces what is held
    ASSERT_EQ(llama_decode(ctx_, borrowed), 0);
    llama_batch_free(borrowed);
    EXPECT_EQ(copy(llama_get_logits_ith(ctx_, 2)), row_of(2));
    EXPECT_EQ(llama_batch_get_one(borrowed.token, 6, 0, 1).n_tokens, 0);
}

TEST_F(Llama, AllLogitsByTheContext) {
    llama_context_params params = llama_context_default_params();
    EXPECT_EQ(params.n_ctx, 512u);
    params.logits_all = true;
    llama_free(ctx_);
    ctx_ = llama_new_context_with_model(model_, params);
    const std::vector<int32_t> tokens = prompt(4);
    ASSERT_EQ(decode(tokens, 0, {0, 0, 0, 1}), 0);
    const std::vector<float> expected = reference_.rows(tokens);
    EXPECT_EQ(copy(llama_get_logits_ith(ctx_, 0)), std::vector<float>(expected.begin(), expected.begin() + n_vocab));
}

TEST_F(Llama, GreedyTokenByToken) {
    // As bitnet-sys's wrapper decodes: prefill, then an eval of the same from position 0, then one token at a time,
    // without flags, on a batch that is freed twice.
    std::vector<int32_t> tokens = prompt(5);
    ASSERT_EQ(decode(tokens, 0, {0, 0, 0, 0, 1}), 0);
    ASSERT_EQ(decode(tokens, 0, {0, 0, 0, 0, 1}), 0);
    llama_batch batch = llama_batch_init(1, 0, 1);
    for (int step = 0; step < 6; ++step) {
        EXPECT_EQ(copy(llama_get_logits(ctx_)), reference_.row(tokens));
        const float *const row = llama_get_logits(ctx_);
        tokens.push_back(int32_t(std::max_element(row, row + n_vocab) - row));
        batch.n_tokens = 1;
        batch.token[0] = tokens.back();
        batch.pos[0] = llama_get_kv_cache_token_count(ctx_);
        batch.n_seq_id[0] = 1;
        batch.seq_id[0][0] = 0;
        ASSERT_EQ(llama_decode(ctx_, batch), 0);
    }
    llama_batch_free(batch);
    llama_batch_free(batch);
}

TEST_F(Llama, NewGeneration) {
    const std::vector<int32_t> tokens = prompt(7);
    std::vector<int32_t> text_tokens;
    std::vector<float> logits;
    ASSERT_EQ(new_generation(small_model, "Hello world", tokens, text_tokens, logits), "");
    EXPECT_EQ(logits, reference_.rows(tokens));
    std::vector<int32_t> expected(text_tokens.size());
    ASSERT_EQ(llama_tokenize(model_, "Hello world", 11, expected.data(), int32_t(expected.size()), true, false),
              int32_t(expected.size()));
    EXPECT_EQ(text_tokens, expected);
}

TEST_F(Llama, Embeddings) {
    llama_batch batch = llama_batch_init(3, n_embd, 1);
    ASSERT_NE(batch.embd, nullptr);
    EXPECT_EQ(batch.token, nullptr);
    for (int i = 0; i < 3 * n_embd; ++i) batch.embd[i] = float(i % 17) / 16 - 0.5f;
    batch.n_tokens = 3;
    for (int i = 0; i < 3; ++i) batch.pos[i] = i, batch.n_seq_id[i] = 1;
    EXPECT_EQ(llama_decode(ctx_, batch), 0);
    for (const float x : copy(llama_get_logits(ctx_))) EXPECT_TRUE(std::isfinite(x));
    llama_batch_free(batch);
}

TEST_F(Llama, WrongBatches) {
    std::vector<std::string> lines;
    llama_log_set(
        [](ggml_log_level level, const char *text, void *user) {
            EXPECT_EQ(level, GGML_LOG_LEVEL_ERROR);
            static_cast<std::vector<std::string> *>(user)->push_back(text);
        },
        &lines);
    const std::vector<int32_t> tokens = prompt(3);
    ASSERT_EQ(decode(tokens, 0), 0);
    const std::vector<float> before = copy(llama_get_logits(ctx_));
    EXPECT_EQ(decode(tokens, 4), -1) << "a gap";
    EXPECT_EQ(decode(tokens, -1), -1);
    EXPECT_EQ(decode({1, -1, 2}, 3), -1);
    EXPECT_EQ(decode({1, n_vocab, 2}, 0), -1);
    EXPECT_EQ(decode(prompt(62), 3), 1) << "no room";
    EXPECT_EQ(llama_decode(ctx_, llama_batch{}), -1);
    EXPECT_EQ(llama_decode(nullptr, llama_batch{}), -1);
    llama_batch batch = llama_batch_init(2, 0, 2);
    batch.n_tokens = 2;
    batch.pos[0] = 3, batch.pos[1] = 5;
    batch.n_seq_id[0] = batch.n_seq_id[1] = 1;
    EXPECT_EQ(llama_decode(ctx_, batch), -1) << "positions 3, 5";
    batch.pos[1] = 4, batch.seq_id[1][0] = 1;
    EXPECT_EQ(llama_decode(ctx_, batch), -1) << "sequence 1";
    batch.seq_id[1][0] = 0, batch.n_seq_id[1] = 2;
    EXPECT_EQ(llama_decode(ctx_, batch), -1) << "two sequences";
    llama_batch_free(batch);
    EXPECT_EQ(lines.size(), 10u);
    for (const std::string &line : lines) EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
    llama_log_set(nullptr, nullptr);
    EXPECT_EQ(llama_get_kv_cache_token_count(ctx_), 3) << "nothing changed";
    EXPECT_EQ(copy(llama_get_logits(ctx_)), before);
    EXPECT_EQ(decode(prompt(61), 3), 0) << "exactly full";
    llama_kv_cache_clear(ctx_);
    EXPECT_EQ(llama_get_kv_cache_token_count(ctx_), 0);
    EXPECT_EQ(llama_get_logits(ctx_), nullptr);
}

TEST_F(Llama, Failures) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(llama_load_model_from_file("/no/such.gguf", llama_model_default_params()), nullptr);
    EXPECT_EQ(llama_load_model_from_file(nullptr, llama_model_default_params()), nullptr);
    EXPECT_EQ(llama_new_context_with_model(nullptr, llama_context_default_params()), nullptr);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = UINT32_MAX;
    EXPECT_EQ(llama_new_context_with_model(model_, params), nullptr);
    const std::string told = testing::internal::GetCapturedStderr();
    EXPECT_NE(told.find("/no/such.gguf"), std::string::npos) << told;
    EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 4) << told;
    llama_free(nullptr);
    llama_free_model(nullptr);
    llama_kv_cache_clear(nullptr);
    EXPECT_EQ(llama_get_logits(nullptr), nullptr);
    EXPECT_EQ(llama_n_vocab(nullptr), 0);
    EXPECT_EQ(llama_token_eos(nullptr), -1);
    EXPECT_EQ(llama_batch_init(0, 0, 1).token, nullptr);
    llama_batch_free(llama_batch{});
}

TEST_F(Llama, LibbitnetIsNotInterposedEither) {
    // Its own functions call each other by these names.
    void *const model = reference_.FUNCTION(bitnet_model_new_from_file)(small_model);
    ASSERT_NE(model, nullptr);
    const bitnet_params_t params{16, 1, 0, 1.0f};
    bitnet_ctx_t *const ctx = reference_.FUNCTION(bitnet_context_new)(static_cast<bitnet_model_t *>(model), &params);
    ASSERT_NE(ctx, nullptr);
    std::vector<float> logits(n_vocab);
    const std::vector<int32_t> tokens = prompt(3);
    EXPECT_EQ(reference_.FUNCTION(bitnet_eval)(ctx, tokens.data(), 3, logits.data(), n_vocab), 0);
    EXPECT_EQ(logits, reference_.row(tokens));
    reference_.FUNCTION(bitnet_model_free)(static_cast<bitnet_model_t *>(model));
    reference_.FUNCTION(bitnet_context_free)(ctx);
}

TEST(LlamaLifetime, AHundredTimesInEitherOrder) {
    for (int i = 0; i < 100; ++i) {
        llama_model *model = llama_load_model_from_file(small_model, llama_model_default_params());
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 16;
        params.n_threads = 1;
        llama_context *a = llama_new_context_with_model(model, params),
                      *b = llama_new_context_with_model(model, params);
        if (i % 2) llama_free_model(model);
        std::vector<int32_t> tokens = prompt(3);
        ASSERT_EQ(llama_decode(a, llama_batch_get_one(tokens.data(), 3, 0, 0)), 0);
        ASSERT_EQ(llama_decode(b, llama_batch_get_one(tokens.data(), 2, 0, 0)), 0);
        EXPECT_EQ(llama_n_vocab(llama_get_model(a)), n_vocab) << "good as long as the context";
        llama_free(a);
        if (i % 2 == 0) llama_free_model(model);
        EXPECT_NE(llama_get_logits(b), nullptr);
        llama_free(b);
    }
}

}  // namespace
}  // namespace bitnet_test
