// BLAKE3 with AVX-512. The official code takes the chunks of a row in groups of 16, 8, 2 and 1, one group after the
// other, and each of them takes nearly as long as 16 chunks; rows of a model are three to thirty chunks. Here up to 32
// are taken at once, one to a lane, of as many rows as are given. A lane whose chunk has ended is left as it is.
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
constexpr size_t kAheadBytes = 256;  // no CPU foresees that many places at once
constexpr int kLanesMax = 2 * kLanes512;  // one vector alone waits for its own results half of the time
constexpr size_t kLeavesMax = 128;  // chunks whose chaining values are kept before they are folded; a power of two

// What one lane hashes: a chunk, or a pair of chaining values.
struct Lane {
    const uint8_t *data;
    uint32_t n_bytes;  // at most a chunk
    uint32_t end_flags;  // of its last block; of a pair: whether it is the row's last
    uint64_t counter;
    uint8_t *out;  // its chaining value; may be that of another lane's data
};

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

template <int kGroups> AVX512_INLINE void begin(Cvs<kGroups> *cvs) {
    for (int g = 0; g < kGroups; ++g) {
        for (int i = 0; i < kCvWords; ++i) cvs->words[g][i] = _mm512_set1_epi32(int(kIv[i]));
    }
}

template <int kGroups> AVX512_INLINE void store(const Cvs<kGroups> &cvs, const Lane *lanes, int n) {
    for (int g = 0; g < kGroups; ++g) {
        __m512i rows[kWords];
        for (int i = 0; i < kCvWords; ++i) rows[i] = cvs.words[g][i], rows[kCvWords + i] = _mm512_setzero_si512();
        transpose(rows);
        for (int i = 0; i < kLanes512 && g * kLanes512 + i < n; ++i) {
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(lanes[g * kLanes512 + i].out),
                                _mm512_castsi512_si256(rows[i]));
        }
    }
}

// How the blocks of lanes lie.
template <int kGroups> struct Layout {
    const uint8_t *first_block[kGroups * kLanes512], *last_block[kGroups * kLanes512];
    uint32_t n_blocks[kGroups * kLanes512], last_bytes[kGroups * kLanes512];
    uint8_t padded[kGroups * kLanes512][kBlockBytes];  // last blocks that are not whole
    uint32_t n_blocks_min, n_blocks_max;

    Layout(const Lane *lanes, int n) : n_blocks_min(UINT32_MAX), n_blocks_max(1) {
        for (int i = 0; i < n; ++i) {
            first_block[i] = lanes[i].data;
            const uint32_t n_bytes = lanes[i].n_bytes;
            n_blocks[i] = n_bytes ? (n_bytes + kBlockBytes - 1) / kBlockBytes : 1;
            last_bytes[i] = n_bytes - (n_blocks[i] - 1) * kBlockBytes;
            last_block[i] = lanes[i].data + (n_blocks[i] - 1) * kBlockBytes;
            if (n_blocks[i] < n_blocks_min) n_blocks_min = n_blocks[i];
            if (n_blocks[i] > n_blocks_max) n_blocks_max = n_blocks[i];
            if (last_bytes[i] == kBlockBytes) continue;
            memset(padded[i], 0, kBlockBytes);
            if (last_bytes[i]) memcpy(padded[i], last_block[i], last_bytes[i]);
            last_block[i] = padded[i];
        }
        for (int i = n; i < kGroups * kLanes512; ++i) {  // without work, but they read as the first one does
            first_block[i] = first_block[0], last_block[i] = last_block[0];
            n_blocks[i] = last_bytes[i] = 0;
        }
    }
};

AVX512_INLINE void load_from(const uint8_t *const *at, size_t offset, __m512i (&words)[kWords]) {
    __m512i rows[kWords];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes512; ++i) {
        rows[i] = _mm512_loadu_si512(at[i] + offset);
        __builtin_prefetch(at[i] + offset + kAheadBytes);
    }
    transpose(rows);
#pragma GCC unroll 16
    for (int i = 0; i < kWords; ++i) words[i] = rows[i];
}

// Block b of each lane; a lane that has ended gives its last one again.
template <int kGroups> AVX512_INLINE void load(Blocks<kGroups> *blocks, const Layout<kGroups> &layout, uint32_t b) {
    for (int g = 0; g < kGroups; ++g) {
        const uint8_t *const *first = layout.first_block + g * kLanes512;
        if (b + 1 < layout.n_blocks_min) {
            load_from(first, b * kBlockBytes, blocks->words[g]);
            continue;
        }
        const uint8_t *at[kLanes512];
        for (int i = 0; i < kLanes512; ++i) {
            const int lane = g * kLanes512 + i;
            at[i] = b + 1 >= layout.n_blocks[lane] ? layout.last_block[lane] : first[i] + b * kBlockBytes;
        }
        load_from(at, 0, blocks->words[g]);
    }
}

