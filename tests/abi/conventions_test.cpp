// Sections 1 to 3 of the header, and the conventions at its top: versions, names, last error, struct sizes, buffers.
#include <cerrno>
#include <thread>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

TEST(Version, IsTheHeaders) {
    EXPECT_EQ(bitnet_abi_version(), BITNET_ABI_VERSION);
    EXPECT_EQ(bitnet_abi_version() >> 16, 1u);
    EXPECT_STREQ(bitnet_version(), "0.1.0");
}

TEST(Status, Names) {
    const std::map<bitnet_status_t, const char *> names = {
        {0, "BITNET_OK"},
        {-1, "BITNET_E_INVALID"},
        {-2, "BITNET_E_NOMEM"},
        {-3, "BITNET_E_IO"},
        {-4, "BITNET_E_FORMAT"},
        {-5, "BITNET_E_UNSUPPORTED"},
        {-6, "BITNET_E_BUFFER"},
        {-7, "BITNET_E_ISA"},
        {-8, "BITNET_E_ABI"},
        {-9, "BITNET_E_PLUGIN"},
        {-10, "BITNET_E_BUSY"},
        {-11, "BITNET_E_OVERFLOW"},
        {-12, "BITNET_E_CANCELLED"},
        {-13, "BITNET_E_USER"},
        {-14, "BITNET_E_INTERNAL"},
        {-15, "BITNET_E_UNKNOWN"},
        {1, "BITNET_E_UNKNOWN"},
        {INT32_MIN, "BITNET_E_UNKNOWN"},
    };
    for (const auto &[status, name] : names) EXPECT_STREQ(bitnet_status_name(status), name);
}

TEST(LastError, IsOfThisThreadAndOnlyOfFailures) {
    bitnet_model_t *model = nullptr;
    expect_error(bitnet_load("/no/such/file.gguf", nullptr, &model), BITNET_E_IO,
                 {"bitnet_load", "/no/such/file.gguf"});
    const std::string mine = bitnet_last_error();
    std::string before = "?", theirs = "?";
    std::thread([&] {
        before = bitnet_last_error();
        bitnet_context_reset(nullptr);
        theirs = bitnet_last_error();
    }).join();
    EXPECT_EQ(before, "");
    EXPECT_NE(theirs.find("bitnet_context_reset"), std::string::npos) << theirs;
    EXPECT_EQ(bitnet_last_error(), mine);

    const Model loaded = load();
    const Context ctx = context(loaded.get());
    ASSERT_OK(eval(ctx.get(), prompt(3)));
    EXPECT_NE(bitnet_get_logits_ith(ctx.get(), 0), nullptr);
    EXPECT_EQ(bitnet_last_error(), mine);
    EXPECT_EQ(bitnet_get_logits_ith(ctx.get(), 1), nullptr);
    EXPECT_NE(bitnet_last_error(), mine);
}

TEST(LastError, IsOneLineWhateverThePath) {
    bitnet_model_t *model = nullptr;
    expect_error(bitnet_load("/no/such\nfile\x1b[2J.gguf", nullptr, &model), BITNET_E_IO);
    const std::string endless = std::string(100000, '/') + "x";
    expect_error(bitnet_load(endless.c_str(), nullptr, &model), BITNET_E_IO);
    EXPECT_LT(std::strlen(bitnet_last_error()), 2000u);
}

TEST(Isa, ListAndChoice) {
    const int32_t n = bitnet_isa_count();
    ASSERT_GE(n, 1);
    EXPECT_STREQ(bitnet_isa_name(0), "scalar");
    EXPECT_EQ(bitnet_isa_usable(0), 1);
    for (const int32_t index : {-1, n, INT32_MAX, INT32_MIN}) {
        EXPECT_EQ(bitnet_isa_name(index), nullptr);
        EXPECT_EQ(bitnet_isa_usable(index), 0);
    }
    const std::vector<float> expected = logits_after(load(nullptr, "scalar").get(), prompt(9));
    const char *best = "";
    for (int32_t i = 0; i < n; ++i) {
        auto params = make<bitnet_load_params_t>();
        params.isa = bitnet_isa_name(i);
        bitnet_model_t *model = nullptr;
        const bitnet_status_t status = bitnet_load(small_model, &params, &model);
        const Model held(model);
        if (!bitnet_isa_usable(i)) {
            expect_error(status, BITNET_E_ISA, {bitnet_isa_name(i)});
            EXPECT_EQ(model, nullptr);
            continue;
        }
        best = bitnet_isa_name(i);
        ASSERT_OK(status);
        EXPECT_STREQ(bitnet_model_isa(model), bitnet_isa_name(i));
        EXPECT_EQ(logits_after(model, prompt(9)), expected) << bitnet_isa_name(i);
    }
    EXPECT_STREQ(bitnet_model_isa(load().get()), best);
}

