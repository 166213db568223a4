// A layer of the forward pass under semantics that core/forward.cpp does not know: operation by operation, on one
// thread.
#pragma once

#include "core/show.h"

namespace bitnet {

// Whether this layer must go this way.
bool needs_alternative_layer(const Semantics &model, int layer);

// Error(invalid) when the semantics are about layers that the model does not have.
void check_layers(const Semantics &model, int n_layer);

// Everything from attn_norm to layer_out for the rows whose residual stream is in s.h; appends to the KV cache.
void alternative_layer(State &s, const Rows &rows, int layer);

}  // namespace bitnet
