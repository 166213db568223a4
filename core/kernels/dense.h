// Ternary rows at five trits a byte, 1.6 bits a weight, for decoding: what memory can read in less time than I2_S.
//
// A block of 64 bytes holds 320 weights of a row. Byte j of it is c0 + 3 c1 + 9 c2 + 27 c3 + 82 c4, where ck is the
// code (weight + 1) of element 64 k + j. The last block of a row is filled up with code 0. The sum of four digits is at
// most 80, so that subtracting 82 twice, where it does not go below zero, leaves an index of fewer than 128 entries,
// which one byte permutation of AVX-512 VBMI turns into the four 2-bit fields of I2_S.
//
// Not part of the table of kernels.h: an ISA without a fast one decodes from I2_S.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

constexpr int dense_block = 320;
constexpr int dense_block_bytes = 64;
constexpr int dense_step = 82;  // of the fifth digit
constexpr int dense_blocks(int n_in) { return (n_in + dense_block - 1) / dense_block; }
constexpr size_t dense_row_bytes(int n_in) { return size_t(dense_blocks(n_in)) * dense_block_bytes; }

// As ternary_rows of kernels.inc, with rows of dense_row_bytes(n_in). scratch: as for ternary_rows of any table, aligned
// to 64.
using DenseRows = void (*)(const uint8_t *rows, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                           uint8_t *scratch);

namespace scalar {
void dense_rows(const uint8_t *rows, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                uint8_t *scratch);
}
#if defined(__x86_64__)
namespace avx512vbmi {
void dense_rows(const uint8_t *rows, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                uint8_t *scratch);
}
#endif

}  // namespace bitnet
