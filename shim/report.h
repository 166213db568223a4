// What the interposer says: nothing unasked. BITNET_TRACE_VERBOSE=1 asks for lines on stderr; BITNET_SHIM_STATUS names
// a folder in which each process that met the engine leaves a file of its own, for `bitnet trace -- PROGRAM`.
#pragma once

#include <cstdint>

namespace bitnet::shim {

// One line on stderr if BITNET_TRACE_VERBOSE=1.
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

// Sums over this process, for the status file.
struct Counts {
    uint64_t graphs, llama_graphs, late_graphs, plans, steps, events, warm_ups, callback_steps;
    uint64_t no_position, several_sequences;  // graphs that were left out for it
    uint64_t over_budget, overwritten;        // stages
    uint64_t flash_graphs;                    // with attention in one operation
    uint64_t runs, failures;
    uint32_t stages_seen;  // bit (1 << stage)
};

extern Counts counts;  // added to with add()
inline void add(uint64_t *count, uint64_t n = 1) { __atomic_fetch_add(count, n, __ATOMIC_RELAXED); }

void set_last_failure(const char *text);
void note_engine(const char *path, const char *version, const char *why);  // why: NULL, or why it is not traced
void write_status();  // brings the file up to date; nothing when BITNET_SHIM_STATUS is not set

}  // namespace bitnet::shim
