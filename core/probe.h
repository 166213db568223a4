// What a trace may ask in the middle of a forward pass, beside the stages themselves. Asking changes nothing.
#pragma once

#include "core/state.h"

namespace bitnet {

// Logit lens: the final norm and the head applied to any n_embd values. normed: (n_embd) scratch; logits: (n_vocab).
void lens(State &state, const float *hidden, float *normed, float *logits);

// Row `row` of the linear `stage` of a layer, while that stage is shown: its output had its input not been quantised.
// False when the stage is no linear, or of a layer that core/alternative_layer.cpp computes. out: grown to the linear's
// width.
bool unquantised_linear(State &state, int stage, int layer, int row, std::vector<float> &out);

}  // namespace bitnet
