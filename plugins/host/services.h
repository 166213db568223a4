// What the host computes of a row for its sinks. Pure functions; plugins/TRACE_FORMAT.md defines the results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bitnet_c.h"

namespace bitnet {

// n elements of a BITNET_DTYPE_... at any alignment.
struct Row {
    const void *data;
    size_t n;
    int32_t dtype;
};

size_t dtype_bytes(int32_t dtype);  // 0: no such dtype
void row_blake3(Row row, uint8_t out[32]);

// Many at once take much less time than one after the other.
struct HashJob {
    const void *data;
    size_t n_bytes;
    uint8_t *out;  // 32 bytes
};
void blake3_of_many(const HashJob *jobs, size_t n);

uint64_t row_multiset(Row row);
void row_stats(Row row, bitnet_stats_t *out);
void row_sketch(Row row, float out[BITNET_SKETCH_BUCKETS]);

// Which instructions these use from now on, in this process; without it the best there are. False: this CPU lacks them.
enum class RowCpu { plain, avx2, avx512 };
bool row_use_cpu(RowCpu cpu);

}  // namespace bitnet
