// Ternary product over I2_S block128: byte p of a 32-byte group holds elements p, p+32, p+64, p+96 of 128 in bits 7:6,
// 5:4, 3:2, 1:0 (model/FORMAT.md).
#define BITNET_ISA scalar
#include "core/kernels/declare.h"

namespace bitnet::scalar {

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc, uint8_t *) {
    for (int r = 0; r < n_rows; ++r) {
        const uint8_t *row = codes + size_t(r) * (size_t(n_in) / 4);
        int32_t sum = 0;
        for (int group = 0; group < n_in / 128; ++group) {
            const uint8_t *b = row + group * 32;
            const int8_t *v = x + group * 128;
            for (int p = 0; p < 32; ++p)
                sum += (b[p] >> 6) * v[p] + ((b[p] >> 4) & 3) * v[p + 32] + ((b[p] >> 2) & 3) * v[p + 64] +
                       (b[p] & 3) * v[p + 96];
        }
        acc[r] = sum - x_sum;
    }
}

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    for (int t = 0; t < n_tokens; ++t)
        ternary_rows(codes, n_rows, n_in, x + size_t(t) * x_stride, x_sums[t], acc + size_t(t) * acc_stride, scratch);
}

}  // namespace bitnet::scalar
