// Ternary products of many tokens without a product. Weights are -1, 0 or 1, so all that a row can ask of four elements
// is one of 81 sums; those are made once, for as many tokens as a register has lanes of int16, and every row adds the
// one that its four codes name. With 256 bits an addition is 64 multiply-adds, of which vpmaddubsw and its addition do
// 32 in two. Exact: all sums are integers that fit. (The method of four Russians: Arlazarov, Dinic, Kronrod, Faradzhev
// 1970, for products of Boolean matrices.) Static: see lanes.h.
//
// What an instruction set brings, as Lanes:
// - Vector: `tokens` lanes of int16, `bytes` bytes; load(p), store(p, v) where p is aligned to them; zero(), add, sub.
// - one_token, few: ternary_rows; up to `few` tokens it costs less than tables for them.
// - add_found(a, b, of_a, of_b, tables): a and b each += what four offsets find in four tables.
// - widen(v, int32_t out[tokens], more): out = v, or += v.
// - spread(x, x_stride, n, out): out[i * tokens + t] = x[t * x_stride + i], i < 128; tokens from n on as n - 1.
// - transpose(sums, n_rows, n, acc, acc_stride): acc[t * acc_stride + r] = sums[r * tokens + t], t < n, r < n_rows.
//   n_rows is at most 8.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

// Assembly of add_found: `add` table `to_a`, or `to_b`, adds what stands at [tables + at]. GCC 12 takes the offsets
// apart long before they are used, and runs out of registers.
#define BITNET_FOUR_OF_TWO(add, to_a, to_b)                                                                            \
    BITNET_ONE_OF_TWO(add "0", to_a, to_b)                                                                             \
    BITNET_ONE_OF_TWO(add "1", to_a, to_b)                                                                             \
    BITNET_ONE_OF_TWO(add "2", to_a, to_b)                                                                             \
    BITNET_ONE_OF_TWO(add "3", to_a, to_b)
#define BITNET_ONE_OF_TWO(add, to_a, to_b)                                                                             \
    "movzwl %w[of_a], %k[at]\n\tshr $16, %[of_a]\n\t" add to_a                                                         \
    "movzwl %w[of_b], %k[at]\n\tshr $16, %[of_b]\n\t" add to_b

constexpr int table_rows = 1280;  // that share tables: making them costs 4 % of using them
constexpr int table_sums = 81;
constexpr int tables_together = 8;  // they, and little else, lie in the first cache while rows pass by
// A sum of four is at most 508, so an int16 holds 64 of them: two groups of 128 elements.
constexpr int groups_per_word = 2;

// Where a row's sums of four stand in their tables: byte j of a group holds the codes of elements j, j + 32, j + 64 and
// j + 96. Two codes a nibble and four a byte, from base 4 to base 3. offsets: (group, 4, n_rows, 8), rows beyond the
// last as that.
template <class Lanes>
static void find_offsets(const uint8_t *codes, int n_codes_rows, int n_rows, int n_in, uint16_t *offsets) {
    const size_t row_bytes = size_t(n_in) / 4;
    for (int g = 0; g < n_in / 128; ++g, offsets += 4 * n_rows * tables_together)
        for (int r = 0; r < n_rows; ++r) {
            const uint8_t *b = codes + size_t(r < n_codes_rows ? r : n_codes_rows - 1) * row_bytes + size_t(g) * 32;
            if (g % 2 == 0) __builtin_prefetch(b + 16 * row_bytes);
            uint8_t index[32];
            uint16_t offset[32];
            for (int j = 0; j < 32; ++j) {
                const uint8_t nibbles = uint8_t(b[j] - (b[j] >> 2 & 0x33)), high = uint8_t(nibbles >> 4);
                index[j] = uint8_t(nibbles - uint8_t(high << 3) + high);
            }
            for (int j = 0; j < 32; ++j) offset[j] = uint16_t(index[j] * Lanes::bytes);
            for (int k = 0; k < 4; ++k)
                __builtin_memcpy(offsets + (k * n_rows + r) * tables_together, offset + k * tables_together,
                                 tables_together * sizeof(uint16_t));
        }
}

// The 81 sums of the elements x0, x1, x2 and x3: sum 27 c0 + 9 c1 + 3 c2 + c3 is that of weights c - 1.
template <class Lanes>
static void make_table(const int16_t *x0, const int16_t *x1, const int16_t *x2, const int16_t *x3, uint8_t *table) {
    using V = typename Lanes::Vector;
    const V v[4] = {Lanes::load(x0), Lanes::load(x1), Lanes::load(x2), Lanes::load(x3)};
    V a = Lanes::sub(Lanes::zero(), Lanes::add(Lanes::add(v[0], v[1]), Lanes::add(v[2], v[3])));
    for (int c0 = 0; c0 < 3; ++c0, a = Lanes::add(a, v[0])) {
        V b = a;
        for (int c1 = 0; c1 < 3; ++c1, b = Lanes::add(b, v[1])) {
            V c = b;
            for (int c2 = 0; c2 < 3; ++c2, c = Lanes::add(c, v[2]), table += 3 * Lanes::bytes) {
                const V d = Lanes::add(c, v[3]);
                Lanes::store(table, c);
                Lanes::store(table + Lanes::bytes, d);
                Lanes::store(table + 2 * Lanes::bytes, Lanes::add(d, v[3]));
            }
        }
    }
}

