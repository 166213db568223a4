#include "abi/cli/envelope/classes.h"

#include <algorithm>

namespace bitnet::envelope {

namespace {

// A maximum over few rows says little: short prompts get more seeds, so that each class is seen in about this many
// rows.
constexpr size_t rows_wanted = 64;
constexpr int seeds_min = 2, seeds_max = 16;

constexpr Variation float32[] = {
    {"", "", true, true},
    {"rope_angle=steps_f32", "rope_angle=exact", true, false},
    {"quant=dequantised", "quant=row_int8", true, false},
};
constexpr Variation f16_kv[] = {
    {"kv=f16", "kv=f32", false, false},
    {"kv=f16,attn_q=f16", "kv=f32,attn_q=f32", false, false},
    {"profile=bitnetcpp", "kv=f32,attn_q=f32,head_input=f32,rope_angle=exact", false, true},
};
constexpr Variation bf16[] = {
    {"profile=hf-bf16", "stage_type=f32,quant=row_int8", false, true},
};
constexpr Variation block256[] = {
    {"quant=block256_int8", "quant=row_int8", false, false},
    {"quant=block256_int8,kv=f16,attn_q=f16", "quant=row_int8,kv=f32,attn_q=f32", false, true},
};

constexpr LegalClass classes[] = {
    {"f32", "float32 rounding that flips no code: orders of summation, RoPE angles, dequantised products", float32},
    {"f16-kv", "F16 KV cache, with F16 queries and F16 input of the head or without; flipped codes", f16_kv},
    {"bf16", "bf16 tensors", bf16},
    {"block256", "activation scales for each 256 elements", block256},
};

}  // namespace

std::span<const LegalClass> legal_classes() { return classes; }

int default_seeds(size_t n_tokens) {
    const size_t wanted = (rows_wanted + std::max(n_tokens, size_t(1)) - 1) / std::max(n_tokens, size_t(1));
    return int(std::clamp(wanted, size_t(seeds_min), size_t(seeds_max)));
}

}  // namespace bitnet::envelope
