// BLAKE3 of one row with AVX-512. The official code takes the chunks of a row in groups of 16, 8, 2 and 1, one group
// after the other, and each of them takes nearly as long as 16 chunks: rows of a model are three to thirty chunks. Here up
// to 32 are taken at once, one to a lane, whatever their number. Of a chunk that ends early the lane is left as it is.
#if defined(__x86_64__)

#include <cstdint>
#include <cstring>
#if defined(__GNUC__) && !defined(__clang__)
// GCC warns of its own AVX-512 intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "plugins/host/row_types.h"

#define AVX512 __attribute__((target("avx512f")))
#define AVX512_INLINE static inline __attribute__((target("avx512f"), always_inline))

namespace bitnet::services {

namespace {

// Of the BLAKE3 specification.
constexpr size_t kChunkBytes = 1024, kBlockBytes = 64;
constexpr int kWords = 16;  // of a block
constexpr int kCvWords = 8;
constexpr size_t kCvBytes = 32;
constexpr int kRounds = 7;
constexpr uint32_t kChunkStart = 1, kChunkEnd = 2, kParent = 4, kRoot = 8;
constexpr uint32_t kIv[kCvWords] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
constexpr int kPermutation[kWords] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};

// Which word of the block each round adds where.
struct Schedule {
    int of[kRounds][kWords];
    constexpr Schedule() : of() {
        for (int i = 0; i < kWords; ++i) of[0][i] = i;
        for (int round = 1; round < kRounds; ++round) {
            for (int i = 0; i < kWords; ++i) of[round][i] = of[round - 1][kPermutation[i]];
        }
    }
};
constexpr Schedule kSchedule;

constexpr int kLanes512 = 16;
constexpr int kGroupsMax = 2;  // of sixteen lanes; one alone waits for its own results half of the time
constexpr size_t kLeavesMax = 128;  // chunks whose chaining values are kept before they are folded; a power of two

// A word of all lanes' blocks, chaining values or states is a vector.
template <int kGroups> struct Blocks {
    __m512i words[kGroups][kWords];
};
template <int kGroups> struct Cvs {
    __m512i words[kGroups][kCvWords];
};
template <int kGroups> struct Extras {
    __m512i counter_low[kGroups], counter_high[kGroups], n_bytes[kGroups], flags[kGroups];
};

template <int kGroups, int kA, int kB, int kC, int kD>
AVX512_INLINE void mix_four(__m512i (&v)[kGroups][kWords], const Blocks<kGroups> &m, int x, int y) {
    for (int g = 0; g < kGroups; ++g) {
        __m512i a = v[g][kA], b = v[g][kB], c = v[g][kC], d = v[g][kD];
        a = _mm512_add_epi32(_mm512_add_epi32(a, m.words[g][x]), b);
        d = _mm512_ror_epi32(_mm512_xor_si512(d, a), 16);
        c = _mm512_add_epi32(c, d);
        b = _mm512_ror_epi32(_mm512_xor_si512(b, c), 12);
        a = _mm512_add_epi32(_mm512_add_epi32(a, m.words[g][y]), b);
        d = _mm512_ror_epi32(_mm512_xor_si512(d, a), 8);
        c = _mm512_add_epi32(c, d);
        b = _mm512_ror_epi32(_mm512_xor_si512(b, c), 7);
        v[g][kA] = a, v[g][kB] = b, v[g][kC] = c, v[g][kD] = d;
    }
}

template <int kGroups, int kRound>
AVX512_INLINE void mix_all(__m512i (&v)[kGroups][kWords], const Blocks<kGroups> &m) {
    constexpr const int(&at)[kWords] = kSchedule.of[kRound];
    mix_four<kGroups, 0, 4, 8, 12>(v, m, at[0], at[1]);
    mix_four<kGroups, 1, 5, 9, 13>(v, m, at[2], at[3]);
    mix_four<kGroups, 2, 6, 10, 14>(v, m, at[4], at[5]);
    mix_four<kGroups, 3, 7, 11, 15>(v, m, at[6], at[7]);
    mix_four<kGroups, 0, 5, 10, 15>(v, m, at[8], at[9]);
    mix_four<kGroups, 1, 6, 11, 12>(v, m, at[10], at[11]);
    mix_four<kGroups, 2, 7, 8, 13>(v, m, at[12], at[13]);
    mix_four<kGroups, 3, 4, 9, 14>(v, m, at[14], at[15]);
}

// The next chaining values of the lanes in `active`.
template <int kGroups>
AVX512 void compress(Cvs<kGroups> *cvs, const Blocks<kGroups> &blocks, const Extras<kGroups> &extras,
                     const __mmask16 (&active)[kGroups]) {
    __m512i v[kGroups][kWords];
    for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < kCvWords; ++i) v[g][i] = cvs->words[g][i];
        for (int i = 0; i < 4; ++i) v[g][kCvWords + i] = _mm512_set1_epi32(int(kIv[i]));
        v[g][12] = extras.counter_low[g];
        v[g][13] = extras.counter_high[g];
        v[g][14] = extras.n_bytes[g];
        v[g][15] = extras.flags[g];
    }
    mix_all<kGroups, 0>(v, blocks);
    mix_all<kGroups, 1>(v, blocks);
    mix_all<kGroups, 2>(v, blocks);
    mix_all<kGroups, 3>(v, blocks);
    mix_all<kGroups, 4>(v, blocks);
    mix_all<kGroups, 5>(v, blocks);
    mix_all<kGroups, 6>(v, blocks);
    for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < kCvWords; ++i) {
            __m512i *cv = &cvs->words[g][i];
            *cv = _mm512_mask_xor_epi32(*cv, active[g], v[g][i], v[g][kCvWords + i]);
        }
    }
}