// words += what each row finds in eight tables, n_rows even; on the first pass words begin at 0, and on the last they
// go on to the sums. Four offsets a load, taken apart in registers: a load for each costs a tenth of the speed.
enum class Pass { first, next, last };
template <class Lanes, Pass pass>
static void add_tables(const uint16_t *offsets, const uint8_t *tables, int n_rows, uint8_t *words, int32_t *sums,
                       bool more) {
    constexpr int half = tables_together / 2;
    for (int r = 0; r < n_rows;
         r += 2, words += 2 * Lanes::bytes, sums += 2 * Lanes::tokens, offsets += 2 * tables_together) {
        typename Lanes::Vector a = pass == Pass::first ? Lanes::zero() : Lanes::load(words),
                               b = pass == Pass::first ? Lanes::zero() : Lanes::load(words + Lanes::bytes);
        const auto four = [&](int row, int k) {
            uint64_t v;
            __builtin_memcpy(&v, offsets + row * tables_together + k * half, 8);
            return v;
        };
        Lanes::add_found(a, b, four(0, 0), four(1, 0), tables);
        Lanes::add_found(a, b, four(0, 1), four(1, 1), tables + half * table_sums * Lanes::bytes);
        if constexpr (pass == Pass::last) {
            Lanes::widen(a, sums, more);
            Lanes::widen(b, sums + Lanes::tokens, more);
        } else {
            Lanes::store(words, a);
            Lanes::store(words + Lanes::bytes, b);
        }
    }
}

// ternary_batch for up to table_rows rows.
template <class Lanes>
static void multiply_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, int n_tokens,
                          int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    constexpr int tokens = Lanes::tokens;
    const int rows = (n_rows + 7) / 8 * 8, n_groups = n_in / 128;
    // What ternary_scratch() has room for. Codes of 3, which no file has, would name 121 sums.
    uint8_t *tables = scratch;
    int16_t *spread = reinterpret_cast<int16_t *>(tables + (7 * table_sums + 121) * Lanes::bytes);
    uint8_t *words = reinterpret_cast<uint8_t *>(spread + 128 * tokens);
    int32_t *sums = reinterpret_cast<int32_t *>(words + size_t(rows) * Lanes::bytes);
    uint16_t *offsets = reinterpret_cast<uint16_t *>(sums + size_t(rows) * tokens);

    find_offsets<Lanes>(codes, n_rows, rows, n_in, offsets);
    for (int t = 0; t < n_tokens; t += tokens) {
        const int n = n_tokens - t < tokens ? n_tokens - t : tokens;
        for (int g = 0; g < n_groups; ++g) {
            Lanes::spread(x + size_t(t) * x_stride + size_t(g) * 128, x_stride, n, spread);
            for (int k = 0; k < 4; ++k) {
                for (int j = 0; j < tables_together; ++j) {
                    const int16_t *s = spread + (k * tables_together + j) * tokens;
                    make_table<Lanes>(s, s + 32 * tokens, s + 64 * tokens, s + 96 * tokens,
                                      tables + j * table_sums * Lanes::bytes);
                }
                const uint16_t *found = offsets + size_t(4 * g + k) * size_t(rows) * tables_together;
                const bool last = k == 3 && (g % groups_per_word == groups_per_word - 1 || g == n_groups - 1);
                const auto add = last                                 ? add_tables<Lanes, Pass::last>
                                 : k == 0 && g % groups_per_word == 0 ? add_tables<Lanes, Pass::first>
                                                                      : add_tables<Lanes, Pass::next>;
                add(found, tables, rows, words, sums, g >= groups_per_word);
            }
        }
        for (int r = 0; r < n_rows; r += 8)
            Lanes::transpose(sums + size_t(r) * tokens, n_rows - r < 8 ? n_rows - r : 8, n,
                             acc + size_t(t) * acc_stride + r, acc_stride);
    }
}

// ternary_batch: whole registers of tokens; the tokens that are left, if they are few, one by one.
template <class Lanes>
static void multiply_by_tables(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride,
                               const int32_t *x_sums, int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    const int rest = n_tokens % Lanes::tokens, by_tables = rest > Lanes::few ? n_tokens : n_tokens - rest;
    const auto each_block = [&](int most, const auto &work) {
        for (int r = 0; r < n_rows; r += most)
            work(codes + size_t(r) * (size_t(n_in) / 4), n_rows - r < most ? n_rows - r : most, acc + r);
    };
    if (by_tables > 0)
        each_block(table_rows, [&](const uint8_t *rows, int n, int32_t *to) {
            multiply_rows<Lanes>(rows, n, n_in, x, x_stride, by_tables, to, acc_stride, scratch);
        });
    if (by_tables < n_tokens)
        each_block(64, [&](const uint8_t *rows, int n, int32_t *to) {
            for (int t = by_tables; t < n_tokens; ++t)
                Lanes::one_token(rows, n, n_in, x + size_t(t) * x_stride, x_sums[t], to + size_t(t) * acc_stride,
                                 scratch);
        });
}

}  // namespace bitnet
