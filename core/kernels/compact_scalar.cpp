// Sums over 5-bit codes: what bounds a logit (core/compact_head.h). The plain form that defines the others.
#define BITNET_ISA scalar
#include "core/kernels/declare.h"

namespace bitnet::scalar {

void compact_rows(const uint8_t *nibbles, const uint64_t *bits, int n_rows, int n, const uint8_t *levels,
                  const int8_t *x_high, const int8_t *x_low, int32_t *high, int32_t *low) {
    for (int r = 0; r < n_rows; ++r, nibbles += n / 2) {
        int32_t h = 0, l = 0;
        for (int i = 0; i < n; ++i) {
            const int nibble = (nibbles[i / 128 * 64 + i % 64] >> (i % 128 < 64 ? 0 : 4)) & 15;
            const int code = nibble | (bits ? int((bits[i / 64] >> (i % 64)) & 1) << 4 : 0);
            h += levels[code] * x_high[i];
            l += levels[code] * x_low[i];
        }
        high[r] = h;
        low[r] = l;
        if (bits) bits += n / 64;
    }
}

}  // namespace bitnet::scalar
