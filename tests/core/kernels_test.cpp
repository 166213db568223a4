// Row and ternary kernels of every usable instruction set, against what kernels.inc and core/DESIGN.md say, written in
// the obvious way: bit for bit, on odd sizes, unaligned memory and guard bytes.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "core/math.h"
#include "tests/core/kernels_support.h"

namespace bitnet {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
const int sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 255, 256, 640, 2560, 6912};

TEST_P(KernelsTest, Absmax) {
    for (int n : sizes) {
        std::vector<float> v = random_floats(size_t(n), uint32_t(n));
        float largest = 0.0f;
        for (float f : v) largest = std::max(largest, std::fabs(f));
        EXPECT_EQ(k().absmax(Input(v).data(), n), largest) << n;
        v[size_t(n) / 2] = nan;  // never wins
        v[size_t(n) - 1] = -1e30f;
        EXPECT_EQ(k().absmax(Input(v).data(), n), 1e30f) << n;
        v[0] = -infinity;
        EXPECT_EQ(k().absmax(Input(v).data(), n), infinity) << n;
        EXPECT_EQ(k().absmax(Input(std::vector<float>(size_t(n), nan)).data(), n), 0.0f) << n;
    }
}

TEST_P(KernelsTest, Quantize) {
    for (int n : sizes) {
        std::vector<float> v = random_floats(size_t(n), uint32_t(n) + 1);
        for (size_t i = 0; i < v.size(); i += 3) v[i] = float(int(i % 256) - 128) + 0.5f;  // ties
        const float special[] = {nan, infinity, nan, -infinity, 1e30f, nan, -1e30f, -0.0f};
        for (size_t i = 0; i < v.size(); i += 17) v[i] = special[i / 17 % 8];  // in every lane at the larger sizes
        v[size_t(n) - 1] = n % 2 ? nan : 126.5f;
        for (float scale : {1.0f, 0.25f, 3.7f}) {
            Guarded<int8_t> codes{size_t(n)};
            const int32_t sum = k().quantize(Input(v).data(), n, scale, codes.data());
            int32_t expected_sum = 0;
            for (size_t i = 0; i < v.size(); ++i) {
                const float y = std::isnan(v[i]) ? -127.0f : std::clamp(std::nearbyint(v[i] * scale), -127.0f, 127.0f);
                ASSERT_EQ(int(codes.values()[i]), int(y)) << i << " of " << n;
                expected_sum += int(y);
            }
            EXPECT_EQ(sum, expected_sum) << n;
            EXPECT_TRUE(codes.intact());
        }
    }
}

TEST_P(KernelsTest, SumSquares) {
    for (int n : sizes) {
        const std::vector<float> v = random_floats(size_t(n), uint32_t(n) + 2);
        double lane[16] = {};
        long double exact = 0;
        for (size_t i = 0; i < v.size(); ++i) {
            lane[i % 16] = lane[i % 16] + double(v[i]) * double(v[i]);
            exact += (long double)v[i] * v[i];
        }
        const double sum = k().sum_squares(Input(v).data(), n);
        EXPECT_EQ(sum, sum_lanes(lane)) << n;
        EXPECT_NEAR(sum / double(exact), 1.0, 1e-14);
    }
}

TEST_P(KernelsTest, ScaleNorm) {
    for (int n : sizes) {
        std::vector<float> x = random_floats(size_t(n), 11), expected(x.size());
        const std::vector<float> w = random_floats(size_t(n), 12);
        x[size_t(n) / 2] = infinity;
        for (size_t i = 0; i < x.size(); ++i) expected[i] = (x[i] * 0.37f) * w[i];
        Guarded<float> out{size_t(n)}, in_place{x};
        k().scale_norm(Input(x).data(), 0.37f, Input(w).data(), n, out.data());
        EXPECT_TRUE(same_bits(out.values(), expected)) << n;
        k().scale_norm(in_place.data(), 0.37f, Input(w).data(), n, in_place.data());
        EXPECT_TRUE(same_bits(in_place.values(), expected)) << n;
        EXPECT_TRUE(out.intact() && in_place.intact());
    }
}

