#include "plugins/modeltracer/health.h"

#include <bit>
#include <cmath>

namespace bitnet::modeltracer {

namespace {

constexpr uint32_t bit(int32_t stage) { return 1u << stage; }
constexpr int kIncoming = 0;  // the hidden state that came into the layer

// What each stage reads of its own token.
constexpr uint32_t kReads[BITNET_STAGE_COUNT + 1] = {
    0,
    0,                                                                 // embeddings
    bit(kIncoming),                                                    // attn_norm
    bit(BITNET_STAGE_ATTN_NORM),                                       // q_proj
    bit(BITNET_STAGE_ATTN_NORM),                                       // k_proj
    bit(BITNET_STAGE_ATTN_NORM),                                       // v_proj
    bit(BITNET_STAGE_Q_PROJ),                                          // q_rope
    bit(BITNET_STAGE_K_PROJ),                                          // k_rope
    bit(BITNET_STAGE_Q_ROPE) | bit(BITNET_STAGE_K_ROPE),               // attn_scores
    bit(BITNET_STAGE_ATTN_SCORES),                                     // attn_scores_softmax
    bit(BITNET_STAGE_ATTN_SCORES_SOFTMAX) | bit(BITNET_STAGE_V_PROJ),  // attn_context
    bit(BITNET_STAGE_ATTN_CONTEXT),                                    // attn_sub_norm
    bit(BITNET_STAGE_ATTN_SUB_NORM),                                   // attn_out
    bit(kIncoming) | bit(BITNET_STAGE_ATTN_OUT),                       // attn_residual
    bit(BITNET_STAGE_ATTN_RESIDUAL),                                   // ffn_norm
    bit(BITNET_STAGE_FFN_NORM),                                        // ffn_gate
    bit(BITNET_STAGE_FFN_NORM),                                        // ffn_up
    bit(BITNET_STAGE_FFN_GATE) | bit(BITNET_STAGE_FFN_UP),             // ffn_act
    bit(BITNET_STAGE_FFN_ACT),                                         // ffn_sub_norm
    bit(BITNET_STAGE_FFN_SUB_NORM),                                    // ffn_out
    bit(BITNET_STAGE_ATTN_RESIDUAL) | bit(BITNET_STAGE_FFN_OUT),       // layer_out
    bit(kIncoming),                                                    // final_norm
    bit(BITNET_STAGE_FINAL_NORM),                                      // logits
};
// Stages that a healthy trace may lack: off by default, or not in the architecture.
constexpr uint32_t kOptional =
    bit(BITNET_STAGE_ATTN_SCORES) | bit(BITNET_STAGE_ATTN_SUB_NORM) | bit(BITNET_STAGE_FFN_SUB_NORM);

bool reads_cache(int32_t stage) {
    return stage == BITNET_STAGE_ATTN_SCORES || stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX ||
           stage == BITNET_STAGE_ATTN_CONTEXT;
}

// Looks through stages that were not delivered to what they read in turn.
Inputs look(const TokenHealth &token, uint32_t reads) {
    Inputs found = Inputs::healthy;
    for (int stage = 0; reads; reads &= reads - 1) {
        stage = std::countr_zero(reads);
        if (token.seen & bit(stage)) {
            if (token.sick & bit(stage)) return Inputs::sick;
            continue;
        }
        if (!(kOptional & bit(stage))) found = Inputs::not_traced;
        const Inputs behind = kReads[stage] ? look(token, kReads[stage]) : Inputs::not_traced;
        if (behind == Inputs::sick) return behind;
        if (behind == Inputs::not_traced) found = behind;
    }
    return found;
}

struct Scan {
    bool sick;
    Anomaly what;
    size_t index;
};

// What is wrong with a row; the gravest kind first, as NaN hides what it came from.
Scan scan(const float *values, size_t n, float limit, bool minus_inf_is_a_mask) {
    if (largest_magnitude(values, n) <= magnitude_of(limit)) return {false, Anomaly::nan, 0};
    size_t first_nan = n, first_inf = n, first_large = n;
    for (size_t i = n; i-- > 0;) {
        const float value = values[i];
        if (std::isnan(value)) {
            first_nan = i;
        } else if (std::isinf(value)) {
            if (value > 0 || !minus_inf_is_a_mask) first_inf = i;
        } else if (std::fabs(value) > limit) {
            first_large = i;
        }
    }
    if (first_nan < n) return {true, Anomaly::nan, first_nan};
    if (first_inf < n) return {true, Anomaly::inf, first_inf};
    return {first_large < n, Anomaly::explosion, first_large};
}

// From which magnitude on a stage explodes. An activation is a product: of act(gate), which may be a square, and up.
float limit_of(const Config &config, int32_t stage) {
    if (stage == 0) return 3.4028235e38f;  // of an engine's own stage, what is large is not known
    const double limit = stage == BITNET_STAGE_FFN_ACT ? config.explosion * config.explosion : config.explosion;
    return limit < 3.4e38 ? float(limit) : 3.4028235e38f;
}

// The token's stages of the layer that this event belongs to.
TokenHealth *enter_layer(Health *self, const bitnet_tensor_event_t &event, int32_t position) {
    const size_t index = size_t(position - self->first_position);
    if (position < self->first_position || index >= self->tokens.n) return nullptr;
    TokenHealth *token = &self->tokens[index];
    const int32_t layer = event.header.layer + 2;
    if (token->layer == layer) return token;
    // The hidden state comes from the layer before, or from the last one into final_norm.
    const bool follows = token->layer && (layer == token->layer + 1 || layer == 1);
    const uint32_t source = bit(token->layer == 1 ? BITNET_STAGE_EMBEDDINGS : BITNET_STAGE_LAYER_OUT);
    const uint32_t seen = follows && (token->seen & source), sick = follows && (token->sick & source);
    token->layer = layer;
    token->seen = seen;
    token->sick = sick;
    return token;
}

// Engines that say what an operation read are taken at their word.
Inputs look_at_inputs(Health *self, const bitnet_tensor_event_t &event, uint32_t row) {
    Inputs found = Inputs::not_traced;
    for (uint32_t i = 0; i < event.n_inputs; ++i) {
        const bitnet_tensor_input_t &input = event.inputs[i];
        const char *data = static_cast<const char *>(input.data) + row * input.row_stride;
        const float *values = row_values(data, input.dtype, input.row_elements, &self->input_scratch);
        if (!values) continue;
        const bool known = input.stage >= 1 && input.stage <= BITNET_STAGE_COUNT;
        const int32_t stage = known ? input.stage : 0;
        if (scan(values, input.row_elements, limit_of(*self->config, stage), !known).sick) return Inputs::sick;
        found = Inputs::healthy;
    }
    return found;
}

// Whether an earlier token's key or value, which this stage reads from the cache, is sick.
bool cache_is_sick(const Health *self, const bitnet_tensor_event_t &event, int32_t position) {
    const size_t layer = size_t(event.header.layer);
    if (!reads_cache(event.stage) || event.header.layer < 0 || layer >= self->sick_kv.n) return false;
    return self->sick_kv[layer] && self->sick_kv[layer] <= position;  // plus 1: of a position before this one
}

Inputs inputs_of(Health *self, const bitnet_tensor_event_t &event, uint32_t row, const TokenHealth &token) {
    if (event.n_inputs) {
        const Inputs told = look_at_inputs(self, event, row);
        if (told != Inputs::not_traced) return told;
    }
    if (cache_is_sick(self, event, event.header.position + int32_t(row))) return Inputs::sick;
    const Inputs found = event.stage == BITNET_STAGE_EMBEDDINGS ? Inputs::healthy
                         : event.stage                          ? look(token, kReads[event.stage])
                                                                : Inputs::not_traced;
    // Something between is missing, but what is wrong began before it.
    return found == Inputs::not_traced && token.was_sick ? Inputs::sick : found;
}

void remember(Health *self, TokenHealth *token, const bitnet_tensor_event_t &event, int32_t position) {
    token->was_sick = true;
    token->sick |= bit(event.stage) & ~1u;
    const bool cached =
        event.stage == BITNET_STAGE_K_ROPE || event.stage == BITNET_STAGE_V_PROJ || event.stage == BITNET_STAGE_K_PROJ;
    if (!cached || event.header.layer < 0 || !self->sick_kv.reserve_index(size_t(event.header.layer))) return;
    int32_t *first = &self->sick_kv[size_t(event.header.layer)];
    if (!*first || position + 1 < *first) *first = position + 1;
}

}  // namespace

void health_begin_run(Health *self) { self->sick_kv.clear(); }

bool health_begin_forward(Health *self, int32_t position, uint64_t n_tokens) {
    self->first_position = position;
    self->tokens.clear();
    return self->tokens.resize(n_tokens);
}

RowHealth health_row(Health *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values) {
    const int32_t position = event.header.position + int32_t(row);
    TokenHealth *token = enter_layer(self, event, position);
    if (!token) return {Inputs::not_asked, false, false};
    const bool masked = event.stage == BITNET_STAGE_ATTN_SCORES || event.stage == 0;
    const Scan found = scan(values, event.row_elements, limit_of(*self->config, event.stage), masked);
    const Inputs inputs = inputs_of(self, event, row, *token);
    if (event.stage) token->seen |= bit(event.stage);
    const bool was_sick = token->was_sick;
    if (!found.sick) return {inputs, false, was_sick};
    remember(self, token, event, position);
    if (inputs == Inputs::sick) {
        anomalies_add_propagated(self->anomalies);
        return {inputs, true, was_sick};
    }
    Finding finding = {found.what, position};
    finding.layer = event.header.layer;
    finding.stage = event.stage_name;
    finding.index = int64_t(found.index);
    finding.value = double(values[found.index]);
    finding.limit = found.what == Anomaly::explosion ? double(limit_of(*self->config, event.stage)) : 0;
    finding.inputs = inputs;
    anomalies_add(self->anomalies, finding);
    return {inputs, true, was_sick};
}

}  // namespace bitnet::modeltracer
