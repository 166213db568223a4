// Everything about a forward pass that is not a shape or a weight, as one value. The reference semantics of a model
// come from its file; an override ("activation=silu") makes the same engine imitate another engine or a known bug.
#pragma once

#include <string>
#include <vector>

namespace bitnet {

enum class Activation { relu2, relu, silu, gelu };  // gelu: the tanh form
enum class RopeOrder { neox, norm };                // pairs (i, i + n_rot/2) or (2i, 2i+1)
enum class RopeAngle { exact, steps_f32 };          // position * theta^(-2i/d) in f64, or repeated f32 products
// One scale a row; f32 activations; codes turned back into f32 before the product; one scale for the rows that are
// computed together; one for each 256 or 32 elements; activations rounded to f16, as where weights are f16.
enum class ActivationQuant { row_int8, none, dequantised, tensor_int8, block256_int8, block32_int8, f16 };
enum class WeightScale { multiply, divide, none };
enum class KvType { f32, f16 };
enum class DotInput { f32, f16 };  // what a vector is rounded to before it meets f16 rows
// I2_S of x86 files, of ARM files; groups of 32; four neighbours a byte.
enum class CodeOrder { block128, block64, block32, sequential };

// What only other engines and faults do. The forward pass leaves layers that ask for one of these to
// core/alternative_layer.cpp.
enum class Norm { rms, unweighted, weighted_twice, centred, skipped };  // centred: the mean is subtracted
enum class Rounding { even, away, truncate };                           // of activation codes; away: halves from zero
enum class Accumulator { int32, int16 };                                // int16: wraps
enum class ScaleType { f32, f16, bf16 };                                // what the weight scale is rounded to
enum class CodeBits { high_first, low_first };                          // the first of four codes in a byte
enum class CodeMap { mzp, mpz, zmp, zpm, pmz, pzm };                    // weights of codes 0, 1, 2: minus, zero, plus
enum class KvSwap { off, attention, weights };   // attention takes values for keys and keys for values; Wk and Wv
enum class KvHeads { grouped, interleaved };     // query head h reads key/value head h / r or h % n_head_kv
enum class AttentionScale { root, none, full };  // scores / sqrt(head_dim), as they are, / head_dim
enum class AttentionSum { f32, f16 };            // f16: scores and values in one pass over the positions, sums in f16
enum class StageType { f32, bf16 };              // what every stage is rounded to

struct Semantics {
    Activation activation = Activation::relu2;
    float rms_eps = 1e-5f;
    RopeOrder rope_order = RopeOrder::neox;
    RopeAngle rope_angle = RopeAngle::exact;
    double rope_theta = 500000.0;
    int rope_offset = 0;  // added to every position
    bool attn_sub_norm = true;
    bool ffn_sub_norm = true;
    ActivationQuant activation_quant = ActivationQuant::row_int8;
    WeightScale weight_scale = WeightScale::multiply;
    CodeOrder code_order = CodeOrder::block128;
    KvType kv = KvType::f32;
    DotInput attn_q = DotInput::f32;      // queries, before they meet the keys
    DotInput head_input = DotInput::f32;  // the final norm, before the head
    bool head_tied = true;

    Norm norm = Norm::rms;
    Rounding rounding = Rounding::even;
    Accumulator accumulator = Accumulator::int32;
    ScaleType scale_type = ScaleType::f32;
    CodeBits code_bits = CodeBits::high_first;
    CodeMap code_map = CodeMap::mzp;
    KvSwap kv_swap = KvSwap::off;
    KvHeads kv_heads = KvHeads::grouped;
    AttentionScale attention_scale = AttentionScale::root;
    DotInput attn_p = DotInput::f32;  // probabilities, before they meet the values
    AttentionSum attention_sum = AttentionSum::f32;
    StageType stage_type = StageType::f32;

    // By layer, as far as some layer has semantics of its own; their `layers` are empty.
    std::vector<Semantics> layers;
    const Semantics &at(int layer) const {
        return layer >= 0 && size_t(layer) < layers.size() ? layers[size_t(layer)] : *this;
    }

    bool operator==(const Semantics &) const = default;
};

// Applies "key=value,key=value" to `semantics`; "key@3=value" and "key@0-3=value" to those layers alone.
// model/FORMAT.md lists the keys. A profile is applied where it stands, so later keys win over it. Throws
// Error(invalid) naming the key, what was found and what is allowed.
void apply_overrides(Semantics &semantics, const std::string &overrides);

// The semantics in the syntax of apply_overrides; equal semantics give equal text. Switches that only imitate faults
// and other engines appear when they are not at their default.
std::string to_text(const Semantics &semantics);

}  // namespace bitnet