TEST_P(KernelsTest, ScaleAccumulators) {
    for (int n : sizes) {
        std::mt19937 rng(static_cast<uint32_t>(n));
        std::vector<int32_t> acc(static_cast<size_t>(n));
        for (int32_t &a : acc) a = int32_t(rng());  // beyond 2^24 too: the conversion rounds
        std::vector<float> expected(acc.size());
        for (size_t i = 0; i < acc.size(); ++i) expected[i] = (float(acc[i]) / 12.7f) * 0.013f;
        Guarded<float> out{size_t(n)};
        Guarded<int32_t> in_place{acc};
        k().scale_accumulators(Input(acc).data(), n, 12.7f, 0.013f, out.data());
        EXPECT_TRUE(same_bits(out.values(), expected)) << n;
        k().scale_accumulators(in_place.data(), n, 12.7f, 0.013f, reinterpret_cast<float *>(in_place.data()));
        EXPECT_EQ(std::memcmp(in_place.data(), expected.data(), expected.size() * sizeof(float)), 0) << n;
        EXPECT_TRUE(out.intact() && in_place.intact());
    }
}

TEST_P(KernelsTest, Relu2Gated) {
    for (int n : sizes) {
        std::vector<float> gate = random_floats(size_t(n), 13), expected(gate.size());
        const std::vector<float> up = random_floats(size_t(n), 14);
        for (size_t i = 0; i < gate.size(); i += 17) gate[i] = i % 3 ? nan : i % 2 ? infinity : -infinity;
        gate[0] = -0.0f;
        gate[size_t(n) - 1] = nan;
        for (size_t i = 0; i < gate.size(); ++i) {
            const float r = gate[i] < 0 ? 0.0f : gate[i];
            expected[i] = (r * r) * up[i];
        }
        Guarded<float> out{size_t(n)}, in_place{gate};
        k().relu2_gated(Input(gate).data(), Input(up).data(), n, out.data());
        EXPECT_TRUE(same_bits(out.values(), expected)) << n;
        EXPECT_TRUE(std::isnan(out.data()[n - 1]));
        k().relu2_gated(in_place.data(), Input(up).data(), n, in_place.data());
        EXPECT_TRUE(same_bits(in_place.values(), expected)) << n;
        EXPECT_TRUE(out.intact() && in_place.intact());
    }
}

std::vector<float> softmax_of(const std::vector<float> &x) {
    float largest = -infinity;
    for (float v : x)
        if (v > largest) largest = v;
    std::vector<float> e(x.size());
    float lane[16] = {};
    for (size_t i = 0; i < x.size(); ++i) {
        e[i] = exp_f32(x[i] - largest);
        lane[i % 16] = lane[i % 16] + e[i];
    }
    const float sum = sum_lanes(lane);
    for (float &v : e) v = v / sum;
    return e;
}

TEST_P(KernelsTest, Softmax) {
    const float values[] = {0.0f, nan, infinity, -infinity, 3e38f, -3e38f, 88.8f, -87.4f, 1e-40f};
    for (int n : sizes) {
        const std::vector<float> x = random_floats(size_t(n), uint32_t(n) + 15);
        Guarded<float> out{x};
        k().softmax(out.data(), n);
        EXPECT_TRUE(same_bits(out.values(), softmax_of(x))) << n;
        EXPECT_TRUE(out.intact());
        double sum = 0;
        for (float v : x) sum += std::exp(double(v) - double(*std::max_element(x.begin(), x.end())));
        for (size_t i = 0; i < x.size(); ++i)
            ASSERT_NEAR(out.values()[i], std::exp(double(x[i]) - *std::max_element(x.begin(), x.end())) / sum, 2e-6);
        for (float value : values)
            for (size_t at : {size_t(0), size_t(n) / 2, size_t(n) - 1}) {
                std::vector<float> y = x;
                y[at] = value;
                Guarded<float> special{y};
                k().softmax(special.data(), n);
                ASSERT_TRUE(same_bits(special.values(), softmax_of(y))) << n << ", " << value << " at " << at;
                if (std::isnan(value)) {
                    for (float v : special.values()) ASSERT_TRUE(std::isnan(v)) << n;
                }
            }
        Guarded<float> nothing{std::vector<float>(size_t(n), -infinity)};
        k().softmax(nothing.data(), n);
        EXPECT_TRUE(same_bits(nothing.values(), std::vector<float>(size_t(n), nan))) << n;
    }
}

