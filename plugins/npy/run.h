// The folder of one run of the npy sink, and its run.json.
#pragma once

#include <bitnet_c.h>

#include "plugins/npy/window.h"
#include "plugins/output/json_text.h"

namespace bitnet {

struct NpyRun {
    OutputFolder folder;
    JsonText record;             // the `run` record, without its end of line
    JsonText steps;              // "{...},{...}"
    JsonText json;               // run.json while it is written
    int32_t n_blocks = 0;        // 0: unknown
    int32_t first_position = 0;  // of tokens[0]
    int32_t *tokens = nullptr;   // kNoToken: unknown
    size_t n_tokens = 0, n_tokens_max = 0;
    uint64_t n_records = 0, n_bytes = 0;
    uint64_t n_records_told = 0;  // of them, in run.json
    bool point_reached = false, point_seen = false;
};

// False: no memory.
bool npy_run_begin(NpyRun *run, const bitnet_run_begin_event_t &event);
bool npy_run_step(NpyRun *run, const bitnet_step_event_t &event);
// Writes run.json. False with a reason in the folder.
bool npy_run_tell(NpyRun *run, const NpyConfig &config, bool complete);
// Closes the folder and frees.
void npy_run_close(NpyRun *run);

}  // namespace bitnet
