// The records of plugins/TRACE_FORMAT.md: each function appends one line.
#pragma once

#include <bitnet_c.h>

#include "plugins/output/json_text.h"

namespace bitnet {

// What the host's services say of a row.
struct RowResults {
    const uint8_t *blake3;  // 32 bytes
    uint64_t multiset;
    const bitnet_stats_t *stats;
    const float *sketch;
};

void put_run_begin(JsonText *out, const bitnet_run_begin_event_t &event);
void put_step_begin(JsonText *out, const bitnet_step_event_t &event);
void put_tensor(JsonText *out, const bitnet_tensor_event_t &event, uint32_t row, const RowResults &results);
void put_run_end(JsonText *out, const bitnet_run_end_event_t &event);

const char *dtype_name(int32_t dtype);  // "F32"; "?": none that we know

}  // namespace bitnet
