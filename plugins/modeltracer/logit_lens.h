// MLT-03: how likely tokens become from layer to layer, by the final norm and head applied to each layer's output.
#pragma once

#include <bitnet_c.h>

#include "plugins/modeltracer/anomalies.h"
#include "plugins/modeltracer/buffer.h"
#include "plugins/modeltracer/config.h"

namespace bitnet::modeltracer {

struct LogitLens {
    const Config *config = nullptr;
    Anomalies *anomalies = nullptr;
    const bitnet_trace_host_t *host = nullptr;
    const bitnet_ext_lens_t *lens = nullptr;  // NULL: this host has none
    int32_t first_position = 0;               // whose layers are kept
    size_t n_positions = 0;
    Buffer<float> hidden;        // (n_positions, n_layer, n_embd)
    Buffer<uint64_t> have;       // (n_positions, n_layer): 1 when it was delivered
    size_t n_layer = 0;          // room for; grows with what is delivered
    Buffer<uint8_t> done;        // by position: its record is written
    Buffer<float> final_logits;  // scratch, as are the following
    Buffer<double> logits;       // (n_tokens, n_layer)
    Buffer<int64_t> ranks;       // likewise
    uint64_t n_traces = 0;       // positions recorded in this run
    uint64_t n_missing = 0;      // positions for which the host could not apply the head
};

void lens_begin_run(LogitLens *self, const char *hyperparameters);
bool lens_begin_forward(LogitLens *self, int32_t position, uint64_t n_tokens);
// A row of layer_out, kept until the final logits are known. False: out of memory.
bool lens_layer_row(LogitLens *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values);
// A row of logits: the position's record is written. False: out of memory.
bool lens_logits_row(LogitLens *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values);
// Writes those whose logits nobody selected. False: out of memory.
bool lens_end_forward(LogitLens *self);

// Number of values above values[token]; a NaN is below every number. 0: none is larger.
int64_t rank_of(const float *values, size_t n, size_t token);

}  // namespace bitnet::modeltracer
