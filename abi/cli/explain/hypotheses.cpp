#include "abi/cli/explain/hypotheses.h"

#include <algorithm>
#include <cmath>

namespace bitnet::explain {

namespace {

enum : unsigned {
    norm = 1,
    rope = 2,
    attention = 4,
    linear = 8,
    activation = 16,
    head = 32,
    codes = 64,
    scale = 128,
    acc = 256,
    other = 512,
    floats = norm | rope | attention | linear | activation | head | other,
    key_value = 1024,  // k_proj and v_proj
    sub_norms = 2048,  // attn_out and ffn_out, whose sub-norm may be missing
};

struct Known {
    unsigned about;
    const char *semantics;
    const char *text;
    bool legal;
};

// bf16 engines round in places of their own: a few elements are one unit in the last place (2^-8) off.
constexpr double bf16_max = 8e-3;
// Sums in F16: a score that is off in its last bit makes a few of them one unit in the last place (2^-11) off. What
// such sums do themselves is 10 times as much; and that is how far two orders of adding are apart.
constexpr double f16_sums_by_root = 2e-5, f16_parts_by_root = 5e-4;
constexpr int32_t parts_from_position =
    256;  // ggml shares the cache among threads from 512 cells on, made 256 at a time

constexpr const char *one_pass_text = "F16 KV cache and queries, one pass with F16 sums (flash attention)";
constexpr const char *in_parts_text =
    "F16 KV cache and queries, F16 sums in parts (flash attention of several threads)";

constexpr Known known_hypotheses[] = {
    // Legal: what TRACE comparisons call classes.
    {attention, "kv=f16", "F16 KV cache", true},
    {attention, "kv=f16,attn_q=f16", "F16 KV cache and queries", true},
    {attention, "attn_q=f16", "F16 queries", true},
    {attention, "kv=f16,attn_q=f16,attn_p=f16", "F16 KV cache, queries and probabilities", true},
    {attention, "kv=f16,attn_p=f16", "F16 KV cache and probabilities", true},
    {attention, "kv=f16,attn_q=f16,attn_sum=f16", one_pass_text, true},
    {attention, "kv=f16,attn_q=f16,attn_sum=f16", in_parts_text, true},
    {rope, "rope_angle=steps_f32", "RoPE angle by repeated f32 products", true},
    {head, "head_input=f16", "F16 input of the head", true},
    {linear | codes | scale, "quant=block256_int8", "activation scales for each 256 elements (Q8_K)", true},
    {linear, "quant=dequantised", "activations dequantised, f32 products", true},
    {linear, "quant=f16", "F16 activations, not quantised (F16 weights)", true},
    {linear, "quant=f16,scale_type=f16", "F16 activations, not quantised, weight scale in F16 (F16 weights)", true},
    {codes, "round=away", "activation codes rounded half away from zero", true},
    {linear, "round=away", "activation codes rounded half away from zero", true},
    {floats, "stage_type=bf16", "bf16 tensors", true},
    {linear, "stage_type=bf16,quant=dequantised", "bf16 tensors, activations dequantised", true},

    {activation, "activation=silu", "SiLU", false},
    {activation, "activation=gelu", "GELU (tanh)", false},
    {activation, "activation=relu", "ReLU", false},
    {activation, "activation=relu2", "squared ReLU", false},
    {norm, "norm=unweighted", "the norm's weight is missing", false},
    {norm, "norm=weighted_twice", "the norm's weight is applied twice", false},
    {norm, "norm=centred", "the norm subtracts the mean (LayerNorm)", false},
    {norm, "norm=skipped", "the norm is skipped", false},
    {norm, "eps=1e-6", "eps 1e-6", false},
    {norm, "eps=1e-5", "eps 1e-5", false},
    {norm, "eps=0", "eps 0", false},
    {norm, "eps=1e-8", "eps 1e-8", false},
    {norm, "eps=1e-12", "eps 1e-12", false},
    {norm, "eps=1e-4", "eps 1e-4", false},
    {norm, "eps=1e-3", "eps 1e-3", false},
    {sub_norms, "sub_norms=off", "the sub-norm is skipped", false},
    {rope, "rope_offset=1", "RoPE one position too far", false},
    {rope, "rope_offset=-1", "RoPE one position too short", false},
    {rope, "rope=norm", "RoPE turns neighbours (2i, 2i+1)", false},
    {rope, "rope=neox", "RoPE turns halves (i, i + n/2)", false},
    {rope, "theta=10000", "RoPE theta 10000", false},
    {rope, "theta=500000", "RoPE theta 500000", false},
    {rope, "theta=1000000", "RoPE theta 1000000", false},
    {attention, "kv_heads=interleaved", "query head h reads key/value head h mod n_head_kv", false},
    {attention, "kv_swap=attention", "keys and values are swapped", false},
    {attention, "attn_scale=none", "scores are not scaled", false},
    {attention, "attn_scale=full", "scores are divided by head_dim", false},
    {key_value, "kv_swap=weights", "the weights of K and V are swapped", false},
    {linear, "scale=none", "the weight scale is missing", false},
    {linear, "scale=divide", "the weight scale divides", false},
    {linear, "scale=multiply", "the weight scale multiplies", false},
    {linear, "scale_type=f16", "the weight scale is rounded to F16", false},
    {linear, "scale_type=bf16", "the weight scale is rounded to bf16", false},
    {linear | acc, "i2s=block64", "weight codes read in blocks of 64 (ARM files)", false},
    {linear | acc, "i2s=block128", "weight codes read in blocks of 128 (x86 files)", false},
    {linear | acc, "i2s=block32", "weight codes read in blocks of 32", false},
    {linear | acc, "i2s=sequential", "weight codes read four neighbours a byte", false},
    {linear | acc, "i2s=sequential,i2s_bits=low_first", "weight codes read four neighbours a byte, low bits first",
     false},
    {linear | acc, "i2s_bits=low_first", "weight codes read low bits first", false},
    {linear | acc, "i2s_map=+0-", "weight codes 0, 1, 2 mean +1, 0, -1", false},
    {linear | acc, "i2s_map=0+-", "weight codes 0, 1, 2 mean 0, +1, -1", false},
    {linear | acc, "i2s_map=0-+", "weight codes 0, 1, 2 mean 0, -1, +1", false},
    {linear | acc, "i2s_map=-+0", "weight codes 0, 1, 2 mean -1, +1, 0", false},
    {linear | acc, "i2s_map=+-0", "weight codes 0, 1, 2 mean +1, -1, 0", false},
    {linear | acc, "acc=int16", "accumulators wrap at 16 bits", false},
    {linear | codes, "round=truncate", "activation codes are truncated", false},
    {linear | codes | scale, "quant=tensor_int8", "one activation scale for all rows", false},
    {linear | codes | scale, "quant=block32_int8", "activation scales for each 32 elements (Q8_0)", false},
    {linear, "quant=none", "activations are not quantised", false},
    {linear, "quant=block32_int8,round=away", "activation scales for each 32 elements, half away from zero", false},
    {linear, "quant=block256_int8,round=away", "activation scales for each 256 elements, half away from zero", true},
};

unsigned about(int32_t stage) {
    const int32_t base = stage & 0xff;
    const bool of_key_value = base == BITNET_STAGE_K_PROJ || base == BITNET_STAGE_V_PROJ;
    const bool of_sub_norm = base == BITNET_STAGE_ATTN_SUB_NORM || base == BITNET_STAGE_FFN_SUB_NORM ||
                             base == BITNET_STAGE_ATTN_OUT || base == BITNET_STAGE_FFN_OUT;
    const unsigned more = (of_key_value ? unsigned(key_value) : 0u) | (of_sub_norm ? unsigned(sub_norms) : 0u);
    switch (class_of(stage)) {
    case OperationClass::norm: return norm;
    case OperationClass::rope: return rope;
    case OperationClass::attention: return attention;
    case OperationClass::activation: return activation;
    case OperationClass::head: return head;
    case OperationClass::codes: return codes | more;
    case OperationClass::scale: return scale | more;
    case OperationClass::acc: return acc | more;
    case OperationClass::linear: return linear | more;
    case OperationClass::embedding:
    case OperationClass::residual: break;
    }
    return other;
}

// Whether the model itself already does all of this.
bool is_models_own(const std::string &semantics, const std::string &model) {
    const std::string text = "," + model + ",";
    for (size_t from = 0; from <= semantics.size();) {
        const size_t comma = std::min(semantics.find(',', from), semantics.size());
        if (text.find("," + semantics.substr(from, comma - from) + ",") == std::string::npos) return false;
        from = comma + 1;
    }
    return true;
}

Allowance allowance_of(const Known &item) {
    const std::string semantics = item.semantics;
    Allowance allowed;
    if (item.legal && semantics.find("bf16") != std::string::npos) {
        allowed.any = bf16_max;
        allowed.of_bf16 = true;
    }
    if (semantics.find("attn_sum=f16") != std::string::npos) allowed.by_root = f16_sums_by_root;
    if (item.text == in_parts_text) allowed.in_parts = f16_parts_by_root;
    return allowed;
}

// Whether both set a switch, so that the later one wins.
bool share_a_key(const std::string &a, const std::string &b) {
    for (size_t from = 0; from < a.size();) {
        const size_t comma = std::min(a.find(',', from), a.size());
        const std::string key = a.substr(from, a.find('=', from) - from + 1);
        if (("," + b).find("," + key) != std::string::npos) return true;
        from = comma + 1;
    }
    return false;
}

}  // namespace

double Allowance::at(int32_t position) const {
    const double root = std::sqrt(double(position) + 1);
    return std::max(any + by_root * root, position >= parts_from_position ? in_parts * root : 0);
}

std::vector<Hypothesis> hypotheses_for(int32_t stage, const std::string &model_semantics) {
    std::vector<Hypothesis> out;
    for (const Known &item : known_hypotheses) {
        if (!(item.about & about(stage)) || is_models_own(item.semantics, model_semantics)) continue;
        out.push_back({item.semantics, item.text, item.legal, allowance_of(item)});
    }
    return out;
}

std::vector<Hypothesis> pairs_for(int32_t stage, const std::string &model_semantics) {
    const std::vector<Hypothesis> singles = hypotheses_for(stage, model_semantics);
    std::vector<Hypothesis> out;
    for (const Hypothesis &legal : singles)
        for (const Hypothesis &fault : singles)
            if (legal.legal && !fault.legal && !legal.allowed.of_bf16)
                out.push_back(
                    {legal.semantics + "," + fault.semantics, fault.text + "; " + legal.text, false, legal.allowed});
    return out;
}

std::vector<Hypothesis> fault_pairs_for(int32_t stage, const std::string &model_semantics) {
    const std::vector<Hypothesis> singles = hypotheses_for(stage, model_semantics);
    std::vector<Hypothesis> out;
    for (size_t i = 0; i < singles.size(); ++i)
        for (size_t j = i + 1; j < singles.size(); ++j) {
            const Hypothesis &a = singles[i], &b = singles[j];
            if (a.legal || b.legal || share_a_key(a.semantics, b.semantics)) continue;
            out.push_back({a.semantics + "," + b.semantics, a.text + "; " + b.text, false, {}});
        }
    return out;
}

}  // namespace bitnet::explain