// Sixteen rows of sixteen words become sixteen columns.
AVX512_INLINE void transpose(__m512i (&rows)[kWords]) {
    __m512i pairs[kWords], fours[kWords];
    for (int i = 0; i < kWords; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // fours[4 k + j]: word j of each quarter, of rows 4 k to 4 k + 3
    for (int i = 0; i < kWords; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
        const __m512i low_even = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88);
        const __m512i low_odd = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xdd);
        const __m512i high_even = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88);
        const __m512i high_odd = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xdd);
        rows[j] = _mm512_shuffle_i32x4(low_even, high_even, 0x88);
        rows[4 + j] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
        rows[8 + j] = _mm512_shuffle_i32x4(low_even, high_even, 0xdd);
        rows[12 + j] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
    }
}

// Lane i's block begins at data + i x stride; lanes from n on are zeros.
template <int kGroups> AVX512_INLINE void load(Blocks<kGroups> *blocks, const uint8_t *data, size_t stride, int n) {
    for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < kLanes512; ++i) {
            const int lane = g * kLanes512 + i;
            blocks->words[g][i] = lane < n ? _mm512_loadu_si512(data + size_t(lane) * stride) : _mm512_setzero_si512();
        }
        transpose(blocks->words[g]);
    }
}

template <int kGroups> AVX512_INLINE void begin(Cvs<kGroups> *cvs) {
    for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < kCvWords; ++i) cvs->words[g][i] = _mm512_set1_epi32(int(kIv[i]));
    }
}

template <int kGroups> AVX512_INLINE void store(const Cvs<kGroups> &cvs, int n, uint8_t *out) {
    for (int g = 0; g < kGroups; ++g) {
        __m512i rows[kWords];
        for (int i = 0; i < kCvWords; ++i) rows[i] = cvs.words[g][i], rows[kCvWords + i] = _mm512_setzero_si512();
        transpose(rows);
        for (int i = 0; i < kLanes512 && g * kLanes512 + i < n; ++i) {
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + size_t(g * kLanes512 + i) * kCvBytes),
                                _mm512_castsi512_si256(rows[i]));
        }
    }
}

