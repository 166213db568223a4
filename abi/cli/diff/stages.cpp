#include "abi/cli/diff/stages.h"

#include "bitnet_c.h"

#include <array>
#include <iterator>

namespace bitnet::diff {

namespace {

// Four nodes a stage: its accumulators come before the value, its scale and then its codes after it.
constexpr Node acc_of(int stage) { return Node((stage - 1) * 4); }
constexpr Node value_of(int stage) { return Node((stage - 1) * 4 + 1); }
constexpr Node scale_of(int stage) { return Node((stage - 1) * 4 + 2); }
constexpr Node codes_of(int stage) { return Node((stage - 1) * 4 + 3); }
static_assert(codes_of(BITNET_STAGE_COUNT) < kNodeLimit, "a node must fit its bits of a key");

constexpr StageInput here(Node node) { return {node, From::here}; }
constexpr StageInput everywhere(Node node) { return {node, From::every_position}; }
constexpr StageInput kResidual = {value_of(BITNET_STAGE_LAYER_OUT), From::residual};
constexpr StageInput kLastLayer = {value_of(BITNET_STAGE_LAYER_OUT), From::last_layer};

enum Flags : uint8_t { none = 0, outside = 1, skippable = 2 };

constexpr Stage row(Node node, std::string_view name, std::string_view what, StageClass stage_class, Flags flags,
                    StageInput a = {}, StageInput b = {}, uint8_t n_inputs = 1) {
    return {node, name, what, stage_class, !(flags & outside), (flags & skippable) != 0, n_inputs, {a, b}};
}
constexpr Stage two(Node node, std::string_view name, std::string_view what, StageClass stage_class, Flags flags,
                    StageInput a, StageInput b) {
    return row(node, name, what, stage_class, flags, a, b, 2);
}
constexpr Stage norm_row(int stage, std::string_view name, Flags flags, StageInput input) {
    return row(value_of(stage), name, "RMSNorm with its weight", StageClass::norm, flags, input);
}
constexpr Stage scale_row(int stage, std::string_view name) {
    return row(scale_of(stage), name, "scale of the int8 activations", StageClass::scale, skippable,
               here(value_of(stage)));
}
constexpr Stage codes_row(int stage, std::string_view name) {
    return two(codes_of(stage), name, "int8 activations", StageClass::codes, skippable, here(value_of(stage)),
               here(scale_of(stage)));
}
constexpr Stage acc_row(int stage, std::string_view name, int input) {
    return row(acc_of(stage), name, "int32 accumulators", StageClass::accumulator, skippable, here(codes_of(input)));
}
constexpr Stage linear_row(int stage, std::string_view name, std::string_view what, int input) {
    return two(value_of(stage), name, what, StageClass::linear, none, here(acc_of(stage)), here(scale_of(input)));
}

using enum StageClass;
constexpr Stage kStages[] = {
    row(value_of(BITNET_STAGE_EMBEDDINGS), "embeddings", "token embedding", embedding, outside, {}, {}, 0),
    norm_row(BITNET_STAGE_ATTN_NORM, "attn_norm", none, kResidual),
    scale_row(BITNET_STAGE_ATTN_NORM, "attn_norm.scale"),
    codes_row(BITNET_STAGE_ATTN_NORM, "attn_norm.codes"),
    acc_row(BITNET_STAGE_Q_PROJ, "q_proj.acc", BITNET_STAGE_ATTN_NORM),
    linear_row(BITNET_STAGE_Q_PROJ, "q_proj", "query projection", BITNET_STAGE_ATTN_NORM),
    acc_row(BITNET_STAGE_K_PROJ, "k_proj.acc", BITNET_STAGE_ATTN_NORM),
    linear_row(BITNET_STAGE_K_PROJ, "k_proj", "key projection", BITNET_STAGE_ATTN_NORM),
    acc_row(BITNET_STAGE_V_PROJ, "v_proj.acc", BITNET_STAGE_ATTN_NORM),
    linear_row(BITNET_STAGE_V_PROJ, "v_proj", "value projection", BITNET_STAGE_ATTN_NORM),
    row(value_of(BITNET_STAGE_Q_ROPE), "q_rope", "queries after RoPE", rope, none, here(value_of(BITNET_STAGE_Q_PROJ))),
    row(value_of(BITNET_STAGE_K_ROPE), "k_rope", "keys after RoPE", rope, none, here(value_of(BITNET_STAGE_K_PROJ))),
    two(value_of(BITNET_STAGE_ATTN_SCORES), "attn_scores", "scaled, masked q.k", attention, skippable,
        here(value_of(BITNET_STAGE_Q_ROPE)), everywhere(value_of(BITNET_STAGE_K_ROPE))),
    row(value_of(BITNET_STAGE_ATTN_SCORES_SOFTMAX), "attn_scores_softmax", "attention probabilities", attention, none,
        here(value_of(BITNET_STAGE_ATTN_SCORES))),
    two(value_of(BITNET_STAGE_ATTN_CONTEXT), "attn_context", "probabilities times V", attention, none,
        here(value_of(BITNET_STAGE_ATTN_SCORES_SOFTMAX)), everywhere(value_of(BITNET_STAGE_V_PROJ))),
    norm_row(BITNET_STAGE_ATTN_SUB_NORM, "attn_sub_norm", none, here(value_of(BITNET_STAGE_ATTN_CONTEXT))),
    scale_row(BITNET_STAGE_ATTN_SUB_NORM, "attn_sub_norm.scale"),
    codes_row(BITNET_STAGE_ATTN_SUB_NORM, "attn_sub_norm.codes"),
    acc_row(BITNET_STAGE_ATTN_OUT, "attn_out.acc", BITNET_STAGE_ATTN_SUB_NORM),
    linear_row(BITNET_STAGE_ATTN_OUT, "attn_out", "attention output projection", BITNET_STAGE_ATTN_SUB_NORM),
    two(value_of(BITNET_STAGE_ATTN_RESIDUAL), "attn_residual", "residual add after attention", residual, none,
        kResidual, here(value_of(BITNET_STAGE_ATTN_OUT))),
    norm_row(BITNET_STAGE_FFN_NORM, "ffn_norm", none, here(value_of(BITNET_STAGE_ATTN_RESIDUAL))),
    scale_row(BITNET_STAGE_FFN_NORM, "ffn_norm.scale"),
    codes_row(BITNET_STAGE_FFN_NORM, "ffn_norm.codes"),
    acc_row(BITNET_STAGE_FFN_GATE, "ffn_gate.acc", BITNET_STAGE_FFN_NORM),
    linear_row(BITNET_STAGE_FFN_GATE, "ffn_gate", "gate projection", BITNET_STAGE_FFN_NORM),
    acc_row(BITNET_STAGE_FFN_UP, "ffn_up.acc", BITNET_STAGE_FFN_NORM),
    linear_row(BITNET_STAGE_FFN_UP, "ffn_up", "up projection", BITNET_STAGE_FFN_NORM),
    two(value_of(BITNET_STAGE_FFN_ACT), "ffn_act", "activation(gate) * up", activation, none,
        here(value_of(BITNET_STAGE_FFN_GATE)), here(value_of(BITNET_STAGE_FFN_UP))),
    norm_row(BITNET_STAGE_FFN_SUB_NORM, "ffn_sub_norm", none, here(value_of(BITNET_STAGE_FFN_ACT))),
    scale_row(BITNET_STAGE_FFN_SUB_NORM, "ffn_sub_norm.scale"),
    codes_row(BITNET_STAGE_FFN_SUB_NORM, "ffn_sub_norm.codes"),
    acc_row(BITNET_STAGE_FFN_OUT, "ffn_out.acc", BITNET_STAGE_FFN_SUB_NORM),
    linear_row(BITNET_STAGE_FFN_OUT, "ffn_out", "down projection", BITNET_STAGE_FFN_SUB_NORM),
    two(value_of(BITNET_STAGE_LAYER_OUT), "layer_out", "residual add after the FFN", residual, none,
        here(value_of(BITNET_STAGE_ATTN_RESIDUAL)), here(value_of(BITNET_STAGE_FFN_OUT))),
    norm_row(BITNET_STAGE_FINAL_NORM, "final_norm", outside, kLastLayer),
    row(value_of(BITNET_STAGE_LOGITS), "logits", "output head", head, outside, here(value_of(BITNET_STAGE_FINAL_NORM))),
};

constexpr bool ascending() {
    for (size_t i = 1; i < std::size(kStages); ++i) {
        if (kStages[i].node <= kStages[i - 1].node) return false;
    }
    for (const Stage &stage : kStages) {
        for (int i = 0; i < stage.n_inputs; ++i) {
            if (stage.inputs[i].from == From::here && stage.inputs[i].node >= stage.node) return false;
        }
    }
    return true;
}
static_assert(ascending(), "stages stand in execution order, inputs before their users");

struct SemanticsKey {
    std::string_view key;
    uint32_t classes;  // bit per StageClass
    std::string_view stages[4];
};
constexpr uint32_t bit(StageClass c) { return 1u << int(c); }
constexpr uint32_t kLinearClasses = bit(linear) | bit(accumulator) | bit(codes) | bit(scale);
constexpr SemanticsKey kSemanticsKeys[] = {
    {"activation", bit(activation), {}},
    {"eps", bit(norm), {}},
    {"rope", bit(rope), {}},
    {"rope_angle", bit(rope), {}},
    {"theta", bit(rope), {}},
    {"rope_offset", bit(rope), {}},
    {"attn_sub_norm", 0, {"attn_sub_norm", "attn_out", "attn_out.acc"}},
    {"ffn_sub_norm", 0, {"ffn_sub_norm", "ffn_out", "ffn_out.acc"}},
    {"quant", kLinearClasses, {}},
    {"scale", bit(linear), {}},
    {"i2s", bit(linear) | bit(accumulator), {}},
    {"kv", bit(attention), {"k_rope", "v_proj"}},
    {"attn_q", bit(attention), {}},
    {"head_input", bit(head), {"final_norm"}},
    {"head_tied", bit(head), {}},
    {"norm", bit(norm), {}},
    {"round", kLinearClasses, {}},
    {"acc", bit(linear) | bit(accumulator), {}},
    {"scale_type", bit(linear), {}},
    {"i2s_bits", bit(linear) | bit(accumulator), {}},
    {"i2s_map", bit(linear) | bit(accumulator), {}},
    {"kv_swap", bit(attention), {"k_proj", "v_proj", "k_proj.acc", "v_proj.acc"}},
    {"kv_heads", bit(attention), {}},
    {"attn_scale", bit(attention), {}},
    {"attn_p", bit(attention), {}},
    {"attn_sum", bit(attention), {}},
};

constexpr int kPositionShift = 20, kLayerShift = 7, kRunShift = 48;
constexpr uint64_t kLayerMask = (1u << 13) - 1;
constexpr uint64_t kAfterLayers = kLayerMask;
static_assert(kMaxLayers < int(kAfterLayers));

}  // namespace

std::span<const Stage> stages() { return kStages; }

const Stage *find_stage(std::string_view name) {
    for (const Stage &stage : kStages) {
        if (stage.name == name) return &stage;
    }
    return nullptr;
}

const Stage *find_stage(int node) {
    static const std::array<const Stage *, kNodeLimit> table = [] {
        std::array<const Stage *, kNodeLimit> by_node{};
        for (const Stage &stage : kStages) by_node[stage.node] = &stage;
        return by_node;
    }();
    return node >= 0 && node < kNodeLimit ? table[size_t(node)] : nullptr;
}

Node embeddings_node() { return value_of(BITNET_STAGE_EMBEDDINGS); }
Node layer_out_node() { return value_of(BITNET_STAGE_LAYER_OUT); }
Node logits_node() { return value_of(BITNET_STAGE_LOGITS); }

bool semantics_key_affects(std::string_view key, const Stage &stage) {
    key = key.substr(0, key.find('@'));  // "activation@3": of one layer
    for (const SemanticsKey &known : kSemanticsKeys) {
        if (known.key != key) continue;
        if (known.classes & bit(stage.stage_class)) return true;
        for (std::string_view name : known.stages) {
            if (name == stage.name) return true;
        }
        return false;
    }
    return true;
}

Key make_key(int run, int64_t position, int layer, const Stage &stage) {
    uint64_t slot = stage.in_layer ? uint64_t(layer) + 1 : stage.node == embeddings_node() ? 0 : kAfterLayers;
    return uint64_t(run) << kRunShift | uint64_t(position) << kPositionShift | slot << kLayerShift | stage.node;
}

Key make_last_layer_key(int run, int64_t position) {
    return uint64_t(run) << kRunShift | uint64_t(position) << kPositionShift | kAfterLayers << kLayerShift |
           layer_out_node();
}
bool is_last_layer_key(Key key) {
    return (key >> kLayerShift & kLayerMask) == kAfterLayers && node_of(key) == layer_out_node();
}

int run_of(Key key) { return int(key >> kRunShift); }
int position_of(Key key) { return int(key >> kPositionShift & uint64_t(kMaxPositions - 1)); }
int layer_of(Key key) {
    uint64_t slot = key >> kLayerShift & kLayerMask;
    return slot == kAfterLayers ? -1 : int(slot) - 1;
}
Node node_of(Key key) { return Node(key & uint64_t(kNodeLimit - 1)); }
Key next_position(Key key) { return ((key >> kPositionShift) + 1) << kPositionShift; }

}  // namespace bitnet::diff
