// MLT-01: statistics of the hidden state on its way through each layer.
#pragma once

#include <bitnet_c.h>

#include "plugins/modeltracer/anomalies.h"
#include "plugins/modeltracer/buffer.h"
#include "plugins/modeltracer/config.h"
#include "plugins/modeltracer/health.h"

namespace bitnet::modeltracer {

// Of all elements; everything but the counts over the finite ones.
struct Statistics {
    uint64_t n, n_nan, n_inf;
    double mean, std, l2;  // std divides by n - 1; in double throughout (Welford)
    float min, max;        // 0 when nothing is finite
};
Statistics statistics_of(const float *values, size_t n);

// Points of a layer: the five of trueno, and the residual stream between its two halves.
enum Point { kInput, kPostNorm, kPostAttn, kResidual, kPostFfn, kOutput, kPoints };

struct TokenActivations {
    int32_t layer;  // the one under way
    uint32_t have;  // bits (1 << Point)
    Statistics of[kPoints];
    Statistics last;  // of the last embeddings or layer_out: the next layer's input
    bool has_last;
    int32_t last_layer;
    bool was_sick;  // NaN, Inf or an explosion at any stage so far: what its layers then look like follows from that
};

struct Activations {
    const Config *config = nullptr;
    Anomalies *anomalies = nullptr;
    Buffer<TokenActivations> tokens;  // of the step under way
    int32_t first_position = 0;
    uint64_t n_layers_recorded = 0;
};

bool activations_begin_forward(Activations *self, int32_t position, uint64_t n_tokens);
// A row of any stage, with what the health check found of it; those that are no point of a layer pass.
void activations_row(Activations *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values,
                     const RowHealth &health);
// Writes what layers without a layer_out have left.
void activations_end_forward(Activations *self);

}  // namespace bitnet::modeltracer
