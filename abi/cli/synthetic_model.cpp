#include "abi/cli/synthetic_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "abi/cli/synthetic_vocabulary.h"

namespace bitnet {

namespace {

constexpr const char *chat_template =
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
constexpr float rms_eps = 1e-5f;
constexpr float rope_theta = 500000.0f;
constexpr uint32_t quantization_version = 2;

// Root mean squares that the linears aim at: of q, k, v, gate and up, and of what a block adds to the residual stream.
constexpr float inner_rms = 1.0f;
constexpr float residual_rms = 0.1f;
constexpr float dead_channel = 1e-32f;  // trained sub-norms have some of this size

// splitmix64 as a function of a counter: any part of a tensor can be made without the rest.
uint64_t mix(uint64_t x) {
    uint64_t z = (x + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

float unit_float(uint64_t bits) { return static_cast<float>(bits >> 40) * 0x1p-24f; }  // [0, 1), exact

// One random byte to two ternary codes, 4 bits each: 5/16 minus, 6/16 zero, 5/16 plus.
std::array<uint8_t, 256> make_code_table() {
    std::array<uint8_t, 256> table = {};
    const auto code = [](unsigned nibble) { return nibble < 5 ? 0u : nibble < 11 ? 1u : 2u; };
    for (unsigned byte = 0; byte < 256; byte++)
        table[byte] = static_cast<uint8_t>(code(byte >> 4) << 2 | code(byte & 15));
    return table;
}
constexpr float nonzero_share = 0.625f;

using CodeTable = std::array<uint8_t, 256>;

// Bytes [4 at, 4 at + 4) of a tensor's codes.
void make_codes(const CodeTable &table, uint64_t key, uint64_t at, uint8_t *out) {
    const uint64_t bits = mix(key + at);
    for (size_t j = 0; j < 4; j++) {
        const uint8_t high = table[bits >> (16 * j) & 255];
        const uint8_t low = table[bits >> (16 * j + 8) & 255];
        out[j] = static_cast<uint8_t>(high << 4 | low);
    }
}

// IEEE half of k / 4096 for |k| <= 510: exact, as k has at most 9 bits and the exponent is in range.
uint16_t half_of_4096th(int k) {
    if (k == 0) return 0;
    const uint32_t magnitude = static_cast<uint32_t>(k < 0 ? -k : k);
    const uint32_t top = 31u - static_cast<uint32_t>(__builtin_clz(magnitude));
    const uint32_t mantissa = magnitude << (10 - top) & 0x3FF;
    return static_cast<uint16_t>((k < 0 ? 0x8000u : 0u) | (top + 15 - 12) << 10 | mantissa);
}

// Four random bytes summed, about their mean: bell-shaped, standard deviation 148 of 4096.
constexpr int byte_sum_mean = 510;

std::vector<uint16_t> make_half_table() {
    std::vector<uint16_t> table;
    for (int sum = 0; sum <= 2 * byte_sum_mean; sum++) table.push_back(half_of_4096th(sum - byte_sum_mean));
    return table;
}

int byte_sum(uint32_t bits) {
    return static_cast<int>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24));
}

TensorSource embedding_source(uint64_t key) {
    return [key, table = make_half_table()](uint64_t offset, uint8_t *out, size_t n) {
        for (size_t i = 0; i < n; i += 4) {
            const uint64_t bits = mix(key + (offset + i) / 4);
            const uint16_t pair[2] = {table[static_cast<size_t>(byte_sum(static_cast<uint32_t>(bits)))],
                                      table[static_cast<size_t>(byte_sum(static_cast<uint32_t>(bits >> 32)))]};
            std::memcpy(out + i, pair, sizeof(pair));
        }
    };
}

// Weights between low and high; with dead_channels about one in 1024 is next to nothing.
TensorSource norm_source(uint64_t key, float low, float high, bool dead_channels) {
    return [=](uint64_t offset, uint8_t *out, size_t n) {
        for (size_t i = 0; i < n; i += 4) {
            const uint64_t bits = mix(key + (offset + i) / 4);
            const bool dead = dead_channels && (bits & 1023) == 0;
            const float weight = dead ? dead_channel : low + (high - low) * unit_float(bits);
            std::memcpy(out + i, &weight, sizeof(weight));
        }
    };
}

// n_codes / 4 bytes of codes, then 32 bytes that begin with the scale.
TensorSource ternary_source(uint64_t key, uint64_t n_codes, float scale) {
    return [key, code_bytes = n_codes / 4, scale, table = make_code_table()](uint64_t offset, uint8_t *out, size_t n) {
        size_t i = 0;
        for (; i < n && offset + i < code_bytes; i += 4) make_codes(table, key, (offset + i) / 4, out + i);
        for (; i < n; i++) {
            const uint64_t at = offset + i - code_bytes;
            out[i] = at < sizeof(scale) ? reinterpret_cast<const uint8_t *>(&scale)[at] : 0;
        }
    };
}

constexpr size_t tq2_0_code_bytes = 64;
constexpr uint16_t half_one = 0x3C00;

// Of both formats' groups of 32 bytes the k-th fields hold elements 32 k to 32 k + 31; I2_S counts fields from the top.
uint8_t fields_reversed(uint8_t byte) {
    return static_cast<uint8_t>(byte << 6 | (byte & 0x0C) << 2 | (byte >> 2 & 0x0C) | byte >> 6);
}

// The weights of ternary_source without their scale: blocks of 64 bytes of codes, then the half 1.
TensorSource tq2_0_source(uint64_t key) {
    return [key, table = make_code_table()](uint64_t offset, uint8_t *out, size_t n) {
        std::array<uint8_t, tq2_0_code_bytes + sizeof(half_one)> block;
        std::memcpy(block.data() + tq2_0_code_bytes, &half_one, sizeof(half_one));
        for (size_t i = 0; i < n;) {
            const uint64_t index = (offset + i) / block.size();
            for (size_t j = 0; j < tq2_0_code_bytes; j += 4)
                make_codes(table, key, (index * tq2_0_code_bytes + j) / 4, block.data() + j);
            std::transform(block.begin(), block.begin() + tq2_0_code_bytes, block.begin(), fields_reversed);
            const size_t from = static_cast<size_t>((offset + i) % block.size());
            const size_t count = std::min(block.size() - from, n - i);
            std::memcpy(out + i, block.data() + from, count);
            i += count;
        }
    };
}

TensorSource one_float_source(float value) {
    return [value](uint64_t, uint8_t *out, size_t n) { std::memcpy(out, &value, std::min(n, sizeof(value))); };
}

class ModelMaker {
public:
    ModelMaker(const SyntheticShape &shape, uint64_t seed, TernaryFormat format)
        : shape_(shape), seed_(seed), format_(format) {}

