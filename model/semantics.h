// Everything about a forward pass that is not a shape or a weight, as one value. The reference semantics of a model
// come from its file; an override ("activation=silu") makes the same engine imitate another engine or a known bug.
#pragma once

#include <string>

namespace bitnet {

enum class Activation { relu2, relu, silu, gelu };  // gelu: the tanh form
enum class RopeOrder { neox, norm };                // pairs (i, i + n_rot/2) or (2i, 2i+1)
enum class RopeAngle { exact, steps_f32 };          // position * theta^(-2i/d) in f64, or repeated f32 products
enum class ActivationQuant { row_int8, none };      // one scale a row, or f32 activations
enum class WeightScale { multiply, divide, none };
enum class KvType { f32, f16 };
enum class DotInput { f32, f16 };            // what a vector is rounded to before it meets f16 rows
enum class CodeOrder { block128, block64 };  // I2_S of x86 files, of ARM files

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

    bool operator==(const Semantics &) const = default;
};

// Applies "key=value,key=value" to `semantics`. Keys: profile, activation, eps, rope, rope_angle, theta, rope_offset,
// attn_sub_norm, ffn_sub_norm, sub_norms (both), quant, scale, i2s, kv, attn_q, head_input, head_tied. A profile is
// applied where it stands, so later keys win over it. Throws Error(invalid) naming the key, what was found and what is
// allowed.
void apply_overrides(Semantics &semantics, const std::string &overrides);

// Every switch in the syntax of apply_overrides, in the order above; equal semantics give equal text.
std::string to_text(const Semantics &semantics);

}  // namespace bitnet
