// Section 4 of the header: loading and looking at a model.
#include <cstdio>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

bitnet_status_t load_bytes(const std::vector<uint8_t> &bytes, Model &out, uint32_t flags = 0) {
    auto params = make<bitnet_load_params_t>();
    params.flags = flags;
    bitnet_model_t *model = reinterpret_cast<bitnet_model_t *>(&params);
    const bitnet_status_t status = bitnet_load_memory(bytes.data(), bytes.size(), "in memory", &params, &model);
    EXPECT_EQ(model != nullptr, status == BITNET_OK);
    out.reset(model);
    return status;
}

TEST(Load, FilesThatAreNoModels) {
    bitnet_model_t *model = nullptr;
    expect_error(bitnet_load("tests/data", nullptr, &model), BITNET_E_IO, {"tests/data"});
    expect_error(bitnet_load("", nullptr, &model), BITNET_E_IO);
    expect_error(bitnet_load("tests/data/README.md", nullptr, &model), BITNET_E_FORMAT, {"README.md", "magic"});
    expect_error(bitnet_load("/dev/null", nullptr, &model), BITNET_E_IO, {"/dev/null", "regular file"});
    auto params = make<bitnet_load_params_t>();
    params.flags = BITNET_LOAD_COPY;
    expect_error(bitnet_load("tests/data", &params, &model), BITNET_E_IO, {"tests/data"});
    params.flags = 1u << 31;
    expect_error(bitnet_load(small_model, &params, &model), BITNET_E_INVALID, {"flags", "0x80000000"});
    Model cut;
    std::vector<uint8_t> bytes = read_file(small_model);
    bytes.resize(bytes.size() - 1);
    expect_error(load_bytes(bytes, cut), BITNET_E_FORMAT, {"in memory"});
    EXPECT_EQ(model, nullptr);
}

TEST(Load, Info) {
    const Model model = load();
    auto info = make<bitnet_model_info_t>();
    ASSERT_OK(bitnet_model_get_info(model.get(), &info));
    EXPECT_EQ(info.n_vocab, n_vocab);
    EXPECT_EQ(info.n_ctx_train, 512);
    EXPECT_EQ(info.n_embd, n_embd);
    EXPECT_EQ(info.n_layer, n_layer);
    EXPECT_EQ(info.n_ff, n_ff);
    EXPECT_EQ(info.n_head, n_head);
    EXPECT_EQ(info.n_head_kv, n_head_kv);
    EXPECT_EQ(info.head_dim, head_dim);
    EXPECT_EQ(info.n_rot, head_dim);
    EXPECT_EQ(info.rms_eps, 1e-5f);
    EXPECT_EQ(info.head_tied, 1);
    EXPECT_EQ(info.rope_theta, 500000.0);
    const uint64_t n_q = n_head * head_dim, n_kv = n_head_kv * head_dim;
    const uint64_t ternary = n_embd * (2 * n_q + 2 * n_kv) + 3ull * n_embd * n_ff;
    EXPECT_EQ(info.n_params, uint64_t(n_vocab) * n_embd + n_layer * (ternary + 2 * n_embd + n_q + n_ff) + n_embd);
    EXPECT_EQ(info.n_bytes, read_file(small_model).size());
    EXPECT_STREQ(bitnet_model_architecture(model.get()), "bitnet-b1.58");
    EXPECT_STREQ(bitnet_model_path(model.get()), small_model);
}

TEST(Load, SemanticsOverrides) {
    const Model model = load("activation=silu,eps=1e-6,theta=10000,rope=norm,sub_norms=off,kv=f16");
    auto info = make<bitnet_model_info_t>();
    ASSERT_OK(bitnet_model_get_info(model.get(), &info));
    EXPECT_EQ(info.rms_eps, 1e-6f);
    EXPECT_EQ(info.rope_theta, 10000.0);
    const std::string text = bitnet_model_semantics(model.get());
    for (const char *item : {"activation=silu", "eps=1e-06", "theta=10000", "rope=norm", "attn_sub_norm=off", "kv=f16"})
        EXPECT_NE(("," + text + ",").find("," + std::string(item) + ","), std::string::npos) << item << " in " << text;
    // What is printed can be given back, and means the same.
    const Model again = load(text.c_str());
    EXPECT_EQ(bitnet_model_semantics(again.get()), text);
    EXPECT_EQ(logits_after(again.get(), prompt(5)), logits_after(model.get(), prompt(5)));
    EXPECT_NE(logits_after(load().get(), prompt(5)), logits_after(model.get(), prompt(5)));

    bitnet_model_t *out = nullptr;
    auto params = make<bitnet_load_params_t>();
    const std::map<const char *, std::vector<std::string>> wrong = {
        {"activation=tanh", {"activation", "tanh", "relu2"}},
        {"colour=blue", {"colour", "activation"}},
        {"eps=-1", {"eps", "-1"}},
        {"eps", {"eps", "key=value"}},
        {"theta=nan", {"theta"}},
        {"profile=gpt", {"profile", "gpt", "bitnetcpp"}}};
    for (const auto &[semantics, words] : wrong) {
        params.semantics = semantics;
        expect_error(bitnet_load(small_model, &params, &out), BITNET_E_INVALID, words);
        EXPECT_EQ(out, nullptr);
    }
}

