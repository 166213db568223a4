// One live row against its record: equal or not, and where they differ.
#pragma once

#include "plugins/check/trace.h"

namespace bitnet {

struct CheckServices {
    const bitnet_trace_host_t *host;
    const bitnet_ext_hash_t *hash;
    const bitnet_ext_stats_t *stats;
    const bitnet_ext_sketch_t *sketch;
};

enum class RowRelation : uint8_t { equal, within, different, no_memory };

// `tolerance`: relative L2 distance, as `bitnet diff` estimates it from sketches; below 0: the hashes decide.
RowRelation compare_row(const CheckServices &services, const CheckTrace &trace, const TraceRecord &record,
                        const bitnet_tensor_event_t &event, uint32_t row, double tolerance);

// What is known of one element; a side may be unknown.
struct RowHint {
    uint64_t index;
    double found, expected;
    bool has_expected;
    double expected_limit;  // without `expected`: its magnitude is at most this
};

struct RowDifference {
    static constexpr int kHints = 3;
    uint64_t run, event;
    int64_t position, layer;
    char stage[64];
    uint32_t line;  // of the record; 0: the trace could not be read again, and half of this is not known
    uint8_t blake3_found[32], blake3_expected[32];
    int32_t dtype_found, dtype_expected;
    uint64_t n_found, n_expected, nan_found, nan_expected, inf_found, inf_expected;
    double absmax_found, absmax_expected;
    double distance;      // relative L2; NaN: cannot be measured
    bool is_permutation;  // the same values in another order
    bool is_single;       // hints[0] is the only element that differs
    int n_hints;
    RowHint hints[kHints];
};

// `run`: of the live run, from 0.
void describe_row(const CheckServices &services, const CheckTrace &trace, const TraceRecord &record, uint64_t run,
                  const bitnet_tensor_event_t &event, uint32_t row, RowDifference *out);
// One line of at most `capacity` bytes, what matters most first: a log line of the host has 255.
void difference_text(const RowDifference &difference, char *out, size_t capacity);

}  // namespace bitnet