// I2_S block128 (model/FORMAT.md) of weights in {-1, 0, 1}.
std::vector<uint8_t> pack(const std::vector<int8_t> &weights) {
    std::vector<uint8_t> out(weights.size() / 4);
    for (size_t i = 0; i < weights.size(); ++i)
        out[i / 128 * 32 + i % 32] |= uint8_t((weights[i] + 1) << (6 - i % 128 / 32 * 2));
    return out;
}

std::vector<int8_t> random_int8(size_t n, uint32_t seed, int largest) {
    std::mt19937 rng(seed);
    std::vector<int8_t> out(n);
    for (int8_t &v : out) v = int8_t(int(rng() % uint32_t(2 * largest + 1)) - largest);
    return out;
}

int32_t product(const int8_t *weights, const int8_t *x, int n_in) {
    int32_t sum = 0;
    for (int i = 0; i < n_in; ++i) sum += weights[i] * x[i];
    return sum;
}
int32_t sum_of(const int8_t *x, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i];
    return sum;
}

// GGUF aligns to 32 bytes: a row may begin in the middle of a cache line, and the kernels then read it by whole lines.
TEST_P(KernelsTest, TernaryRowsAnywhereInALine) {
    constexpr int n_rows = 7;
    for (int n_in : {128, 256, 384, 512, 640, 2560})
        for (size_t offset = 0; offset < 64; offset += 16) {
            const std::vector<int8_t> w = random_int8(size_t(n_in) * n_rows, uint32_t(n_in), 1);
            const std::vector<int8_t> x = random_int8(size_t(n_in), 7, 127);
            const std::vector<uint8_t> packed = pack(w);
            // Ends with the buffer: what reads beyond it is seen by the sanitizers.
            void *allocated = nullptr;
            ASSERT_EQ(posix_memalign(&allocated, 64, offset + packed.size()), 0);
            const std::unique_ptr<uint8_t, decltype(&std::free)> memory(static_cast<uint8_t *>(allocated), &std::free);
            std::memcpy(memory.get() + offset, packed.data(), packed.size());
            Guarded<int32_t> acc{size_t(n_rows)};
            Scratch scratch(k(), n_in);
            k().ternary_rows(memory.get() + offset, n_rows, n_in, Input(x).data(), sum_of(x.data(), n_in), acc.data(),
                             scratch.data());
            EXPECT_TRUE(acc.intact() && scratch.intact());
            for (int r = 0; r < n_rows; ++r)
                ASSERT_EQ(acc.values()[size_t(r)], product(&w[size_t(r) * size_t(n_in)], x.data(), n_in))
                    << n_in << " at " << offset << " row " << r;
        }
}

TEST_P(KernelsTest, TernaryRows) {
    for (int n_in : {128, 256, 384, 640, 1152, 2560, 6912})
        for (int n_rows : {1, 2, 3, 4, 5, 7, 8, 9, 17}) {
            const std::vector<int8_t> w = random_int8(size_t(n_in) * size_t(n_rows), uint32_t(n_in + n_rows), 1);
            const std::vector<int8_t> x = random_int8(size_t(n_in), 7, 127);
            Guarded<int32_t> acc{size_t(n_rows)};
            Scratch scratch(k(), n_in);
            k().ternary_rows(Input(pack(w)).data(), n_rows, n_in, Input(x).data(), sum_of(x.data(), n_in), acc.data(),
                             scratch.data());
            EXPECT_TRUE(acc.intact() && scratch.intact());
            for (int r = 0; r < n_rows; ++r)
                ASSERT_EQ(acc.values()[size_t(r)], product(&w[size_t(r) * size_t(n_in)], x.data(), n_in))
                    << n_in << " row " << r;
        }
}

