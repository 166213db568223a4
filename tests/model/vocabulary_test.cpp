// The tokenizer's keys in a file: what is read, what is assumed, what is refused.
#include "model/vocabulary.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "model/error.h"
#include "model/gguf.h"
#include "tests/model/gguf_builder.h"

namespace bitnet {
namespace {

using namespace std::string_literals;
using bitnet_test::gguf_f32;
using bitnet_test::gguf_i32;
using bitnet_test::GgufBuilder;
using Ids = std::vector<int32_t>;
using Strings = std::vector<std::string>;

std::string error_of(Status status, const std::function<void()> &work) {
    try {
        work();
    } catch (const Error &error) {
        EXPECT_EQ(error.status, status) << error.what();
        return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
}

// 256 bytes, "ab", and three control tokens.
class TokenizerKeys : public testing::Test {
protected:
    TokenizerKeys() {
        tokens = bitnet_test::byte_tokens();
        for (const char *text : {"ab", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"}) tokens.push_back(text);
        std::vector<int32_t> types(257, 1);
        types.resize(tokens.size(), 3);
        file.set_str("tokenizer.ggml.model", "gpt2");
        file.set_str("tokenizer.ggml.pre", "llama-bpe");
        file.set_strings("tokenizer.ggml.tokens", tokens);
        file.set_strings("tokenizer.ggml.merges", {"a b"});
        set_numbers("tokenizer.ggml.token_type", gguf_i32, types);
        file.set_u32("tokenizer.ggml.bos_token_id", 257);
        file.set_u32("tokenizer.ggml.eos_token_id", 258);
        file.set_u32("tokenizer.ggml.eot_token_id", 259);
    }

    template <typename T> void set_numbers(const std::string &name, uint32_t type, const std::vector<T> &values) {
        std::string bytes = bitnet_test::bytes_of(type) + bitnet_test::bytes_of(uint64_t(values.size()));
        for (const T value : values) bytes += bitnet_test::bytes_of(value);
        file.set(name, bitnet_test::gguf_arr, bytes);
    }

    Tokenizer load(const std::string &architecture = "bitnet-b1.58") {
        const std::string bytes = file.build();
        const GgufFile gguf(Mapping::copy(bytes.data(), bytes.size(), "m.gguf"));
        warnings.clear();
        return Tokenizer::from_gguf(gguf, architecture, warnings);  // the tokenizer outlives the file
    }

    std::string error(Status status = Status::format) {
        return error_of(status, [&] { load(); });
    }

    GgufBuilder file;
    Strings tokens;
    Strings warnings;
};

TEST_F(TokenizerKeys, AreRead) {
    file.set_str("tokenizer.chat_template", "{{ text }}");
    std::vector<float> scores(tokens.size());
    scores[7] = -1.5f;
    set_numbers("tokenizer.ggml.scores", gguf_f32, scores);
    file.set_u32("tokenizer.ggml.padding_token_id", 9);
    const Tokenizer tokenizer = load();
    EXPECT_EQ(warnings, Strings{});
    EXPECT_EQ(tokenizer.n_tokens(), 260);
    EXPECT_EQ(tokenizer.bos(), 257);
    EXPECT_EQ(tokenizer.eos(), 258);
    EXPECT_EQ(tokenizer.eot(), 259);
    EXPECT_EQ(tokenizer.pad(), 9);
    EXPECT_EQ(tokenizer.score(7), -1.5f);
    EXPECT_EQ(tokenizer.end_ids(), (Ids{258, 259}));
    EXPECT_EQ(tokenizer.chat_template(), "{{ text }}");
    EXPECT_TRUE(tokenizer.wants_bos());
    EXPECT_EQ(tokenizer.encode("ab<|eot_id|>", true, true), (Ids{257, 256, 259}));
    file.set("tokenizer.ggml.add_bos_token", bitnet_test::gguf_bool, bitnet_test::bytes_of(uint8_t(0)));
    EXPECT_FALSE(load().wants_bos());
}

TEST_F(TokenizerKeys, OptionalOnesMayBeMissing) {
    for (const char *name : {"token_type", "bos_token_id", "eos_token_id", "eot_token_id"}) {
        file.erase("tokenizer.ggml."s + name);
    }
    const Tokenizer tokenizer = load();
    EXPECT_EQ(warnings, (Strings{"key 'tokenizer.ggml.eot_token_id' is missing: token 259, <|eot_id|>, by its text"}));
    EXPECT_EQ(tokenizer.bos(), -1);
    EXPECT_EQ(tokenizer.eot(), 259);
    EXPECT_FALSE(tokenizer.wants_bos());
    EXPECT_EQ(tokenizer.type(257), TokenType::normal);
}

TEST_F(TokenizerKeys, PreTokenizerIsAssumedAloud) {
    file.erase("tokenizer.ggml.pre");
    load("llama");
    EXPECT_EQ(warnings,
              (Strings{"key 'tokenizer.ggml.pre' is missing: llama-bpe was assumed, which nothing in the file "
                       "confirms (architecture 'llama', 260 tokens)"}));
    for (size_t i = tokens.size(); i < 128256; i++) tokens.push_back("<"s + std::to_string(i) + ">");
    file.set_strings("tokenizer.ggml.tokens", tokens);
    file.erase("tokenizer.ggml.token_type");
    load();
    EXPECT_EQ(warnings, (Strings{"key 'tokenizer.ggml.pre' is missing: llama-bpe, as models of this kind use "
                                 "(architecture 'bitnet-b1.58', 128256 tokens)"}));
    for (const char *name : {"llama-bpe", "llama3", "llama-v3"}) {
        file.set_str("tokenizer.ggml.pre", name);
        load();
        EXPECT_EQ(warnings, Strings{}) << name;
    }
    file.set_str("tokenizer.ggml.pre", "qwen2");
    EXPECT_EQ(error(Status::unsupported),
              "m.gguf: key 'tokenizer.ggml.pre': 'qwen2': expected 'llama-bpe', 'llama3' or 'llama-v3'");
}

TEST_F(TokenizerKeys, OtherModelsAreRefused) {
    file.set_str("tokenizer.ggml.model", "llama");
    EXPECT_EQ(error(Status::unsupported),
              "m.gguf: key 'tokenizer.ggml.model': 'llama' (SentencePiece) is not supported "
              "yet: expected 'gpt2' (byte-level BPE)");
    file.set_str("tokenizer.ggml.model", "bert\n");
    EXPECT_EQ(error(Status::unsupported),
              "m.gguf: key 'tokenizer.ggml.model': 'bert\\x0a': expected 'gpt2' (byte-level BPE)");
    file.erase("tokenizer.ggml.model");
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.model' is missing: expected 'gpt2'");
    file.set_u32("tokenizer.ggml.model", 1);
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.model': type u32: expected str");
}

TEST_F(TokenizerKeys, DamagedTokensAreRefused) {
    file.erase("tokenizer.ggml.tokens");
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.tokens' is missing: expected arr[str]");
    file.set_strings("tokenizer.ggml.tokens", {});
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.tokens': 0 items: expected 1 to 2147483647");
    file.set_str("tokenizer.ggml.tokens", "a");
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.tokens': type str: expected arr[str]");
}

TEST_F(TokenizerKeys, DamagedMergesAreRefused) {
    file.erase("tokenizer.ggml.merges");
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.merges' is missing: expected arr[str]");
    for (const char *merge : {"", " ", "ab", "a ", " b", "a b c", "a  b"}) {
        file.set_strings("tokenizer.ggml.merges", {"a b", merge});
        EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.merges': item 1: '"s + merge +
                               "': expected two parts with one space between");
    }
    file.set_strings("tokenizer.ggml.merges", {});
    EXPECT_EQ(load().encode("ab-ab", false, false), (Ids{256, '-' - '!', 'a' - '!', 'b' - '!'}));
}

TEST_F(TokenizerKeys, DamagedTypesAndScoresAreRefused) {
    const std::string types_name = "tokenizer.ggml.token_type";
    std::vector<int32_t> types(260, 1);
    for (const int32_t type : {0, 7, -1}) {
        types[3] = type;
        set_numbers(types_name, gguf_i32, types);
        EXPECT_EQ(error(),
                  "m.gguf: key '" + types_name + "': item 3: type " + std::to_string(type) + ": expected 1 to 6");
    }
    types.pop_back();
    set_numbers(types_name, gguf_i32, types);
    EXPECT_EQ(error(), "m.gguf: key '" + types_name + "': 259 items: expected 260, one for each token");
    set_numbers(types_name, gguf_f32, std::vector<float>(260));
    EXPECT_EQ(error(), "m.gguf: key '" + types_name + "': type arr[f32]: expected arr[i32]");
    file.erase(types_name);
    set_numbers("tokenizer.ggml.scores", gguf_f32, std::vector<float>(1));
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.scores': 1 items: expected 260, one for each token");
}

TEST_F(TokenizerKeys, DamagedScalarsAreRefused) {
    const GgufBuilder whole = file;
    for (const char *role : {"bos", "eos", "eot", "padding"}) {
        const std::string name = "tokenizer.ggml."s + role + "_token_id";
        file.set_u32(name, 260);
        EXPECT_EQ(error(), "m.gguf: key '" + name + "': token 260: expected 0 to 259");
        file.set_u32(name, UINT32_MAX);
        EXPECT_EQ(error(), "m.gguf: key '" + name + "': token 4294967295: expected 0 to 259");
        file.set_str(name, "1");
        EXPECT_EQ(error(), "m.gguf: key '" + name + "': type str: expected u32");
        file = whole;
    }
    file.set_u32("tokenizer.ggml.add_bos_token", 1);
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.ggml.add_bos_token': type u32: expected bool");
    file = whole;
    file.set_strings("tokenizer.chat_template", {});
    EXPECT_EQ(error(), "m.gguf: key 'tokenizer.chat_template': type arr[str]: expected str");
}

}  // namespace
}  // namespace bitnet
