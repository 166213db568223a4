// Where NaN, Inf and explosions arise: every stage of every token is looked at, in execution order, and what is wrong
// is blamed on a stage only while what that stage read was still right.
#pragma once

#include <bitnet_c.h>

#include "plugins/modeltracer/anomalies.h"
#include "plugins/modeltracer/buffer.h"
#include "plugins/modeltracer/config.h"

namespace bitnet::modeltracer {

struct TokenHealth {
    int32_t layer;        // the one under way, plus 2; 0: nothing was seen yet
    uint32_t seen, sick;  // bits (1 << stage) of this layer; bit 0: the hidden state that came into it
    bool was_sick;        // at any stage so far
};

struct Health {
    const Config *config = nullptr;
    Anomalies *anomalies = nullptr;
    Buffer<TokenHealth> tokens;  // of the step under way
    Buffer<int32_t> sick_kv;     // by layer: the first position of the run whose key or value is sick, plus 1; 0: none
    Buffer<float> input_scratch;
    int32_t first_position = 0;
};

struct RowHealth {
    Inputs inputs;  // asked for whenever the row is sick, and of stages that are a point of MLT-01
    bool sick;
    bool token_was_sick;  // at an earlier stage, whichever it was
};

void health_begin_run(Health *self);
bool health_begin_forward(Health *self, int32_t position, uint64_t n_tokens);
RowHealth health_row(Health *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values);

}  // namespace bitnet::modeltracer