// One to 16 x kGroups pairs of chaining values: one block each, so that little may be done beside it.
template <int kGroups> AVX512 void hash_pairs(const Lane *lanes, int n) {
    Cvs<kGroups> cvs;
    Blocks<kGroups> blocks;
    Extras<kGroups> extras;
    __mmask16 active[kGroups];
    begin(&cvs);
    for (int g = 0; g < kGroups; ++g) {
        const uint8_t *at[kLanes512];
        uint32_t roots = 0;
        for (int i = 0; i < kLanes512; ++i) {
            const Lane &lane = lanes[g * kLanes512 + i < n ? g * kLanes512 + i : 0];
            at[i] = lane.data;
            roots |= uint32_t(lane.end_flags != 0) << i;
        }
        load_from(at, 0, blocks.words[g]);
        extras.counter_low[g] = extras.counter_high[g] = _mm512_setzero_si512();
        extras.n_bytes[g] = _mm512_set1_epi32(int(kBlockBytes));
        extras.flags[g] =
            _mm512_mask_set1_epi32(_mm512_set1_epi32(int(kParent)), __mmask16(roots), int(kParent | kRoot));
        active[g] = __mmask16(0xffff);
    }
    compress(&cvs, blocks, extras, active);
    store(cvs, lanes, n);
}

// One to 16 x kGroups chunks.
template <int kGroups> AVX512 void hash_chunks(const Lane *lanes, int n) {
    const Layout<kGroups> layout(lanes, n);
    Cvs<kGroups> cvs;
    Extras<kGroups> extras;
    __m512i end_flags[kGroups], n_blocks[kGroups], last_bytes[kGroups];
    begin(&cvs);
    for (int g = 0; g < kGroups; ++g) {
        uint32_t low[kLanes512] = {}, high[kLanes512] = {}, end[kLanes512] = {};
        for (int i = 0; i < kLanes512 && g * kLanes512 + i < n; ++i) {
            const Lane &lane = lanes[g * kLanes512 + i];
            low[i] = uint32_t(lane.counter), high[i] = uint32_t(lane.counter >> 32);
            end[i] = lane.end_flags;
        }
        extras.counter_low[g] = _mm512_loadu_si512(low);
        extras.counter_high[g] = _mm512_loadu_si512(high);
        end_flags[g] = _mm512_loadu_si512(end);
        n_blocks[g] = _mm512_loadu_si512(layout.n_blocks + g * kLanes512);
        last_bytes[g] = _mm512_loadu_si512(layout.last_bytes + g * kLanes512);
    }
    for (uint32_t b = 0; b < layout.n_blocks_max; ++b) {
        Blocks<kGroups> blocks;
        __mmask16 active[kGroups];
        load(&blocks, layout, b);
        for (int g = 0; g < kGroups; ++g) {
            const __mmask16 is_last = _mm512_cmpeq_epi32_mask(n_blocks[g], _mm512_set1_epi32(int(b + 1)));
            active[g] = _mm512_cmpgt_epi32_mask(n_blocks[g], _mm512_set1_epi32(int(b)));
            const __m512i flags = _mm512_set1_epi32(b == 0 ? int(kChunkStart) : 0);
            extras.flags[g] = _mm512_mask_or_epi32(flags, is_last, flags, end_flags[g]);
            extras.n_bytes[g] =
                _mm512_mask_mov_epi32(_mm512_set1_epi32(int(kBlockBytes)), is_last, last_bytes[g]);
        }
        compress(&cvs, blocks, extras, active);
    }
    store(cvs, lanes, n);
}

// Gathers lanes until there are as many as can be hashed at once.
struct Gatherer {
    Lane lanes[kLanesMax];
    int n;
    bool is_pairs;

    void flush() {
        if (n > kLanes512) {
            (is_pairs ? hash_pairs<2> : hash_chunks<2>)(lanes, n);
        } else if (n > 0) {
            (is_pairs ? hash_pairs<1> : hash_chunks<1>)(lanes, n);
        }
        n = 0;
    }
    void add(const Lane &lane) {
        lanes[n++] = lane;
        if (n == kLanesMax) flush();
    }
};

