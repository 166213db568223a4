// Ternary product with NEON: products of bytes added up in int16, widened to int32 before they can wrap.
#define BITNET_ISA neon
#include "core/kernels/declare.h"
#include <arm_neon.h>

namespace bitnet::neon {

static constexpr int prefetch_bytes = 1024;  // a row is read once from memory: ask for it well ahead

// The codes of elements 0..15, 32..47, 64..79 and 96..111 of a group from its first 16 bytes; from the last 16, those
// 16 further on.
static void unpack(const uint8_t *bytes, int8x16_t codes[4]) {
    const uint8x16_t b = vld1q_u8(bytes), three = vdupq_n_u8(3);
    codes[0] = vreinterpretq_s8_u8(vshrq_n_u8(b, 6));
    codes[1] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(b, 4), three));
    codes[2] = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(b, 2), three));
    codes[3] = vreinterpretq_s8_u8(vandq_u8(b, three));
}

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc, uint8_t *) {
    constexpr int elements_per_word = 32 * 128;  // 32 groups * 4 fields * 2 * 127 = 32512
    for (int r = 0; r < n_rows; ++r) {
        const uint8_t *row = codes + size_t(r) * (size_t(n_in) / 4);
        int32x4_t total = vdupq_n_s32(0);
        for (int begin = 0; begin < n_in; begin += elements_per_word) {
            const int end = n_in - begin > elements_per_word ? begin + elements_per_word : n_in;
            int16x8_t low[2] = {}, high[2] = {};
            for (int i = begin; i < end; i += 128) {
                __builtin_prefetch(row + i / 4 + prefetch_bytes);
                for (int h = 0; h < 2; ++h) {
                    int8x16_t c[4];
                    unpack(row + i / 4 + 16 * h, c);
                    for (int f = 0; f < 4; ++f) {
                        const int8x16_t v = vld1q_s8(x + i + 32 * f + 16 * h);
                        low[h] = vmlal_s8(low[h], vget_low_s8(c[f]), vget_low_s8(v));
                        high[h] = vmlal_high_s8(high[h], c[f], v);
                    }
                }
            }
            for (int h = 0; h < 2; ++h) total = vpadalq_s16(vpadalq_s16(total, low[h]), high[h]);
        }
        acc[r] = int32_t(uint32_t(vaddvq_s32(total)) - uint32_t(x_sum));
    }
}

// A row as bytes -1, 0, 1 in the order of its elements.
static void unpack_row(const uint8_t *row, int n_in, int8_t *out) {
    const int8x16_t one = vdupq_n_s8(1);
    for (int i = 0; i < n_in; i += 128)
        for (int h = 0; h < 2; ++h) {
            int8x16_t c[4];
            unpack(row + i / 4 + 16 * h, c);
            for (int f = 0; f < 4; ++f) vst1q_s8(out + i + 32 * f + 16 * h, vsubq_s8(c[f], one));
        }
}

// R unpacked rows times T tokens.
template <int R, int T>
static void tile(const int8_t *w, int n_in, const int8_t *x, size_t x_stride, int32_t *acc, size_t acc_stride) {
    constexpr int elements_per_word = 2048;  // each adds 2 products of 127 at most to a word for 16 elements: 32512
    int32x4_t total[R][T] = {};
    for (int begin = 0; begin < n_in; begin += elements_per_word) {
        const int end = n_in - begin > elements_per_word ? begin + elements_per_word : n_in;
        int16x8_t words[R][T] = {};
        for (int i = begin; i < end; i += 16) {
            int8x16_t c[R];
            for (int r = 0; r < R; ++r) c[r] = vld1q_s8(w + size_t(r) * size_t(n_in) + i);
            for (int t = 0; t < T; ++t) {
                const int8x16_t v = vld1q_s8(x + size_t(t) * x_stride + i);
                for (int r = 0; r < R; ++r) {
                    words[r][t] = vmlal_s8(words[r][t], vget_low_s8(c[r]), vget_low_s8(v));
                    words[r][t] = vmlal_high_s8(words[r][t], c[r], v);
                }
            }
        }
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < T; ++t) total[r][t] = vpadalq_s16(total[r][t], words[r][t]);
    }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) acc[size_t(t) * acc_stride + size_t(r)] = vaddvq_s32(total[r][t]);
}

template <int R>
static void tile_rows(const int8_t *w, int n_in, const int8_t *x, size_t x_stride, int n_tokens, int32_t *acc,
                      size_t acc_stride) {
    int t = 0;
    for (; t + 4 <= n_tokens; t += 4)
        tile<R, 4>(w, n_in, x + size_t(t) * x_stride, x_stride, acc + size_t(t) * acc_stride, acc_stride);
    for (; t < n_tokens; ++t)
        tile<R, 1>(w, n_in, x + size_t(t) * x_stride, x_stride, acc + size_t(t) * acc_stride, acc_stride);
}

// Unpacked weights are -1, 0, 1 here, so the sums of x are not needed.
void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    int8_t *w = reinterpret_cast<int8_t *>(scratch);
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        for (int k = 0; k < 4; ++k)
            unpack_row(codes + size_t(r + k) * (size_t(n_in) / 4), n_in, w + size_t(k) * size_t(n_in));
        tile_rows<4>(w, n_in, x, x_stride, n_tokens, acc + r, acc_stride);
    }
    for (; r < n_rows; ++r) {
        unpack_row(codes + size_t(r) * (size_t(n_in) / 4), n_in, w);
        tile_rows<1>(w, n_in, x, x_stride, n_tokens, acc + r, acc_stride);
    }
}

}  // namespace bitnet::neon