    GgufWriter make() {
        add_keys();
        const uint64_t n_embd = dim(shape_.n_embd);
        file_.add_tensor("token_embd.weight", GgufTensorType::f16, {n_embd, dim(shape_.n_vocab)},
                         embedding_source(next_key()));
        for (int layer = 0; layer < shape_.n_layer; layer++) add_layer(layer);
        norm("output_norm", n_embd, 1.0f, 2.0f, false);
        return std::move(file_);
    }

private:
    static uint64_t dim(int n) { return static_cast<uint64_t>(n); }
    // The scales of tq2_0, tensors of their own, do not count: both formats get the same weights.
    uint64_t next_key() { return mix(mix(seed_) ^ mix(file_.n_tensors() - n_scales_)); }

    void norm(const std::string &name, uint64_t n, float low, float high, bool dead_channels) {
        file_.add_tensor(name + ".weight", GgufTensorType::f32, {n}, norm_source(next_key(), low, high, dead_channels));
    }

    // The scale makes inputs of `in_rms` come out at about `out_rms`.
    void linear(const std::string &name, uint64_t n_in, uint64_t n_out, float in_rms, float out_rms) {
        const uint64_t key = next_key();
        const float gain = in_rms * std::sqrt(static_cast<float>(n_in) * nonzero_share);
        const float jitter = 0.8f + 0.4f * unit_float(mix(~key));
        const float scale = out_rms / gain * jitter;
        if (format_ == TernaryFormat::i2_s) {
            file_.add_tensor(name + ".weight", GgufTensorType::i2_s, {n_in, n_out},
                             ternary_source(key, n_in * n_out, scale));
            return;
        }
        file_.add_tensor(name + ".weight", GgufTensorType::tq2_0, {n_in, n_out}, tq2_0_source(key));
        file_.add_tensor(name + ".scale", GgufTensorType::f32, {1}, one_float_source(scale));
        n_scales_++;
    }

