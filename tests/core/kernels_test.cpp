// Every kernel of every usable instruction set against the plain one, bit for bit, on odd sizes and unaligned memory
// with guard bytes; and the plain one against what NUMERICS defines, written again in the obvious way.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <algorithm>
#include <vector>

#include "core/cpu.h"
#include "core/math.h"

namespace bitnet {
namespace {

// n elements between guards, aligned for their type and for no vector; check() fails when something wrote outside.
template <class T> class Guarded {
public:
    explicit Guarded(size_t n) : bytes_(n * sizeof(T) + 2 * guard + sizeof(T), 0xA5), n_(n) {}
    T *data() { return reinterpret_cast<T *>(bytes_.data() + begin); }
    std::vector<T> values() const {
        std::vector<T> out(n_);
        if (n_) std::memcpy(out.data(), bytes_.data() + begin, n_ * sizeof(T));
        return out;
    }
    void set(const std::vector<T> &v) { std::memcpy(data(), v.data(), v.size() * sizeof(T)); }
    void check() const {
        for (size_t i = 0; i < begin; ++i) ASSERT_EQ(bytes_[i], 0xA5) << "before";
        for (size_t i = begin + n_ * sizeof(T); i < bytes_.size(); ++i) ASSERT_EQ(bytes_[i], 0xA5) << "after";
    }

private:
    static constexpr size_t guard = 64, begin = guard + sizeof(T);
    std::vector<uint8_t> bytes_;
    size_t n_;
};

// Equal bits; gtest's == calls equal NaNs different and 0 equal to -0.
template <class T>::testing::AssertionResult same_bits(const std::vector<T> &a, const std::vector<T> &b) {
    if (a.size() != b.size()) return ::testing::AssertionFailure() << "sizes " << a.size() << ", " << b.size();
    for (size_t i = 0; i < a.size(); ++i)
        if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0)
            return ::testing::AssertionFailure() << "element " << i << ": " << +a[i] << " against " << +b[i];
    return ::testing::AssertionSuccess();
}

std::vector<float> random_floats(size_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> x(n);
    for (float &v : x) v = normal(rng) * std::exp2f(float(int(rng() % 17) - 8));  // several binades: order matters
    return x;
}

std::vector<uint16_t> random_halves(size_t n, uint32_t seed, bool bfloat) {
    std::vector<uint16_t> out(n);
    const std::vector<float> x = random_floats(n, seed);
    for (size_t i = 0; i < n; ++i)
        out[i] = bfloat ? uint16_t(__builtin_bit_cast(uint32_t, x[i]) >> 16) : float_to_half(x[i]);
    return out;
}

// I2_S block128 of the given weights in {-1, 0, 1}.
std::vector<uint8_t> pack(const std::vector<int8_t> &weights) {
    std::vector<uint8_t> out(weights.size() / 4);
    for (size_t i = 0; i < weights.size(); ++i)
        out[i / 128 * 32 + i % 32] |= uint8_t((weights[i] + 1) << (6 - i % 128 / 32 * 2));
    return out;
}

std::vector<int8_t> random_weights(size_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    std::vector<int8_t> w(n);
    for (int8_t &v : w) v = int8_t(int(rng() % 3) - 1);
    return w;
}

class KernelsTest : public ::testing::TestWithParam<int> {
protected:
    const Kernels &k() const { return *isa_at(GetParam()).kernels; }
    void SetUp() override {
        if (!isa_at(GetParam()).usable) GTEST_SKIP() << "this CPU has no " << k().isa;
    }
};

const int sizes[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 255, 256, 640, 2560, 6912};

TEST_P(KernelsTest, Absmax) {
    for (int n : sizes) {
        Guarded<float> x{size_t(n)};
        std::vector<float> v = random_floats(size_t(n), uint32_t(n));
        x.set(v);
        EXPECT_EQ(k().absmax(x.data(), n), scalar::kernels.absmax(x.data(), n)) << n;
        v[size_t(n) / 2] = std::numeric_limits<float>::quiet_NaN();  // never wins
        v[size_t(n) - 1] = -1e30f;
        x.set(v);
        EXPECT_EQ(k().absmax(x.data(), n), 1e30f) << n;
    }
}

TEST_P(KernelsTest, Quantize) {
    for (int n : sizes) {
        std::vector<float> v = random_floats(size_t(n), uint32_t(n) + 1);
        for (size_t i = 0; i < v.size(); i += 3) v[i] = float(int(i % 256) - 128) + 0.5f;  // ties
        if (n > 20) v[5] = std::numeric_limits<float>::quiet_NaN(), v[11] = 1e30f, v[12] = -1e30f, v[13] = -0.0f;
        Guarded<float> x{size_t(n)};
        x.set(v);
        for (float scale : {1.0f, 0.25f, 3.7f}) {
            Guarded<int8_t> a{size_t(n)}, b{size_t(n)};
            EXPECT_EQ(k().quantize(x.data(), n, scale, a.data()),
                      scalar::kernels.quantize(x.data(), n, scale, b.data()));
            EXPECT_TRUE(same_bits(a.values(), b.values())) << n;
            a.check();
            for (size_t i = 0; i < v.size(); ++i) {
                const float y = std::isnan(v[i]) ? -127.0f : std::clamp(std::nearbyint(v[i] * scale), -127.0f, 127.0f);
                ASSERT_EQ(int(b.values()[i]), int(y)) << i;
            }
        }
    }
}

TEST_P(KernelsTest, SumSquares) {
    for (int n : sizes) {
        Guarded<float> x{size_t(n)};
        const std::vector<float> v = random_floats(size_t(n), uint32_t(n) + 2);
        x.set(v);
        const double sum = k().sum_squares(x.data(), n);
        EXPECT_EQ(sum, scalar::kernels.sum_squares(x.data(), n)) << n;
        long double exact = 0;
        for (float f : v) exact += (long double)f * f;
        EXPECT_NEAR(sum / double(exact), 1.0, 1e-14);
    }
}

TEST_P(KernelsTest, TernaryRows) {
    for (int n_in : {128, 256, 384, 640, 1152, 2560, 6912})
        for (int n_rows : {1, 2, 3, 5, 8}) {
            const std::vector<int8_t> w = random_weights(size_t(n_in) * size_t(n_rows), uint32_t(n_in + n_rows));
            std::mt19937 rng(7);
            std::vector<int8_t> x(static_cast<size_t>(n_in));
            for (int8_t &v : x) v = int8_t(int(rng() % 255) - 127);
            int32_t sum = 0;
            for (int8_t v : x) sum += v;
            Guarded<uint8_t> codes{w.size() / 4};
            codes.set(pack(w));
            Guarded<int8_t> in{x.size()};
            in.set(x);
            Guarded<int32_t> acc{size_t(n_rows)};
            k().ternary_rows(codes.data(), n_rows, n_in, in.data(), sum, acc.data());
            acc.check();
            for (int r = 0; r < n_rows; ++r) {
                int32_t expected = 0;
                for (int i = 0; i < n_in; ++i) expected += w[size_t(r * n_in + i)] * x[size_t(i)];
                ASSERT_EQ(acc.values()[size_t(r)], expected) << n_in << " row " << r;
            }
        }
}

// The largest sums there are: nothing may saturate or wrap on the way.
TEST_P(KernelsTest, TernaryExtremes) {
    const int n_in = 6912 * 2;
    for (int8_t weight : {int8_t(1), int8_t(-1)})
        for (int8_t value : {int8_t(127), int8_t(-127)}) {
            const std::vector<uint8_t> codes = pack(std::vector<int8_t>(size_t(n_in), weight));
            const std::vector<int8_t> x(size_t(n_in), value);
            const int32_t sum = value * n_in;
            int32_t acc[2] = {};
            k().ternary_rows(codes.data(), 1, n_in, x.data(), sum, acc);
            EXPECT_EQ(acc[0], weight * value * n_in);
            std::vector<uint8_t> scratch(ternary_scratch(n_in));
            k().ternary_batch(codes.data(), 1, n_in, x.data(), 0, std::vector<int32_t>(2, sum).data(), 2, acc, 1,
                              scratch.data());
            EXPECT_EQ(acc[0], weight * value * n_in);
            EXPECT_EQ(acc[1], weight * value * n_in);
        }
}

TEST_P(KernelsTest, TernaryBatchIsTernaryRows) {
    for (int n_in : {128, 384, 2560, 6912})
        for (int n_rows : {1, 3, 4, 9})
            for (int n_tokens : {1, 2, 3, 4, 5, 7, 8, 11}) {
                const std::vector<int8_t> w = random_weights(size_t(n_in) * size_t(n_rows), uint32_t(n_in * n_rows));
                std::mt19937 rng(static_cast<uint32_t>(n_tokens));
                const size_t stride = size_t(n_in) + 3;
                Guarded<int8_t> x{stride * size_t(n_tokens)};
                std::vector<int32_t> sums(static_cast<size_t>(n_tokens));
                for (size_t t = 0; t < sums.size(); ++t)
                    for (int i = 0; i < n_in; ++i) {
                        x.data()[t * stride + size_t(i)] = int8_t(int(rng() % 255) - 127);
                        sums[t] += x.data()[t * stride + size_t(i)];
                    }
                Guarded<uint8_t> codes{w.size() / 4}, scratch{ternary_scratch(n_in)};
                codes.set(pack(w));
                const size_t acc_stride = size_t(n_rows) + 2;
                Guarded<int32_t> acc{acc_stride * size_t(n_tokens)};
                k().ternary_batch(codes.data(), n_rows, n_in, x.data(), stride, sums.data(), n_tokens, acc.data(),
                                  acc_stride, scratch.data());
                acc.check();
                scratch.check();
                for (size_t t = 0; t < sums.size(); ++t) {
                    std::vector<int32_t> expected(static_cast<size_t>(n_rows));
                    scalar::kernels.ternary_rows(codes.data(), n_rows, n_in, x.data() + t * stride, sums[t],
                                                 expected.data());
                    for (int r = 0; r < n_rows; ++r)
                        ASSERT_EQ(acc.data()[t * acc_stride + size_t(r)], expected[size_t(r)])
                            << n_in << " token " << t << " row " << r;
                }
            }
}

template <class T, class Dot>
void compare_dot(const Dot &dot, const Dot &plain, const std::vector<T> &rows, int n_rows, int n) {
    Guarded<T> w{rows.size()};
    w.set(rows);
    Guarded<float> x{size_t(n)}, a{size_t(n_rows)}, b{size_t(n_rows)};
    x.set(random_floats(size_t(n), 99));
    const size_t stride = rows.size() / size_t(n_rows);
    dot(w.data(), stride, n_rows, n, x.data(), a.data());
    plain(w.data(), stride, n_rows, n, x.data(), b.data());
    EXPECT_TRUE(same_bits(a.values(), b.values())) << n_rows << " x " << n;
    a.check();
}

TEST_P(KernelsTest, DotRows) {
    for (int n : sizes)
        for (int n_rows : {1, 3, 4, 6}) {
            const size_t total = size_t(n_rows) * size_t(n + 2);
            compare_dot(k().dot_rows_f32, scalar::kernels.dot_rows_f32, random_floats(total, 1), n_rows, n);
            compare_dot(k().dot_rows_f16, scalar::kernels.dot_rows_f16, random_halves(total, 2, false), n_rows, n);
            compare_dot(k().dot_rows_bf16, scalar::kernels.dot_rows_bf16, random_halves(total, 3, true), n_rows, n);
        }
}

TEST_P(KernelsTest, MixRows) {
    for (int n : {1, 7, 8, 16, 20, 32, 64, 96, 100, 128, 130})
        for (int n_rows : {1, 2, 5, 33}) {
            const size_t stride = size_t(n) + 1;
            Guarded<float> weights{size_t(n_rows)}, a{size_t(n)}, b{size_t(n)}, rows{stride * size_t(n_rows)};
            Guarded<uint16_t> halves{stride * size_t(n_rows)};
            weights.set(random_floats(size_t(n_rows), 4));
            rows.set(random_floats(stride * size_t(n_rows), 5));
            halves.set(random_halves(stride * size_t(n_rows), 6, false));
            k().mix_rows_f32(rows.data(), stride, n_rows, n, weights.data(), a.data());
            scalar::kernels.mix_rows_f32(rows.data(), stride, n_rows, n, weights.data(), b.data());
            EXPECT_TRUE(same_bits(a.values(), b.values())) << n_rows << " x " << n;
            k().mix_rows_f16(halves.data(), stride, n_rows, n, weights.data(), a.data());
            scalar::kernels.mix_rows_f16(halves.data(), stride, n_rows, n, weights.data(), b.data());
            EXPECT_TRUE(same_bits(a.values(), b.values())) << "f16 " << n_rows << " x " << n;
            a.check();
        }
}

INSTANTIATE_TEST_SUITE_P(Isa, KernelsTest, ::testing::Range(0, isa_count()),
                         [](const auto &isa) { return std::string(isa_at(isa.param).kernels->isa); });

// The lanes and their tree as core/DESIGN.md writes them, on three numbers whose sum depends on the order.
TEST(ScalarKernels, LaneOrder) {
    std::vector<float> ones(48, 1.0f), x(48, 0.0f);
    x[0] = 1e8f, x[16] = 1.0f, x[32] = -1e8f;  // one lane: (1e8 + 1) - 1e8 = 0
    float out;
    scalar::kernels.dot_rows_f32(x.data(), 48, 1, 48, ones.data(), &out);
    EXPECT_EQ(out, 0.0f);
    std::fill(x.begin(), x.end(), 0.0f);
    x[0] = 1e8f, x[8] = -1e8f, x[1] = 1.0f;  // lanes 0 and 8 meet first: 0 + 1 = 1
    scalar::kernels.dot_rows_f32(x.data(), 48, 1, 48, ones.data(), &out);
    EXPECT_EQ(out, 1.0f);
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
