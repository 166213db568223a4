// Ternary product with NEON's dot product: sdot adds four products of bytes to each of four int32.
#define BITNET_ISA neon_dotprod
#include "core/kernels/declare.h"
#include <arm_neon.h>

namespace bitnet::neon_dotprod {

static constexpr int prefetch_bytes = 1024;  // a row is read once from memory: ask for it well ahead

static int8x16_t masked(uint8x16_t bytes, uint8_t mask) {
    return vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(mask)));
}

// Three fields are used where they are in the byte, as 16, 4 and 1 times the code; the sums are divided at the end,
// exactly. With an accumulator for each half of a group the largest is 2 * 16 * 127 * n_in / 32 = 127 n_in.
void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc, uint8_t *) {
    for (int r = 0; r < n_rows; ++r) {
        const uint8_t *row = codes + size_t(r) * (size_t(n_in) / 4);
        int32x4_t a[2] = {}, b[2] = {}, c[2] = {}, d[2] = {};
        for (int i = 0; i < n_in; i += 128) {
            __builtin_prefetch(row + i / 4 + prefetch_bytes);
            for (int h = 0; h < 2; ++h) {
                const uint8x16_t bytes = vld1q_u8(row + i / 4 + 16 * h);
                const int8_t *v = x + i + 16 * h;
                a[h] = vdotq_s32(a[h], vreinterpretq_s8_u8(vshrq_n_u8(bytes, 6)), vld1q_s8(v));
                b[h] = vdotq_s32(b[h], masked(bytes, 0x30), vld1q_s8(v + 32));
                c[h] = vdotq_s32(c[h], masked(bytes, 0x0c), vld1q_s8(v + 64));
                d[h] = vdotq_s32(d[h], masked(bytes, 0x03), vld1q_s8(v + 96));
            }
        }
        int32x4_t total = vdupq_n_s32(0);
        for (int h = 0; h < 2; ++h) {
            total = vaddq_s32(vsraq_n_s32(total, b[h], 4), a[h]);
            total = vaddq_s32(vsraq_n_s32(total, c[h], 2), d[h]);
        }
        acc[r] = int32_t(uint32_t(vaddvq_s32(total)) - uint32_t(x_sum));
    }
}

// Four rows as bytes 0, 1, 2, interleaved: four elements of row 0, the same of rows 1, 2 and 3, then the next four
// elements. So a register is four rows, and so is a register of sums. Rows from n_rows on are 0.
static void unpack_panel(const uint8_t *codes, int n_rows, int n_in, uint8_t *panel) {
    const uint8x16_t three = vdupq_n_u8(3);
    for (int i = 0; i < n_in; i += 128)
        for (int h = 0; h < 2; ++h) {
            uint32x4x4_t field[4];
            for (int r = 0; r < 4; ++r) {
                uint8x16_t b = vdupq_n_u8(0);
                if (r < n_rows) b = vld1q_u8(codes + size_t(r) * (size_t(n_in) / 4) + i / 4 + 16 * h);
                field[0].val[r] = vreinterpretq_u32_u8(vshrq_n_u8(b, 6));
                field[1].val[r] = vreinterpretq_u32_u8(vandq_u8(vshrq_n_u8(b, 4), three));
                field[2].val[r] = vreinterpretq_u32_u8(vandq_u8(vshrq_n_u8(b, 2), three));
                field[3].val[r] = vreinterpretq_u32_u8(vandq_u8(b, three));
            }
            for (int f = 0; f < 4; ++f)
                vst4q_u32(reinterpret_cast<uint32_t *>(panel + 4 * size_t(i + 32 * f + 16 * h)), field[f]);
        }
}

// Elements 4 * L .. 4 * L + 3 of 16: P panels, T tokens.
template <int L, int P, int T>
static void step(const uint8_t *w, size_t panel_bytes, const int8x16_t (&v)[T], int32x4_t (&total)[P][T]) {
    for (int p = 0; p < P; ++p) {
        const int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(w + size_t(p) * panel_bytes + 16 * L));
        for (int t = 0; t < T; ++t) total[p][t] = vdotq_laneq_s32(total[p][t], c, v[t], L);
    }
}

// P panels times T tokens; n_rows of the 4 * P rows exist.
template <int P, int T>
static void tile(const uint8_t *w, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                 int32_t *acc, size_t acc_stride) {
    const size_t panel_bytes = 4 * size_t(n_in);
    int32x4_t total[P][T];
    for (int p = 0; p < P; ++p)
        for (int t = 0; t < T; ++t) total[p][t] = vdupq_n_s32(-x_sums[t]);
    for (int i = 0; i < n_in; i += 16) {
        int8x16_t v[T];
        for (int t = 0; t < T; ++t) v[t] = vld1q_s8(x + size_t(t) * x_stride + i);
        const uint8_t *p = w + 4 * size_t(i);
        step<0, P, T>(p, panel_bytes, v, total);
        step<1, P, T>(p, panel_bytes, v, total);
        step<2, P, T>(p, panel_bytes, v, total);
        step<3, P, T>(p, panel_bytes, v, total);
    }
    for (int p = 0; p < P; ++p)
        for (int t = 0; t < T; ++t) {
            int32_t *out = acc + size_t(t) * acc_stride + 4 * p;
            if (n_rows >= 4 * p + 4) {
                vst1q_s32(out, total[p][t]);
            } else {
                int32_t row[4];
                vst1q_s32(row, total[p][t]);
                for (int r = 0; 4 * p + r < n_rows; ++r) out[r] = row[r];
            }
        }
}

template <int P>
static void tile_rows(const uint8_t *w, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                      int n_tokens, int32_t *acc, size_t acc_stride) {
    int t = 0;
    const auto tokens = [&]<int T>() {
        for (; t + T <= n_tokens; t += T)
            tile<P, T>(w, n_rows, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, acc + size_t(t) * acc_stride,
                       acc_stride);
    };
    tokens.template operator()<8>();
    tokens.template operator()<4>();
    tokens.template operator()<1>();
}

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    for (int r = 0; r < n_rows; r += 8) {
        const int n = n_rows - r < 8 ? n_rows - r : 8;
        const uint8_t *rows = codes + size_t(r) * (size_t(n_in) / 4);
        unpack_panel(rows, n, n_in, scratch);
        if (n > 4) {
            unpack_panel(rows + size_t(n_in), n - 4, n_in, scratch + 4 * size_t(n_in));
            tile_rows<2>(scratch, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride);
        } else {
            tile_rows<1>(scratch, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride);
        }
    }
}

}  // namespace bitnet::neon_dotprod
