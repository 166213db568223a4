// Stage numbers as array slots, for the selection. The public half of the table is in trace_host.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bitnet_c.h"

namespace bitnet {

// Stages 0 (a foreign name) to BITNET_STAGE_COUNT, then the same for .codes, .scale and .acc.
constexpr int kStageSlots = 4 * (BITNET_STAGE_COUNT + 1);

int stage_slot(int32_t stage);  // -1: no such number
int32_t slot_stage(int slot);
bool stage_is_default(int32_t stage);
bool stage_in_block(int32_t stage);                    // false: its layer is -1
int32_t stage_find(const char *name, size_t n_bytes);  // exact name or alias; 0: none

}  // namespace bitnet
