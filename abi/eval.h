// What generating shares with evaluating.
#pragma once

#include "abi/boundary.h"
#include "core/forward.h"

namespace bitnet {

// Evaluates through the trace and appends to the token history. Throws as core's eval.
void evaluate(bitnet_ctx &ctx, const EvalRequest &request);

// Row i of the logits the last eval kept, negative from the end. Throws Error(invalid).
const float *logits_row(bitnet_ctx &ctx, int32_t i);

}  // namespace bitnet
