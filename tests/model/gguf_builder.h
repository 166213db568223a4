// GGUF files made in memory: by default a small valid bitnet-b1.58 model, every part of which a test may change before
// build(). Nothing is checked here; the point is to write files that a reader must refuse.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bitnet_test {

// Value types and tensor types of the format, by number on purpose: the tests must not take them from the reader.
enum : uint32_t {
    gguf_u8,
    gguf_i8,
    gguf_u16,
    gguf_i16,
    gguf_u32,
    gguf_i32,
    gguf_f32,
    gguf_bool,
    gguf_str,
    gguf_arr,
    gguf_u64,
    gguf_i64,
    gguf_f64
};
enum : uint32_t { tensor_f32 = 0, tensor_f16 = 1, tensor_bf16 = 30, tensor_i2_s = 36 };

template <typename T> std::string bytes_of(T value) {
    std::string bytes(sizeof value, '\0');
    memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

inline std::string string_bytes(const std::string &text) { return bytes_of(uint64_t(text.size())) + text; }

struct BuilderKey {
    std::string name;
    uint32_t type;
    std::string value;  // bytes after the type
};

struct BuilderTensor {
    std::string name;
    std::vector<uint64_t> dims;  // dims[0] is contiguous
    uint32_t type;
    std::string data;
    std::optional<uint64_t> offset = {};  // in place of the one that build() gives
};

class GgufBuilder {
public:
    std::string magic = "GGUF";
    uint32_t version = 3;
    uint64_t alignment = 32;  // of the layout; the key is set apart
    std::optional<uint64_t> tensor_count, key_count;
    std::vector<BuilderKey> keys;
    std::vector<BuilderTensor> tensors;

    void set(const std::string &name, uint32_t type, const std::string &value) {
        for (BuilderKey &key : keys) {
            if (key.name == name) {
                key = {name, type, value};
                return;
            }
        }
        keys.push_back({name, type, value});
    }
    void set_u32(const std::string &name, uint32_t value) { set(name, gguf_u32, bytes_of(value)); }
    void set_f32(const std::string &name, float value) { set(name, gguf_f32, bytes_of(value)); }
    void set_str(const std::string &name, const std::string &value) { set(name, gguf_str, string_bytes(value)); }
    void set_strings(const std::string &name, const std::vector<std::string> &items) {
        std::string value = bytes_of(gguf_str) + bytes_of(uint64_t(items.size()));
        for (const std::string &item : items) value += string_bytes(item);
        set(name, gguf_arr, value);
    }
    void erase(const std::string &name) {
        std::erase_if(keys, [&](const BuilderKey &key) { return key.name == name; });
        std::erase_if(tensors, [&](const BuilderTensor &tensor) { return tensor.name == name; });
    }
    BuilderTensor &tensor(const std::string &name) {
        for (BuilderTensor &candidate : tensors) {
            if (candidate.name == name) return candidate;
        }
        throw std::out_of_range("no tensor " + name);
    }

    std::string build() const {
        std::string file = magic + bytes_of(version) + bytes_of(tensor_count.value_or(tensors.size())) +
                           bytes_of(key_count.value_or(keys.size()));
        for (const BuilderKey &key : keys) file += string_bytes(key.name) + bytes_of(key.type) + key.value;
        std::string data;
        for (const BuilderTensor &item : tensors) {
            pad(data);
            file += string_bytes(item.name) + bytes_of(uint32_t(item.dims.size()));
            for (const uint64_t dim : item.dims) file += bytes_of(dim);
            file += bytes_of(item.type) + bytes_of(item.offset.value_or(data.size()));
            data += item.data;
        }
        pad(file);
        return file + data;
    }

private:
    void pad(std::string &bytes) const { bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0'); }
};

// Deterministic numbers that look random (a 64-bit linear congruence, upper bits).
class Numbers {
public:
    explicit Numbers(uint64_t seed) : state_(seed) {}
    uint32_t below(uint32_t n) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return uint32_t((state_ >> 33) % n);
    }
    float between(float low, float high) { return low + (high - low) * float(below(1 << 20)) / float(1 << 20); }

private:
    uint64_t state_;
};

// I2_S in blocks of `block` (128, or 64 as on ARM): weights -1, 0, 1, their number a multiple of the block.
inline std::string pack_i2_s(const std::vector<int> &weights, float scale, size_t block = 128) {
    const size_t quarter = block / 4;
    std::string packed(weights.size() / 4, '\0');
    for (size_t i = 0; i < weights.size(); i++) {
        const size_t in_block = i % block;
        const size_t byte = i / block * quarter + in_block % quarter;
        packed[byte] = char(packed[byte] | (weights[i] + 1) << (6 - in_block / quarter * 2));
    }
    return packed + bytes_of(scale) + std::string(28, '\0');
}

inline std::string f32_bytes(const std::vector<float> &values) {
    return {reinterpret_cast<const char *>(values.data()), values.size() * sizeof(float)};
}

// Byte-level BPE: 256 byte tokens in GPT-2's order, five merges, three specials.
inline std::vector<std::string> byte_tokens() {
    const auto utf8 = [](uint32_t c) {
        return c < 0x80 ? std::string(1, char(c)) : std::string{char(0xc0 | c >> 6), char(0x80 | (c & 63))};
    };
    std::vector<std::string> tokens;
    for (uint32_t c = '!'; c <= '~'; c++) tokens.push_back(utf8(c));
    for (uint32_t c = 0xa1; c <= 0xff; c++) {
        if (c != 0xad) tokens.push_back(utf8(c));
    }
    for (uint32_t c = 256; tokens.size() < 256; c++) tokens.push_back(utf8(c));
    return tokens;
}

struct SmallModel {
    std::string architecture = "bitnet-b1.58";
    uint32_t n_layer = 2, n_embd = 128, n_ff = 256, n_head = 4, n_head_kv = 2, head_dim = 32, n_vocab = 264;
    uint64_t seed = 1;
    bool sub_norms = true;

    GgufBuilder builder() const {
        GgufBuilder file;
        file.set_str("general.architecture", architecture);
        file.set_str("general.name", "small");
        const auto set = [&](const char *name, uint32_t value) { file.set_u32(architecture + "." + name, value); };
        set("vocab_size", n_vocab);
        set("context_length", 64);
        set("embedding_length", n_embd);
        set("block_count", n_layer);
        set("feed_forward_length", n_ff);
        set("rope.dimension_count", head_dim);
        set("attention.head_count", n_head);
        set("attention.head_count_kv", n_head_kv);
        file.set_f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
        file.set_f32(architecture + ".rope.freq_base", 500000.0f);
        add_tokenizer(file);
        add_tensors(file);
        return file;
    }

private:
    void add_tokenizer(GgufBuilder &file) const {
        std::vector<std::string> tokens = byte_tokens();
        const std::vector<std::string> merges = {"h e", "l l", "he ll", "hell o", "\u0120 w"};
        for (const std::string &merge : merges) {
            const size_t space = merge.find(' ');
            tokens.push_back(merge.substr(0, space) + merge.substr(space + 1));
        }
        while (tokens.size() + 3 < n_vocab) tokens.push_back("unused" + std::to_string(tokens.size()));
        std::string types = bytes_of(gguf_i32) + bytes_of(uint64_t(n_vocab));
        for (uint32_t i = 0; i < n_vocab; i++) types += bytes_of(int32_t(i + 3 < n_vocab ? 1 : 3));
        for (const char *special : {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"}) tokens.push_back(special);
        file.set_str("tokenizer.ggml.model", "gpt2");
        file.set_str("tokenizer.ggml.pre", "llama-bpe");
        file.set_strings("tokenizer.ggml.tokens", tokens);
        file.set("tokenizer.ggml.token_type", gguf_arr, types);
        file.set_strings("tokenizer.ggml.merges", merges);
        file.set_u32("tokenizer.ggml.bos_token_id", n_vocab - 3);
        file.set_u32("tokenizer.ggml.eos_token_id", n_vocab - 2);
        file.set_u32("tokenizer.ggml.eot_token_id", n_vocab - 1);
        file.set("tokenizer.ggml.add_bos_token", gguf_bool, bytes_of(uint8_t(1)));
    }

    void add_tensors(GgufBuilder &file) const {
        Numbers numbers(seed);
        const auto norm = [&](const std::string &name, uint32_t n) {
            std::vector<float> values(n);
            for (float &value : values) value = numbers.between(0.5f, 2.0f);
            file.tensors.push_back({name, {n}, tensor_f32, f32_bytes(values)});
        };
        const auto ternary = [&](const std::string &name, uint32_t n_in, uint32_t n_out) {
            std::vector<int> weights(size_t(n_in) * n_out);
            for (int &weight : weights) weight = int(numbers.below(3)) - 1;
            file.tensors.push_back({name, {n_in, n_out}, tensor_i2_s, pack_i2_s(weights, numbers.between(0.5f, 2.0f))});
        };
        std::vector<float> embedding(size_t(n_vocab) * n_embd);
        for (float &value : embedding) value = numbers.between(-1.0f, 1.0f);
        file.tensors.push_back({"token_embd.weight", {n_embd, n_vocab}, tensor_f32, f32_bytes(embedding)});
        for (uint32_t layer = 0; layer < n_layer; layer++) {
            const auto name = [&](const char *part) { return "blk." + std::to_string(layer) + "." + part + ".weight"; };
            norm(name("attn_norm"), n_embd);
            ternary(name("attn_q"), n_embd, n_head * head_dim);
            ternary(name("attn_k"), n_embd, n_head_kv * head_dim);
            ternary(name("attn_v"), n_embd, n_head_kv * head_dim);
            if (sub_norms) norm(name("attn_sub_norm"), n_head * head_dim);
            ternary(name("attn_output"), n_head * head_dim, n_embd);
            norm(name("ffn_norm"), n_embd);
            ternary(name("ffn_gate"), n_embd, n_ff);
            ternary(name("ffn_up"), n_embd, n_ff);
            if (sub_norms) norm(name("ffn_sub_norm"), n_ff);
            ternary(name("ffn_down"), n_ff, n_embd);
        }
        norm("output_norm.weight", n_embd);
    }
};

}  // namespace bitnet_test