TEST(Isa, EnvironmentForcesOneAndParametersWin) {
    const Env env("BITNET_ISA", "scalar");
    EXPECT_STREQ(bitnet_model_isa(load().get()), "scalar");
    bitnet_model_t *model = nullptr;
    {
        const Env wrong("BITNET_ISA", "sse9");
        expect_error(bitnet_load(small_model, nullptr, &model), BITNET_E_ISA, {"sse9", "scalar"});
        EXPECT_STREQ(bitnet_model_isa(load(nullptr, "scalar").get()), "scalar");
    }
    auto params = make<bitnet_load_params_t>();
    params.isa = "neon9";
    expect_error(bitnet_load(small_model, &params, &model), BITNET_E_ISA, {"neon9"});
    EXPECT_EQ(model, nullptr);
}

// A struct of a newer header: ours, then bytes that we do not know.
template <class T> struct Newer {
    T known;
    unsigned char tail[24];
};

template <class T> Newer<T> newer() {
    Newer<T> value{};
    value.known.struct_size = sizeof value;
    return value;
}

// `call` takes a `const T *` and returns the status; all sizes but sizeof(T) with zeros behind are wrong.
template <class T, class Call> void check_parameter_sizes(const Call &call) {
    EXPECT_OK(call(nullptr));
    auto params = make<T>();
    EXPECT_OK(call(&params));
    for (const size_t size : {size_t(0), size_t(1), size_t(4), sizeof(T) - 1}) {
        params.struct_size = uint32_t(size);
        expect_error(call(&params), BITNET_E_ABI, {"struct_size", std::to_string(size), std::to_string(sizeof(T))});
    }
    auto larger = newer<T>();
    EXPECT_OK(call(&larger.known));
    larger.tail[sizeof larger.tail - 1] = 1;
    expect_error(call(&larger.known), BITNET_E_ABI, {std::to_string(sizeof larger - 1)});
}

TEST(StructSize, OfParameters) {
    const Model model = load();
    check_parameter_sizes<bitnet_load_params_t>([](const bitnet_load_params_t *params) {
        bitnet_model_t *out = nullptr;
        const bitnet_status_t status = bitnet_load(small_model, params, &out);
        EXPECT_EQ(out != nullptr, status == BITNET_OK);
        bitnet_model_free(out);
        return status;
    });
    check_parameter_sizes<bitnet_context_params_t>([&](const bitnet_context_params_t *params) {
        bitnet_ctx_t *out = nullptr;
        const bitnet_status_t status = bitnet_context_create(model.get(), params, &out);
        EXPECT_EQ(out != nullptr, status == BITNET_OK);
        bitnet_context_free(out);
        return status;
    });
    const Context ctx = context(model.get());
    const int32_t token = 5;
    check_parameter_sizes<bitnet_eval_params_t>(
        [&](const bitnet_eval_params_t *params) { return bitnet_eval_tokens(ctx.get(), &token, 1, params); });
    check_parameter_sizes<bitnet_logits_limits_t>([](const bitnet_logits_limits_t *limits) {
        const float logit = 1;
        return bitnet_compare_logits(&logit, &logit, 1, 1, limits, nullptr, nullptr);
    });
    check_parameter_sizes<bitnet_generate_params_t>([&](const bitnet_generate_params_t *params) {
        int32_t out[1];
        size_t n = 1;
        return bitnet_generate(ctx.get(), params, out, &n);
    });
}

// No library can know that so much memory is there to be looked at.
TEST(StructSize, AbsurdOneIsRefusedUnread) {
    auto params = make<bitnet_context_params_t>();
    params.struct_size = UINT32_MAX;
    const Model model = load();
    bitnet_ctx_t *ctx = nullptr;
    expect_error(bitnet_context_create(model.get(), &params, &ctx), BITNET_E_ABI, {"4294967295"});
    EXPECT_EQ(ctx, nullptr);
}

template <class T, class Call> void check_output_sizes(const Call &call) {
    auto larger = newer<T>();
    std::memset(larger.tail, 0x5a, sizeof larger.tail);
    EXPECT_OK(call(&larger.known));
    for (const unsigned char byte : larger.tail) EXPECT_EQ(byte, 0x5a);
    EXPECT_EQ(larger.known.struct_size, sizeof larger);
    T out;
    for (const size_t size : {size_t(0), size_t(4), sizeof(T) - 1}) {
        std::memset(&out, 0x5a, sizeof out);
        out.struct_size = uint32_t(size);
        expect_error(call(&out), BITNET_E_ABI, {"struct_size", std::to_string(size), std::to_string(sizeof(T))});
        const auto *bytes = reinterpret_cast<const unsigned char *>(&out);
        for (size_t i = sizeof(uint32_t); i < sizeof out; ++i) ASSERT_EQ(bytes[i], 0x5a) << "byte " << i;
    }
    expect_error(call(nullptr), BITNET_E_INVALID, {"out"});
}

