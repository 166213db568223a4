// What a complete trace of the small model holds, and a context that records one.
#pragma once

#include <bitnet_c.h>

#include <vector>

#include "tests/abi/support.h"

namespace bitnet_test {

// A bare '*' is what is on by default.
inline const char *const everything = "*,attn_scores,*.codes,*.scale,*.acc";

struct Expected {
    int32_t stage;
    const char *name;
    std::vector<uint64_t> shape;
    int32_t dtype = BITNET_DTYPE_F32;
};

// Stages of a block in execution order, companions included.
inline std::vector<Expected> block_stages(uint64_t n_kv) {
    const std::vector<uint64_t> embd{n_embd}, ff{n_ff}, q{n_head, head_dim}, kv{n_head_kv, head_dim}, one{1};
    constexpr int32_t i8 = BITNET_DTYPE_I8, i32 = BITNET_DTYPE_I32;
    constexpr int32_t codes = BITNET_STAGE_CODES, scale = BITNET_STAGE_SCALE, acc = BITNET_STAGE_ACC;
    return {
        {BITNET_STAGE_ATTN_NORM, "attn_norm", embd},
        {BITNET_STAGE_ATTN_NORM | codes, "attn_norm.codes", embd, i8},
        {BITNET_STAGE_ATTN_NORM | scale, "attn_norm.scale", one},
        {BITNET_STAGE_Q_PROJ | acc, "q_proj.acc", q, i32},
        {BITNET_STAGE_K_PROJ | acc, "k_proj.acc", kv, i32},
        {BITNET_STAGE_V_PROJ | acc, "v_proj.acc", kv, i32},
        {BITNET_STAGE_Q_PROJ, "q_proj", q},
        {BITNET_STAGE_K_PROJ, "k_proj", kv},
        {BITNET_STAGE_V_PROJ, "v_proj", kv},
        {BITNET_STAGE_Q_ROPE, "q_rope", q},
        {BITNET_STAGE_K_ROPE, "k_rope", kv},
        {BITNET_STAGE_ATTN_SCORES, "attn_scores", {n_head, n_kv}},
        {BITNET_STAGE_ATTN_SCORES_SOFTMAX, "attn_scores_softmax", {n_head, n_kv}},
        {BITNET_STAGE_ATTN_CONTEXT, "attn_context", q},
        {BITNET_STAGE_ATTN_SUB_NORM, "attn_sub_norm", q},
        {BITNET_STAGE_ATTN_SUB_NORM | codes, "attn_sub_norm.codes", {n_head * head_dim}, i8},
        {BITNET_STAGE_ATTN_SUB_NORM | scale, "attn_sub_norm.scale", one},
        {BITNET_STAGE_ATTN_OUT | acc, "attn_out.acc", embd, i32},
        {BITNET_STAGE_ATTN_OUT, "attn_out", embd},
        {BITNET_STAGE_ATTN_RESIDUAL, "attn_residual", embd},
        {BITNET_STAGE_FFN_NORM, "ffn_norm", embd},
        {BITNET_STAGE_FFN_NORM | codes, "ffn_norm.codes", embd, i8},
        {BITNET_STAGE_FFN_NORM | scale, "ffn_norm.scale", one},
        {BITNET_STAGE_FFN_GATE | acc, "ffn_gate.acc", ff, i32},
        {BITNET_STAGE_FFN_UP | acc, "ffn_up.acc", ff, i32},
        {BITNET_STAGE_FFN_GATE, "ffn_gate", ff},
        {BITNET_STAGE_FFN_UP, "ffn_up", ff},
        {BITNET_STAGE_FFN_ACT, "ffn_act", ff},
        {BITNET_STAGE_FFN_SUB_NORM, "ffn_sub_norm", ff},
        {BITNET_STAGE_FFN_SUB_NORM | codes, "ffn_sub_norm.codes", ff, i8},
        {BITNET_STAGE_FFN_SUB_NORM | scale, "ffn_sub_norm.scale", one},
        {BITNET_STAGE_FFN_OUT | acc, "ffn_out.acc", embd, i32},
        {BITNET_STAGE_FFN_OUT, "ffn_out", embd},
        {BITNET_STAGE_LAYER_OUT, "layer_out", embd},
    };
}

// A context of the small model whose events are recorded.
class Traced : public testing::Test {
protected:
    const Model model_ = load();
    Recorder recorder_;  // outlives the context that reports to it
    const Context ctx_ = context(model_.get());
    bitnet_ctx_t *ctx() { return ctx_.get(); }
    void attach(const char *selection = "") {
        ASSERT_OK(bitnet_trace_set_sink(ctx(), &recorder_.table, &recorder_));
        ASSERT_OK(bitnet_trace_select(ctx(), selection));
    }
};

}  // namespace bitnet_test