void check_batch(const Kernels &k, const std::vector<int8_t> &w, int n_rows, int n_in, const std::vector<int8_t> &x,
                 size_t x_stride, int n_tokens) {
    std::vector<int32_t> sums;
    for (int t = 0; t < n_tokens; ++t) sums.push_back(sum_of(&x[size_t(t) * x_stride], n_in));
    const size_t acc_stride = size_t(n_rows) + 2;
    Guarded<int32_t> acc{std::vector<int32_t>(acc_stride * size_t(n_tokens), 12345)};
    Scratch scratch(k, n_in);
    k.ternary_batch(Input(pack(w)).data(), n_rows, n_in, Input(x).data(), x_stride, Input(sums).data(), n_tokens,
                    acc.data(), acc_stride, scratch.data());
    ASSERT_TRUE(acc.intact() && scratch.intact());
    const std::vector<int32_t> out = acc.values();
    for (int t = 0; t < n_tokens; ++t) {
        for (int r = 0; r < n_rows; ++r)
            ASSERT_EQ(out[size_t(t) * acc_stride + size_t(r)],
                      product(&w[size_t(r) * size_t(n_in)], &x[size_t(t) * x_stride], n_in))
                << n_in << " x " << n_rows << ", " << n_tokens << " tokens: token " << t << " row " << r;
        for (size_t gap = size_t(n_rows); gap < acc_stride; ++gap)  // between the rows of acc nothing is written
            ASSERT_EQ(out[size_t(t) * acc_stride + gap], 12345);
    }
}

TEST_P(KernelsTest, TernaryBatchEveryRowCount) {
    for (int n_rows = 1; n_rows <= 135; ++n_rows) {
        const int n_in = n_rows % 8 ? 128 : 640;
        const size_t stride = size_t(n_in) + 3;
        for (int n_tokens : {1 + n_rows % 5, 11 + n_rows % 23})
            check_batch(k(), random_int8(size_t(n_in) * size_t(n_rows), uint32_t(n_rows), 1), n_rows, n_in,
                        random_int8(stride * size_t(n_tokens), 8, 127), stride, n_tokens);
    }
}

// More rows than a kernel works on at once.
TEST_P(KernelsTest, TernaryBatchOfManyRows) {
    constexpr int n_in = 256, n_tokens = 19;
    for (int n_rows : {k().batch_rows, k().batch_rows + 1, 2 * k().batch_rows + 13})
        check_batch(k(), random_int8(size_t(n_in) * size_t(n_rows), uint32_t(n_rows), 1), n_rows, n_in,
                    random_int8(size_t(n_in) * n_tokens, 8, 127), n_in, n_tokens);
}

TEST_P(KernelsTest, TernaryBatchEveryTokenCount) {
    for (int n_tokens = 1; n_tokens <= 50; ++n_tokens)
        for (int n_rows : {3, 16, 70}) {
            const int n_in = n_tokens % 4 ? 384 : 1152;
            const size_t stride = size_t(n_in) + 1;
            check_batch(k(), random_int8(size_t(n_in) * size_t(n_rows), uint32_t(n_rows), 1), n_rows, n_in,
                        random_int8(stride * size_t(n_tokens), uint32_t(n_tokens), 127), stride, n_tokens);
        }
}

// A file that was loaded unchecked may hold codes of 3, which no product is defined for: nothing else is written, and
// what is read beyond the scratch or the codes the sanitizers may see.
TEST_P(KernelsTest, TernaryBatchOfInvalidCodesStaysInItsMemory) {
    constexpr int n_in = 384, n_rows = 9, n_tokens = 27;
    const std::vector<uint8_t> codes(n_rows * n_in / 4, 0xff);
    const std::vector<int8_t> x(n_in * n_tokens, 127);
    const std::vector<int32_t> sums(n_tokens, 127 * n_in);
    Guarded<int32_t> acc{size_t(n_rows) * n_tokens};
    Scratch scratch(k(), n_in);
    k().ternary_batch(Input(codes).data(), n_rows, n_in, Input(x).data(), n_in, sums.data(), n_tokens, acc.data(),
                      n_rows, scratch.data());
    EXPECT_TRUE(acc.intact() && scratch.intact());
}

