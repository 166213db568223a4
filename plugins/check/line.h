// One line of a JSONL trace (plugins/TRACE_FORMAT.md), read for the check sink.
#pragma once

#include <bitnet_c.h>

#include <cstddef>
#include <cstdint>

namespace bitnet {

constexpr size_t kLineReasonBytes = 160;

enum class LineKind : uint8_t { run, step, tensor, run_end };

struct Slice {
    const char *data;
    size_t n;
    bool is(const char *text) const;
};

// The values of the last line that was parsed; texts point into its bytes.
struct TraceLine {
    LineKind kind;
    Slice record, stage, dtype;
    uint64_t run, schema, seq, n, n_elements, n_nan, n_inf, n_records;
    int64_t layer;
    uint8_t blake3[32];
    uint64_t multiset;
    double absmax, l2;
    uint32_t n_top;
    uint32_t top_index[BITNET_STATS_TOP];
    float top_value[BITNET_STATS_TOP];
    float sketch[BITNET_SKETCH_BUCKETS];
    bool has_tokens;
};

// What a run record says about its run, "key\0value\0key\0value\0": "model_hash", "semantics.eps", ...
struct FactText {
    char *data;
    size_t n, capacity;
};

struct LineParser {
    TraceLine line;
    int32_t *tokens;  // of a run or step
    size_t n_tokens, token_capacity;
    FactText facts;  // of a run
    char reason[kLineReasonBytes];
};

// Parses the `n_bytes` at `text`, which end with a NUL and are changed by it. False with a reason. The process's locale
// must have '.' as its decimal point on this thread.
bool parse_line(LineParser *parser, char *text, size_t n_bytes);
void free_line_parser(LineParser *parser);

}  // namespace bitnet