AVX512_INLINE __mmask16 lane_mask(int n) { return __mmask16(n >= kLanes512 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }

// Chaining values of the chunks of n_bytes, at least one and at most 16 x kGroups; chunk 0 is number `first` of the row.
template <int kGroups> AVX512 void hash_chunks(const uint8_t *data, size_t n_bytes, uint64_t first, uint8_t *out) {
    const int n = int((n_bytes + kChunkBytes - 1) / kChunkBytes), last = n - 1;
    const size_t last_bytes = n_bytes - size_t(last) * kChunkBytes;
    const size_t last_blocks = (last_bytes + kBlockBytes - 1) / kBlockBytes;
    const size_t n_blocks = last ? kChunkBytes / kBlockBytes : last_blocks;
    Cvs<kGroups> cvs;
    Extras<kGroups> extras;
    begin(&cvs);
    for (int g = 0; g < kGroups; ++g) {
        alignas(64) uint32_t low[kLanes512], high[kLanes512];
        for (int i = 0; i < kLanes512; ++i) {
            const uint64_t counter = first + uint64_t(g * kLanes512 + i);
            low[i] = uint32_t(counter), high[i] = uint32_t(counter >> 32);
        }
        extras.counter_low[g] = _mm512_load_si512(low);
        extras.counter_high[g] = _mm512_load_si512(high);
    }
    for (size_t b = 0; b < n_blocks; ++b) {
        // All chunks but the last are whole.
        const uint32_t start = b == 0 ? kChunkStart : 0;
        const uint32_t flags = start | (b == kChunkBytes / kBlockBytes - 1 ? kChunkEnd : 0);
        const uint32_t last_flags = start | (b == last_blocks - 1 ? kChunkEnd : 0);
        const bool last_active = b < last_blocks;
        const size_t last_left = last_active ? last_bytes - b * kBlockBytes : 0;
        const size_t last_n = last_left < kBlockBytes ? last_left : kBlockBytes;
        Blocks<kGroups> blocks;
        __mmask16 active[kGroups];
        load(&blocks, data + b * kBlockBytes, kChunkBytes, last_n == kBlockBytes ? n : last);
        for (int g = 0; g < kGroups; ++g) {
            const __mmask16 is_last = g == last / kLanes512 ? __mmask16(1 << last % kLanes512) : 0;
            active[g] = lane_mask((last_active ? n : last) - g * kLanes512);
            extras.flags[g] =
                _mm512_mask_set1_epi32(_mm512_set1_epi32(int(flags)), is_last, int(last_flags));
            extras.n_bytes[g] =
                _mm512_mask_set1_epi32(_mm512_set1_epi32(int(kBlockBytes)), is_last, int(last_n));
            if (!is_last || last_n == 0 || last_n == kBlockBytes) continue;
            uint32_t rest[kWords] = {};
            memcpy(rest, data + size_t(last) * kChunkBytes + b * kBlockBytes, last_n);
            for (int i = 0; i < kWords; ++i)
                blocks.words[g][i] = _mm512_mask_set1_epi32(blocks.words[g][i], is_last, int(rest[i]));
        }
        compress(&cvs, blocks, extras, active);
    }
    store(cvs, n, out);
}

// Chaining values of n pairs of chaining values; they may be written over the first half of the pairs.
template <int kGroups> AVX512 void hash_pairs(const uint8_t *pairs, int n, uint32_t flags, uint8_t *out) {
    Cvs<kGroups> cvs;
    Blocks<kGroups> blocks;
    Extras<kGroups> extras;
    __mmask16 active[kGroups];
    begin(&cvs);
    load(&blocks, pairs, kBlockBytes, n);
    for (int g = 0; g < kGroups; ++g) {
        extras.counter_low[g] = extras.counter_high[g] = _mm512_setzero_si512();
        extras.n_bytes[g] = _mm512_set1_epi32(int(kBlockBytes));
        extras.flags[g] = _mm512_set1_epi32(int(flags));
        active[g] = __mmask16(0xffff);
    }
    compress(&cvs, blocks, extras, active);
    store(cvs, n, out);
}

constexpr size_t kStepMax = size_t(kGroupsMax) * kLanes512;

// Folds n chaining values into the first, pair by pair; one that is left over goes up as it is.
void fold(uint8_t *cvs, size_t n, uint32_t root) {
    while (n > 1) {
        const size_t n_pairs = n / 2;
        const uint32_t flags = kParent | (n == 2 ? root : 0);
        for (size_t i = 0; i < n_pairs; i += kStepMax) {
            const int count = int(n_pairs - i < kStepMax ? n_pairs - i : kStepMax);
            (count > kLanes512 ? hash_pairs<2> : hash_pairs<1>)(cvs + i * kBlockBytes, count, flags, cvs + i * kCvBytes);
        }
        if (n % 2) memmove(cvs + n_pairs * kCvBytes, cvs + (n - 1) * kCvBytes, kCvBytes);
        n = n_pairs + n % 2;
    }
}

// Chaining value of the tree above n_bytes; `root`: kRoot where it is the whole, of more than one chunk.
void hash_tree(const uint8_t *data, size_t n_bytes, uint64_t first, uint32_t root, uint8_t out[kCvBytes]) {
    uint8_t cvs[kLeavesMax * kCvBytes];
    const size_t n = (n_bytes + kChunkBytes - 1) / kChunkBytes;
    if (n > kLeavesMax) {
        size_t n_left = kLeavesMax;  // the left half is the largest full tree that leaves something to the right
        while (n_left * 2 < n) n_left *= 2;
        hash_tree(data, n_left * kChunkBytes, first, 0, cvs);
        hash_tree(data + n_left * kChunkBytes, n_bytes - n_left * kChunkBytes, first + n_left, 0, cvs + kCvBytes);
        fold(cvs, 2, root);
    } else {
        for (size_t i = 0; i < n; i += kStepMax) {
            const size_t left = n_bytes - i * kChunkBytes;
            const size_t count = left < kStepMax * kChunkBytes ? left : kStepMax * kChunkBytes;
            (count > kLanes512 * kChunkBytes ? hash_chunks<2> : hash_chunks<1>)(data + i * kChunkBytes, count, first + i,
                                                                                cvs + i * kCvBytes);
        }
        fold(cvs, n, root);
    }
    memcpy(out, cvs, kCvBytes);
}

}  // namespace

void avx512_blake3(const void *data, size_t n_bytes, uint8_t out[32]) {
    if (n_bytes <= kChunkBytes) return official_blake3(data, n_bytes, out);
    hash_tree(static_cast<const uint8_t *>(data), n_bytes, 0, kRoot, out);
}

}  // namespace bitnet::services

#endif