// The largest sums there are: nothing may saturate or wrap on the way.
TEST_P(KernelsTest, TernaryExtremes) {
    for (int n_in : {128, 256, 384, 1024, 2560, 13824})
        for (int weight : {-1, 0, 1})
            for (int value : {-127, 127}) {
                const std::vector<int8_t> w(size_t(n_in) * 17, int8_t(weight));
                std::vector<int8_t> x(size_t(n_in) * 27, int8_t(value));
                for (int alternate : {0, 1}) {
                    for (size_t i = 0; alternate && i < x.size(); i += 2) x[i] = int8_t(-value);
                    int32_t acc[2] = {};
                    Scratch scratch(k(), n_in);
                    k().ternary_rows(pack(w).data(), 2, n_in, x.data(), sum_of(x.data(), n_in), acc, scratch.data());
                    EXPECT_EQ(acc[0], product(w.data(), x.data(), n_in));
                    EXPECT_EQ(acc[1], acc[0]);
                    check_batch(k(), w, 17, n_in, x, size_t(n_in), 27);
                }
            }
}

// Sums over the codes of the compact head, with the fifth bits and without.
TEST_P(KernelsTest, CompactRows) {
    for (int n : {128, 256, 640, 2560})
        for (int n_rows : {1, 2, 3, 7}) {
            const size_t rows = size_t(n_rows), columns = size_t(n);
            std::mt19937 rng{uint32_t(n + n_rows)};
            std::vector<uint8_t> nibbles(rows * columns / 2), levels(32);
            std::vector<uint64_t> bits(rows * columns / 64);
            for (uint8_t &v : nibbles) v = uint8_t(rng());
            for (uint64_t &v : bits) v = uint64_t(rng()) << 32 | rng();
            for (uint8_t &v : levels) v = uint8_t(rng() % 128);
            levels[rng() % 32] = 127;
            const std::vector<int8_t> x_high = random_int8(columns, 3, 127), x_low = random_int8(columns, 4, 64);
            for (bool fifth : {true, false}) {
                Guarded<int32_t> high{rows}, low{rows};
                const Input<uint64_t> read_bits(bits);
                k().compact_rows(Input(nibbles).data(), fifth ? read_bits.data() : nullptr, n_rows, n,
                                 Input(levels).data(), Input(x_high).data(), Input(x_low).data(), high.data(),
                                 low.data());
                EXPECT_TRUE(high.intact() && low.intact());
                for (size_t r = 0; r < rows; ++r) {
                    int32_t h = 0, l = 0;
                    for (size_t i = 0; i < columns; ++i) {
                        const uint8_t byte = nibbles[r * columns / 2 + i / 128 * 64 + i % 64];
                        const uint64_t word = fifth ? bits[r * columns / 64 + i / 64] : 0;
                        const int level =
                            levels[size_t(i % 128 < 64 ? byte & 15 : byte >> 4) + 16 * (word >> i % 64 & 1)];
                        h += level * x_high[i];
                        l += level * x_low[i];
                    }
                    ASSERT_EQ(high.values()[r], h) << n << " row " << r << (fifth ? ", five bits" : ", four");
                    ASSERT_EQ(low.values()[r], l) << n << " row " << r << (fifth ? ", five bits" : ", four");
                }
            }
        }
}

INSTANTIATE_TEST_SUITE_P(Isa, KernelsTest, ::testing::ValuesIn(tested_isas()), isa_name);

TEST(Isa, OrderAndNames) {
    std::string names;
    for (int i = 0; i < isa_count(); ++i) names += std::string(isa_at(i).kernels->isa) + " ";
#if defined(__x86_64__)
    EXPECT_EQ(names, "scalar sse2 avx2 avxvnni avx512vnni ");
    EXPECT_TRUE(isa_at(1).usable);
#elif defined(__aarch64__)
    EXPECT_EQ(names, "scalar neon neon-dotprod ");
    EXPECT_TRUE(isa_at(1).usable);
#endif
    EXPECT_TRUE(isa_at(0).usable);
    for (int i = 0; i < isa_count(); ++i)
        EXPECT_EQ(std::string(isa_at(i).kernels->ternary_name), std::string("ternary.") + isa_at(i).kernels->isa);
}

TEST(Isa, UnknownAndEmptyNames) {
    EXPECT_STREQ(select_kernels("scalar").isa, "scalar");
    EXPECT_NO_THROW(select_kernels(""));
    try {
        select_kernels("mmx");
        FAIL();
    } catch (const std::exception &e) {
        EXPECT_NE(std::string(e.what()).find("instruction set 'mmx' is unknown: expected one of scalar"),
                  std::string::npos)
            << e.what();
    }
}

}  // namespace
}  // namespace bitnet
