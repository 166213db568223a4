// Five trits a byte in plain C++: what the fast one is held against.
#include "core/kernels/dense.h"

namespace bitnet::scalar {

void dense_rows(const uint8_t *rows, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc, uint8_t *) {
    for (int r = 0; r < n_rows; ++r) {
        int32_t sum = 0;
        for (int b = 0; b < dense_blocks(n_in); ++b)
            for (int j = 0; j < dense_block_bytes; ++j) {
                const int byte = rows[b * dense_block_bytes + j];
                int digits = byte % dense_step;
                for (int k = 0; k < 5; ++k, digits /= 3) {
                    const int i = b * dense_block + k * dense_block_bytes + j;
                    if (i < n_in) sum += (k < 4 ? digits % 3 : byte / dense_step) * x[i];
                }
            }
        acc[r] = sum - x_sum;
        rows += dense_row_bytes(n_in);
    }
}

}  // namespace bitnet::scalar