// A row, or a part of one that is a tree of its own.
struct Tree {
    const uint8_t *data;
    size_t n_bytes;
    uint64_t first;  // its first chunk's number in the row
    uint32_t root;   // kRoot: it is the whole row
    uint8_t *out;
    uint8_t *cvs;  // chaining values that are not folded yet
    size_t n_cvs;
};

size_t n_chunks_of(size_t n_bytes) { return n_bytes ? (n_bytes + kChunkBytes - 1) / kChunkBytes : 1; }

// Trees of at most kLeavesMax chunks together.
void hash_trees(Tree *trees, size_t n) {
    uint8_t cvs[kLeavesMax * kCvBytes];
    Gatherer gatherer;
    gatherer.n = 0, gatherer.is_pairs = false;
    size_t n_used = 0;
    for (Tree *tree = trees; tree < trees + n; ++tree) {
        tree->cvs = cvs + n_used * kCvBytes;
        tree->n_cvs = n_chunks_of(tree->n_bytes);
        n_used += tree->n_cvs;
        const uint32_t end_flags = kChunkEnd | (tree->n_cvs == 1 ? tree->root : 0);
        for (size_t i = 0; i < tree->n_cvs; ++i) {
            const size_t left = tree->n_bytes - i * kChunkBytes;
            gatherer.add({tree->data + i * kChunkBytes, uint32_t(left < kChunkBytes ? left : kChunkBytes), end_flags,
                          tree->first + i, tree->cvs + i * kCvBytes});
        }
    }
    gatherer.flush();
    gatherer.is_pairs = true;
    // Pair by pair, all trees side by side; a chaining value that is left over goes up as it is.
    for (bool folded = true; folded;) {
        folded = false;
        for (Tree *tree = trees; tree < trees + n; ++tree) {
            const uint32_t end_flags = tree->n_cvs == 2 ? tree->root : 0;
            for (size_t i = 0; i + 1 < tree->n_cvs; i += 2) {
                gatherer.add({tree->cvs + i * kCvBytes, kBlockBytes, end_flags, 0, tree->cvs + i / 2 * kCvBytes});
            }
            folded |= tree->n_cvs > 1;
        }
        gatherer.flush();
        for (Tree *tree = trees; tree < trees + n; ++tree) {
            if (tree->n_cvs < 2) continue;
            const size_t n_pairs = tree->n_cvs / 2;
            if (tree->n_cvs % 2)
                memmove(tree->cvs + n_pairs * kCvBytes, tree->cvs + 2 * n_pairs * kCvBytes, kCvBytes);
            tree->n_cvs = n_pairs + tree->n_cvs % 2;
        }
    }
    for (Tree *tree = trees; tree < trees + n; ++tree) memcpy(tree->out, tree->cvs, kCvBytes);
}

// A row of any length.
void hash_tree(Tree tree) {
    const size_t n = n_chunks_of(tree.n_bytes);
    if (n <= kLeavesMax) return hash_trees(&tree, 1);
    size_t n_left = kLeavesMax;  // the left half is the largest full tree that leaves something to the right
    while (n_left * 2 < n) n_left *= 2;
    uint8_t cvs[2 * kCvBytes];
    hash_tree({tree.data, n_left * kChunkBytes, tree.first, 0, cvs, nullptr, 0});
    hash_tree({tree.data + n_left * kChunkBytes, tree.n_bytes - n_left * kChunkBytes, tree.first + n_left, 0,
               cvs + kCvBytes, nullptr, 0});
    const Lane pair = {cvs, 2 * kCvBytes, tree.root, 0, tree.out};
    hash_pairs<1>(&pair, 1);
}

}  // namespace

void avx512_blake3(const HashJob *jobs, size_t n) {
    // One short row alone: the official code has a way for it.
    if (n == 1 && jobs->n_bytes <= kChunkBytes) return official_blake3(jobs, n);
    Tree trees[kLeavesMax];
    for (size_t i = 0; i < n;) {
        size_t n_trees = 0, n_leaves = 0;
        for (; i < n; ++i) {
            const size_t more = n_chunks_of(jobs[i].n_bytes);
            if (n_leaves + more > kLeavesMax) break;
            trees[n_trees++] = {static_cast<const uint8_t *>(jobs[i].data), jobs[i].n_bytes, 0, kRoot, jobs[i].out,
                                nullptr, 0};
            n_leaves += more;
        }
        if (n_trees) {
            hash_trees(trees, n_trees);
        } else {
            hash_tree({static_cast<const uint8_t *>(jobs[i].data), jobs[i].n_bytes, 0, kRoot, jobs[i].out, nullptr, 0});
            ++i;
        }
    }
}

}  // namespace bitnet::services

#endif