    // Ranges of the norms are those of the trained 2B-4T model.
    void add_layer(int layer) {
        const std::string block = "blk." + std::to_string(layer) + ".";
        const uint64_t n_embd = dim(shape_.n_embd);
        const uint64_t n_ff = dim(shape_.n_ff);
        const uint64_t n_kv = dim(shape_.n_embd / shape_.n_head * shape_.n_head_kv);
        norm(block + "attn_norm", n_embd, 0.012f, 0.024f, false);
        linear(block + "ffn_down", n_ff, n_embd, 1.0f, residual_rms);
        norm(block + "ffn_sub_norm", n_ff, 0.6f, 1.4f, true);
        linear(block + "ffn_gate", n_embd, n_ff, 1.35f, inner_rms);
        linear(block + "ffn_up", n_embd, n_ff, 1.35f, inner_rms);
        norm(block + "ffn_norm", n_embd, 1.2f, 1.5f, false);
        norm(block + "attn_sub_norm", n_embd, 0.6f, 1.4f, true);
        linear(block + "attn_k", n_embd, n_kv, 0.018f, inner_rms);
        linear(block + "attn_output", n_embd, n_embd, 1.0f, residual_rms);
        linear(block + "attn_q", n_embd, n_embd, 0.018f, inner_rms);
        linear(block + "attn_v", n_embd, n_kv, 0.018f, inner_rms);
    }

    void add_keys() {
        const bool i2_s = format_ == TernaryFormat::i2_s;
        const std::string architecture = i2_s ? "bitnet-b1.58" : "bitnet";
        const std::string prefix = architecture + ".";
        const auto number = [&](const char *key, int value) {
            file_.add_u32(prefix + key, static_cast<uint32_t>(value));
        };
        file_.add_string("general.architecture", architecture);
        file_.add_string("general.name", "synthetic " + shape_.name + ", seed " + std::to_string(seed_));
        number("vocab_size", shape_.n_vocab);
        number("context_length", shape_.n_ctx);
        number("embedding_length", shape_.n_embd);
        number("block_count", shape_.n_layer);
        number("feed_forward_length", shape_.n_ff);
        number("rope.dimension_count", shape_.n_embd / shape_.n_head);
        number("attention.head_count", shape_.n_head);
        number("attention.head_count_kv", shape_.n_head_kv);
        file_.add_bool("tokenizer.ggml.add_bos_token", true);
        file_.add_f32(prefix + "attention.layer_norm_rms_epsilon", rms_eps);
        file_.add_f32(prefix + "rope.freq_base", rope_theta);
        file_.add_u32("general.file_type", i2_s ? 40 : 37);
        add_tokenizer();
        file_.add_string("tokenizer.chat_template", chat_template);
        file_.add_u32("general.quantization_version", quantization_version);
        file_.add_string("tokenizer.ggml.pre", "llama-bpe");
    }

    void add_tokenizer() {
        const SyntheticVocabulary vocabulary = make_vocabulary(shape_.n_vocab, shape_.merges_max);
        file_.add_string("tokenizer.ggml.model", "gpt2");
        file_.add_strings("tokenizer.ggml.tokens", vocabulary.tokens);
        file_.add_f32_array("tokenizer.ggml.scores", std::vector<float>(vocabulary.tokens.size()));
        file_.add_i32_array("tokenizer.ggml.token_type", vocabulary.types);
        file_.add_strings("tokenizer.ggml.merges", vocabulary.merges);
        file_.add_u32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(vocabulary.bos));
        file_.add_u32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(vocabulary.eos));
        file_.add_u32("tokenizer.ggml.padding_token_id", static_cast<uint32_t>(vocabulary.eos));
    }

    const SyntheticShape &shape_;
    uint64_t seed_;
    TernaryFormat format_;
    uint64_t n_scales_ = 0;
    GgufWriter file_;
};

}  // namespace

GgufWriter make_synthetic_model(const SyntheticShape &shape, uint64_t seed, TernaryFormat format) {
    return ModelMaker(shape, seed, format).make();
}

}  // namespace bitnet
