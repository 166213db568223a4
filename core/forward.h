// Evaluates tokens: the hot path's second hop (abi/eval.cpp -> here -> core/kernels/).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/compact_head.h"
#include "core/state.h"

namespace bitnet {

enum class KeepLogits { last, all, none };

struct EvalRequest {
    const int32_t *tokens = nullptr;    // (n); may be null when embeddings are given
    const float *embeddings = nullptr;  // (n, n_embd), in place of the tokens' own
    size_t n = 0;
    KeepLogits keep = KeepLogits::last;
    bool leave_out_logits = false;  // with `last`: keep the head's input alone, unless a tracer wants the logits
    int32_t (*cancel)(void *user) = nullptr;  // asked between layers; non-zero stops
    void *cancel_user = nullptr;
};

// What eval demands of a request, checked before anything is touched: Error(invalid) or Error(overflow).
void validate(const State &state, const EvalRequest &request);

// Appends n positions to the state. Throws Error: invalid (token out of range), overflow (the context is full),
// cancelled; the position and everything before it are then as they were.
void eval(State &state, const EvalRequest &request);

// Computes the logits that an eval left out. Does nothing when there are none.
void complete_logits(State &state);

// CompactHead::candidates for the row whose logits were left out.
bool head_candidates(State &state, const CompactHead &compact, int k, std::vector<Candidate> &out);

}  // namespace bitnet