TEST(Load, Hash) {
    const Model model = load();
    char hash[65];
    size_t n = sizeof hash;
    ASSERT_OK(bitnet_model_hash(model.get(), hash, &n));
    EXPECT_EQ(n, sizeof hash);
    EXPECT_EQ(std::string(hash).find_first_not_of("0123456789abcdef"), std::string::npos);
    char other[65];
    Model copy;
    std::vector<uint8_t> bytes = read_file(small_model);
    ASSERT_OK(load_bytes(bytes, copy));
    ASSERT_OK(bitnet_model_hash(copy.get(), other, &n));
    EXPECT_STREQ(other, hash);
    bytes.push_back(0);  // a byte behind the last tensor is still part of the file
    ASSERT_OK(load_bytes(bytes, copy));
    ASSERT_OK(bitnet_model_hash(copy.get(), other, &n));
    EXPECT_STRNE(other, hash);

    FILE *b3sum = popen("b3sum --no-names tests/data/small.gguf 2>/dev/null", "r");
    ASSERT_NE(b3sum, nullptr);
    char line[80] = "";
    const bool answered = std::fgets(line, sizeof line, b3sum) != nullptr;
    pclose(b3sum);
    if (!answered) GTEST_SKIP() << "b3sum is not installed: nothing else to compare the hash with";
    EXPECT_EQ(std::string(line).substr(0, 64), hash);
}

