// Which rows the npy sink writes: its configuration, and the window around a point.
#pragma once

#include <bitnet_c.h>

#include <climits>

#include "plugins/output/folder.h"

namespace bitnet {

struct NpyConfig {
    bool all = false;  // else the window
    int32_t seq = 0, layer = 0;
    char stage[128] = "";
    int32_t n_layers = 1, n_positions = 0;  // around the point, on either side
    bool history = true;                    // also the keys and values that its attention reads
    uint64_t n_bytes_max = 0;
};

// Reads "dir=...,at=SEQ:LAYER:STAGE,...". The folder is set, not made. False with a text.
bool npy_config(const char *text, NpyConfig *config, OutputFolder *folder, char reason[kReasonBytes]);

// Number of blocks in "n_layer=30,..."; 0 when it is not there.
int32_t npy_layer_count(const char *hyperparameters);

bool npy_is_point(const NpyConfig &config, const bitnet_tensor_event_t &event, int32_t seq);
// `n_blocks`: of the model, 0 when unknown.
bool npy_wants(const NpyConfig &config, const bitnet_tensor_event_t &event, int32_t seq, int32_t n_blocks);

}  // namespace bitnet
