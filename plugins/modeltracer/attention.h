// MLT-02: what each head looks at.
#pragma once

#include <bitnet_c.h>

#include "plugins/modeltracer/anomalies.h"
#include "plugins/modeltracer/buffer.h"
#include "plugins/modeltracer/config.h"

namespace bitnet::modeltracer {

// For how many query positions running every head of a layer was like this.
struct Streak {
    int32_t n_sink, n_uniform, n_collapse;
};

struct Attention {
    const Config *config = nullptr;
    Anomalies *anomalies = nullptr;
    Buffer<Streak> layers;
    Buffer<uint32_t> top;  // scratch
    uint64_t n_heads = 0;  // traced in this run: one for each head of each layer and position
    uint64_t n_sink = 0, n_uniform = 0, n_recency = 0, n_collapse = 0;  // of them
};

void attention_begin_run(Attention *self);
// A row of attn_scores_softmax. False: out of memory.
bool attention_row(Attention *self, const bitnet_tensor_event_t &event, uint32_t row, const float *weights);

}  // namespace bitnet::modeltracer