TEST(StructSize, OfOutputs) {
    const Model model = load();
    const Context ctx = context(model.get());
    check_output_sizes<bitnet_model_info_t>(
        [&](bitnet_model_info_t *out) { return bitnet_model_get_info(model.get(), out); });
    check_output_sizes<bitnet_tensor_info_t>(
        [&](bitnet_tensor_info_t *out) { return bitnet_model_tensor(model.get(), 0, out); });
    check_output_sizes<bitnet_logits_limits_t>(
        [](bitnet_logits_limits_t *out) { return bitnet_compare_preset("bitnet", out); });
    check_output_sizes<bitnet_trace_stats_t>(
        [&](bitnet_trace_stats_t *out) { return bitnet_trace_get_stats(ctx.get(), out); });
}

// `call(out, n)` follows the buffer rule; `n_out` is what it writes.
template <class T> void check_buffer(const std::function<bitnet_status_t(T *, size_t *)> &call) {
    size_t need = 0;
    EXPECT_OK(call(nullptr, &need));
    ASSERT_GT(need, 1u);
    size_t n = need * 3;
    EXPECT_OK(call(nullptr, &n));
    EXPECT_EQ(n, need);

    const auto mark = T(0x5a);
    std::vector<T> exact(need + 1, mark);
    n = need;
    ASSERT_OK(call(exact.data(), &n));
    EXPECT_EQ(n, need);
    EXPECT_EQ(exact[need], mark);

    std::vector<T> spare(need + 7, mark);
    n = spare.size();
    ASSERT_OK(call(spare.data(), &n));
    EXPECT_EQ(n, need);
    EXPECT_EQ(std::memcmp(spare.data(), exact.data(), need * sizeof(T)), 0);
    for (size_t i = need; i < spare.size(); ++i) EXPECT_EQ(spare[i], mark);

    for (const size_t capacity : {need - 1, size_t(0)}) {
        std::vector<T> small(need, mark);
        n = capacity;
        expect_error(call(small.data(), &n), BITNET_E_BUFFER, {std::to_string(capacity), std::to_string(need)});
        EXPECT_EQ(n, need);
        for (const T value : small) ASSERT_EQ(value, mark);
    }
    expect_error(call(exact.data(), nullptr), BITNET_E_INVALID, {"n is NULL"});
}

TEST(Buffer, EveryFunctionThatFillsOne) {
    const Model model = load();
    const Context ctx = context(model.get());
    ASSERT_OK(eval(ctx.get(), prompt(3)));
    const std::vector<int32_t> tokens = prompt(20);
    check_buffer<char>([&](char *out, size_t *n) { return bitnet_model_hash(model.get(), out, n); });
    check_buffer<char>([&](char *out, size_t *n) { return bitnet_blake3("abc", 3, out, n); });
    check_buffer<char>([&](char *out, size_t *n) { return bitnet_model_key_text(model.get(), 0, 0, out, n); });
    check_buffer<char>(
        [&](char *out, size_t *n) { return bitnet_detokenize(model.get(), tokens.data(), tokens.size(), 0, out, n); });
    check_buffer<int32_t>([&](int32_t *out, size_t *n) {
        return bitnet_tokenize_text(model.get(), "some text", SIZE_MAX, BITNET_TOKENIZE_ADD_BOS, out, n);
    });
    check_buffer<int32_t>([&](int32_t *out, size_t *n) { return bitnet_token_end_ids(model.get(), out, n); });
    check_buffer<float>([&](float *out, size_t *n) { return bitnet_copy_logits(ctx.get(), -1, out, n); });
    check_buffer<uint8_t>([&](uint8_t *out, size_t *n) { return bitnet_context_save(ctx.get(), out, n); });
}

TEST(Errno, IsNotChangedOnPurpose) {
    errno = 0;
    const Model model = load();
    const Context ctx = context(model.get());
    errno = 12345;
    ASSERT_OK(eval(ctx.get(), prompt(3)));
    row(ctx.get());
    EXPECT_EQ(errno, 12345);
}

struct Logged {
    std::vector<std::pair<int32_t, std::string>> lines;
    Logged() {
        bitnet_set_log([](void *user, int32_t level,
                          const char *text) { static_cast<Logged *>(user)->lines.emplace_back(level, text); },
                       this);
    }
    ~Logged() { bitnet_set_log(nullptr, nullptr); }
};

TEST(Log, GetsOneLineForEachThingAndCanBeTakenAway) {
    const Model model = load();
    const auto attach_nonsense = [&] {
        const Env env("BITNET_TRACE_PLUGIN", "no_such_plugin");
        return context(model.get());
    };
    {
        const Logged logged;
        const Context ctx = attach_nonsense();
        ASSERT_EQ(logged.lines.size(), 1u);
        EXPECT_EQ(logged.lines[0].first, BITNET_LOG_ERROR);
        EXPECT_NE(logged.lines[0].second.find("no_such_plugin"), std::string::npos) << logged.lines[0].second;
        EXPECT_EQ(logged.lines[0].second.find('\n'), std::string::npos);
    }
    testing::internal::CaptureStderr();
    testing::internal::CaptureStdout();
    attach_nonsense();
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

}  // namespace
}  // namespace bitnet_test