TEST(Blake3, KnownVectorsAndTheModelsOwnHash) {
    const auto hash = [](const void *data, size_t n_bytes) {
        char out[65];
        size_t n = sizeof out;
        EXPECT_OK(bitnet_blake3(data, n_bytes, out, &n));
        EXPECT_EQ(n, sizeof out);
        return std::string(out);
    };
    // BLAKE3's official vectors: input byte i is i mod 251.
    std::vector<uint8_t> input(102400);
    for (size_t i = 0; i < input.size(); ++i) input[i] = uint8_t(i % 251);
    EXPECT_EQ(hash(input.data(), 0), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    EXPECT_EQ(hash(nullptr, 0), hash(input.data(), 0));
    EXPECT_EQ(hash(input.data(), 1), "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213");
    EXPECT_EQ(hash(input.data(), input.size()), "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085");
    EXPECT_EQ(hash("abc", 3), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");

    const std::vector<uint8_t> file = read_file(small_model);
    char model_hash[65];
    size_t n = sizeof model_hash;
    ASSERT_OK(bitnet_model_hash(load().get(), model_hash, &n));
    EXPECT_EQ(hash(file.data(), file.size()), model_hash);
}

TEST(Load, Keys) {
    const Model model = load();
    const size_t count = bitnet_model_key_count(model.get());
    EXPECT_EQ(count, 22u);
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < count; ++i) index[bitnet_model_key_name(model.get(), i)] = i;
    EXPECT_EQ(index.size(), count);
    const auto text = [&](const char *name, uint64_t max_items) {
        char out[512];
        size_t n = sizeof out;
        EXPECT_OK(bitnet_model_key_text(model.get(), index.at(name), max_items, out, &n));
        EXPECT_EQ(n, std::strlen(out) + 1);
        return std::string(out);
    };
    const auto type = [&](const char *name) { return std::string(bitnet_model_key_type(model.get(), index.at(name))); };
    const auto length = [&](const char *name) { return bitnet_model_key_length(model.get(), index.at(name)); };
    EXPECT_EQ(index.at("general.architecture"), 0u);
    EXPECT_EQ(text("general.architecture", 0), "bitnet-b1.58");
    EXPECT_EQ(type("general.architecture"), "str");
    EXPECT_EQ(length("general.architecture"), 1u);
    EXPECT_EQ(text("bitnet-b1.58.block_count", 0), "3");
    EXPECT_EQ(type("bitnet-b1.58.block_count"), "u32");
    EXPECT_EQ(type("bitnet-b1.58.rope.freq_base"), "f32");
    EXPECT_EQ(std::strtod(text("bitnet-b1.58.rope.freq_base", 0).c_str(), nullptr), 500000.0);
    EXPECT_EQ(type("tokenizer.ggml.add_bos_token"), "bool");
    EXPECT_EQ(text("tokenizer.ggml.add_bos_token", 0), "true");
    EXPECT_EQ(type("tokenizer.ggml.tokens"), "arr[str]");
    EXPECT_EQ(length("tokenizer.ggml.tokens"), uint64_t(n_vocab));
    EXPECT_EQ(text("tokenizer.ggml.token_type", 3), "[1, 1, 1, ...]");
    EXPECT_EQ(type("tokenizer.ggml.token_type"), "arr[i32]");
    EXPECT_EQ(text("tokenizer.ggml.merges", 0).front(), '[');
    for (const size_t i : {count, SIZE_MAX}) {
        EXPECT_EQ(bitnet_model_key_name(model.get(), i), nullptr);
        EXPECT_EQ(bitnet_model_key_type(model.get(), i), nullptr);
        EXPECT_EQ(bitnet_model_key_length(model.get(), i), 0u);
        size_t n = 0;
        expect_error(bitnet_model_key_text(model.get(), i, 0, nullptr, &n), BITNET_E_INVALID, {"22 keys"});
    }
}

TEST(Load, Tensors) {
    const Model model = load();
    const size_t count = bitnet_model_tensor_count(model.get());
    ASSERT_EQ(count, 2u + 11u * n_layer);
    const size_t n_file = read_file(small_model).size();
    std::map<std::string, bitnet_tensor_info_t> by_name;
    for (size_t i = 0; i < count; ++i) {
        auto info = make<bitnet_tensor_info_t>();
        ASSERT_OK(bitnet_model_tensor(model.get(), i, &info));
        EXPECT_LE(info.file_offset + info.n_bytes, n_file);
        by_name[info.name] = info;
    }
    EXPECT_EQ(by_name.size(), count);
    const bitnet_tensor_info_t &embedding = by_name.at("token_embd.weight");
    EXPECT_EQ(embedding.n_dims, 2u);
    EXPECT_EQ(embedding.dims[0], uint64_t(n_embd));
    EXPECT_EQ(embedding.dims[1], uint64_t(n_vocab));
    EXPECT_STREQ(embedding.type_name, "F16");
    EXPECT_EQ(embedding.n_bytes, 2u * n_embd * n_vocab);
    const bitnet_tensor_info_t &down = by_name.at("blk.2.ffn_down.weight");
    EXPECT_EQ(down.dims[0], uint64_t(n_ff));
    EXPECT_STREQ(down.type_name, "I2_S");
    EXPECT_EQ(down.n_bytes, uint64_t(n_ff) * n_embd / 4 + 32);
    EXPECT_STREQ(by_name.at("output_norm.weight").type_name, "F32");
    auto info = make<bitnet_tensor_info_t>();
    expect_error(bitnet_model_tensor(model.get(), count, &info), BITNET_E_INVALID, {std::to_string(count)});
}

TEST(Load, Warnings) {
    const Model model = load();
    const size_t count = bitnet_model_warning_count(model.get());
    for (size_t i = 0; i < count; ++i) {
        const std::string line = bitnet_model_warning(model.get(), i);
        EXPECT_FALSE(line.empty());
        EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    }
    EXPECT_EQ(bitnet_model_warning(model.get(), count), nullptr);
    EXPECT_EQ(bitnet_model_warning(model.get(), SIZE_MAX), nullptr);
    // This file does not say which activation it was trained with: that is one.
    std::string all;
    for (size_t i = 0; i < count; ++i) all += std::string(bitnet_model_warning(model.get(), i)) + "\n";
    EXPECT_NE(all.find("activation"), std::string::npos) << all;
}

TEST(LoadMemory, AtEveryAlignmentOfTheBase) {
    const std::vector<uint8_t> bytes = read_file(small_model);
    const std::vector<float> expected = logits_after(load().get(), prompt(4));
    for (size_t shift = 0; shift <= 8; ++shift) {
        std::vector<uint8_t> moved(bytes.size() + shift);
        std::memcpy(moved.data() + shift, bytes.data(), bytes.size());
        for (const uint32_t flags : {0u, BITNET_LOAD_COPY}) {
            auto params = make<bitnet_load_params_t>();
            params.flags = flags;
            bitnet_model_t *model = nullptr;
            ASSERT_OK(bitnet_load_memory(moved.data() + shift, bytes.size(), nullptr, &params, &model)) << shift;
            const Model held(model);
            EXPECT_EQ(logits_after(model, prompt(4)), expected) << "shift " << shift;
        }
    }
}

TEST(LoadMemory, CopyNeedsNoSource) {
    auto source = std::make_unique<std::vector<uint8_t>>(read_file(small_model));
    Model model;
    ASSERT_OK(load_bytes(*source, model, BITNET_LOAD_COPY));
    std::fill(source->begin(), source->end(), uint8_t(0xff));
    source.reset();
    EXPECT_EQ(logits_after(model.get(), prompt(4)), logits_after(load().get(), prompt(4)));
    EXPECT_STREQ(bitnet_model_path(model.get()), "in memory");
    EXPECT_NE(bitnet_model_key_name(model.get(), 3), nullptr);
}

TEST(LoadMemory, BorrowedIsReadOnlyAndTheFileMayBeCopied) {
    const std::vector<uint8_t> bytes = read_file(small_model);
    const std::vector<uint8_t> before = bytes;
    Model model;
    ASSERT_OK(load_bytes(bytes, model));
    const std::vector<float> expected = logits_after(model.get(), prompt(4));
    EXPECT_EQ(bytes, before);
    auto params = make<bitnet_load_params_t>();
    params.flags = BITNET_LOAD_COPY;
    bitnet_model_t *copied = nullptr;
    ASSERT_OK(bitnet_load(small_model, &params, &copied));
    EXPECT_EQ(logits_after(Model(copied).get(), prompt(4)), expected);
}

TEST(Load, CodesAreCheckedUnlessToldNotTo) {
    std::vector<uint8_t> bytes = read_file(small_model);
    const Model good = load();
    uint64_t at = 0;
    for (size_t i = 0; i < bitnet_model_tensor_count(good.get()); ++i) {
        auto info = make<bitnet_tensor_info_t>();
        ASSERT_OK(bitnet_model_tensor(good.get(), i, &info));
        if (std::string(info.name) == "blk.1.ffn_up.weight") at = info.file_offset;
    }
    ASSERT_GT(at, 0u);
    bytes[at + 5] |= 0xc0;
    Model model;
    expect_error(load_bytes(bytes, model), BITNET_E_FORMAT, {"blk.1.ffn_up.weight", "3"});
    ASSERT_OK(load_bytes(bytes, model, BITNET_LOAD_UNCHECKED_CODES));
    const Context ctx = context(model.get());
    EXPECT_OK(eval(ctx.get(), prompt(3)));  // some result; no crash
}

struct Progress {
    std::vector<std::pair<uint64_t, uint64_t>> calls;
    size_t cancel_at = SIZE_MAX;
    static int32_t call(void *user, uint64_t done, uint64_t total) {
        auto *self = static_cast<Progress *>(user);
        self->calls.emplace_back(done, total);
        return self->calls.size() > self->cancel_at;
    }
};

TEST(Load, ProgressCountsUpAndCancels) {
    auto params = make<bitnet_load_params_t>();
    Progress progress;
    params.progress = Progress::call;
    params.progress_user = &progress;
    bitnet_model_t *model = nullptr;
    ASSERT_OK(bitnet_load(small_model, &params, &model));
    bitnet_model_free(model);
    ASSERT_GE(progress.calls.size(), 2u);
    for (size_t i = 0; i < progress.calls.size(); ++i) {
        EXPECT_EQ(progress.calls[i].second, progress.calls[0].second);
        EXPECT_LE(progress.calls[i].first, progress.calls[i].second);
        EXPECT_GE(progress.calls[i].first, progress.calls[i ? i - 1 : 0].first);
    }
    EXPECT_EQ(progress.calls.back().first, progress.calls.back().second);
    const size_t n = progress.calls.size();
    for (size_t i = 0; i < n; ++i) {
        progress.calls.clear();
        progress.cancel_at = i;
        expect_error(bitnet_load(small_model, &params, &model), BITNET_E_CANCELLED);
        EXPECT_EQ(model, nullptr);
        EXPECT_EQ(progress.calls.size(), i + 1) << "asked again after it was cancelled";
    }
}

TEST(Load, ContextKeepsItsModelAlive) {
    Model model = load();
    const std::vector<float> expected = logits_after(model.get(), prompt(6));
    const Context ctx = context(model.get());
    bitnet_ctx_t *forked = nullptr;
    model.reset();
    ASSERT_OK(eval(ctx.get(), prompt(6)));
    EXPECT_EQ(row(ctx.get()), expected);
    ASSERT_OK(bitnet_context_fork(ctx.get(), &forked));
    const Context fork(forked);
    auto params = make<bitnet_generate_params_t>();
    params.max_tokens = 3;
    int32_t out[3];
    size_t n = 3;
    EXPECT_OK(bitnet_generate(ctx.get(), &params, out, &n));
}

}  // namespace
}  // namespace bitnet_test
