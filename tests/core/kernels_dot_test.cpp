// Float kernels of every usable instruction set: rows times vectors and weighted sums of rows, bit for bit against the
// 16 lanes of core/DESIGN.md written in the obvious way.
#include <limits>

#include "tests/core/kernels_support.h"

namespace bitnet {
namespace {

// The value of an IEEE half, from its definition.
float half_value(uint16_t h) {
    const int exponent = (h >> 10) & 31, mantissa = h & 1023;
    float v;
    if (exponent == 31)
        v = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    else
        v = exponent ? std::ldexp(float(1024 + mantissa), exponent - 25) : std::ldexp(float(mantissa), -24);
    return h & 0x8000 ? -v : v;
}
float bfloat_value(uint16_t b) {
    const uint32_t bits = uint32_t(b) << 16;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
float float_value(float v) { return v; }

// All bit patterns, but for exponents that make every sum infinite or NaN; halves include subnormals.
std::vector<uint16_t> random_bits(size_t n, uint32_t seed, uint16_t exponent, uint16_t low, uint16_t high) {
    std::mt19937 rng(seed);
    std::vector<uint16_t> out(n);
    for (uint16_t &v : out) do
            v = uint16_t(rng());
        while ((v & exponent) > high || (v & exponent) < low);
    return out;
}
std::vector<uint16_t> random_halves(size_t n, uint32_t seed) { return random_bits(n, seed, 0x7c00, 0, 0x5000); }
std::vector<uint16_t> random_bfloats(size_t n, uint32_t seed) { return random_bits(n, seed, 0x7f80, 0x3a00, 0x4500); }

struct Shape {
    int n_rows, n, n_x;
};

template <class T, class Kernel, class Value>
void check_dot(Kernel kernel, const std::vector<T> &rows, size_t stride, const Shape &s, Value value) {
    const size_t x_stride = size_t(s.n) + 1, out_stride = size_t(s.n_rows) + 3;
    const std::vector<float> x = random_floats(x_stride * size_t(s.n_x), 99);
    std::vector<float> expected(out_stride * size_t(s.n_x), -7.0f);
    for (int j = 0; j < s.n_x; ++j)
        for (int r = 0; r < s.n_rows; ++r) {
            float lane[16] = {};
            for (int i = 0; i < s.n; ++i)
                lane[i % 16] =
                    lane[i % 16] + value(rows[size_t(r) * stride + size_t(i)]) * x[size_t(j) * x_stride + size_t(i)];
            expected[size_t(j) * out_stride + size_t(r)] = sum_lanes(lane);
        }
    Guarded<float> out{std::vector<float>(expected.size(), -7.0f)};
    kernel(Input(rows).data(), stride, s.n_rows, s.n, Input(x).data(), x_stride, s.n_x, out.data(), out_stride);
    ASSERT_TRUE(same_bits(out.values(), expected)) << s.n_rows << " rows of " << s.n << ", " << s.n_x << " vectors";
    ASSERT_TRUE(out.intact());
}

void check_dots(const Kernels &k, const Shape &s) {
    const size_t stride = size_t(s.n) + 2, total = stride * size_t(s.n_rows) - 2;  // nothing behind the last row
    check_dot(k.dot_rows_f32, random_floats(total, 1), stride, s, float_value);
    check_dot(k.dot_rows_f16, random_halves(total, 2), stride, s, half_value);
    check_dot(k.dot_rows_bf16, random_bfloats(total, 3), stride, s, bfloat_value);
}

TEST_P(KernelsTest, DotRowsEveryLength) {
    for (int n = 1; n <= 80; ++n)
        for (int n_x : {1, 4}) check_dots(k(), {5, n, n_x});
    for (int n : {96, 100, 127, 128, 129, 256, 640, 2560}) check_dots(k(), {3, n, 1 + n % 5});
}

TEST_P(KernelsTest, DotRowsEveryShape) {
    for (int n_rows = 1; n_rows <= 13; ++n_rows)
        for (int n_x = 1; n_x <= 9; ++n_x)
            for (int n : {16, 37, 128}) check_dots(k(), {n_rows, n, n_x});
}

template <class T, class Kernel, class Value>
void check_mix(Kernel kernel, const std::vector<T> &rows, size_t stride, const Shape &s, Value value) {
    const size_t weights_stride = size_t(s.n_rows) + 2, out_stride = size_t(s.n) + 1;
    const std::vector<float> weights = random_floats(weights_stride * size_t(s.n_x), 4);
    const std::vector<float> before = random_floats(out_stride * size_t(s.n_x), 5);
    std::vector<float> expected = before;
    for (int j = 0; j < s.n_x; ++j)
        for (int r = 0; r < s.n_rows; ++r)
            for (int i = 0; i < s.n; ++i) {
                float &o = expected[size_t(j) * out_stride + size_t(i)];
                o = o + weights[size_t(j) * weights_stride + size_t(r)] * value(rows[size_t(r) * stride + size_t(i)]);
            }
    const Input<T> in(rows);
    const Input<float> w(weights);
    Guarded<float> out{before}, continued{before};
    kernel(in.data(), stride, s.n_rows, s.n, w.data(), weights_stride, s.n_x, out.data(), out_stride);
    ASSERT_TRUE(same_bits(out.values(), expected)) << s.n_rows << " rows of " << s.n << ", " << s.n_x << " sums";
    ASSERT_TRUE(out.intact());
    const int first = s.n_rows / 2;  // a sum stopped and continued is the same sum
    if (first == 0) return;
    kernel(in.data(), stride, first, s.n, w.data(), weights_stride, s.n_x, continued.data(), out_stride);
    kernel(in.data() + size_t(first) * stride, stride, s.n_rows - first, s.n, w.data() + first, weights_stride, s.n_x,
           continued.data(), out_stride);
    ASSERT_TRUE(same_bits(continued.values(), expected)) << s.n_rows << " rows of " << s.n << ", continued";
}

void check_mixes(const Kernels &k, const Shape &s) {
    const size_t stride = size_t(s.n) + 1, total = stride * size_t(s.n_rows) - 1;
    check_mix(k.mix_rows_f32, random_floats(total, 6), stride, s, float_value);
    check_mix(k.mix_rows_f16, random_halves(total, 7), stride, s, half_value);
}

TEST_P(KernelsTest, MixRows) {
    for (int n = 1; n <= 70; ++n) check_mixes(k(), {1 + n % 4, n, 1 + n % 9});
    for (int n : {96, 100, 128, 130})
        for (int n_rows : {1, 2, 33})
            for (int n_x : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 25, 32, 37}) check_mixes(k(), {n_rows, n, n_x});
}

// Every half there is, by the vector path and by the tail: -0 + 1 * v is v, sign of zero included.
TEST_P(KernelsTest, EveryHalf) {
    std::vector<uint16_t> halves(65536);
    std::vector<float> values(65536);
    for (size_t i = 0; i < halves.size(); ++i) {
        halves[i] = uint16_t(i);
        values[i] = half_value(uint16_t(i));
    }
    const float one = 1.0f;
    std::vector<float> out(65536, -0.0f);
    k().mix_rows_f16(halves.data(), 0, 1, 65536, &one, 0, 1, out.data(), 0);
    EXPECT_TRUE(same_bits(out, values));
    out.assign(65536, -0.0f);
    for (int i = 0; i < 65536; i += 4) k().mix_rows_f16(&halves[size_t(i)], 0, 1, 4, &one, 0, 1, &out[size_t(i)], 0);
    EXPECT_TRUE(same_bits(out, values));
    out.assign(65536, -0.0f);
    const std::vector<float> ones(4, 1.0f);  // the path of several vectors
    for (int i = 0; i < 65536; i += 4096) {
        std::vector<float> four(4 * 4096, -0.0f);
        k().mix_rows_f16(&halves[size_t(i)], 0, 1, 4096, ones.data(), 1, 4, four.data(), 4096);
        for (size_t j = 0; j < 4; ++j)
            ASSERT_TRUE(same_bits(std::vector<float>(four.begin() + long(j) * 4096, four.begin() + long(j + 1) * 4096),
                                  std::vector<float>(values.begin() + i, values.begin() + i + 4096)));
    }
}

// Infinities and NaNs of every format reach the result.
TEST_P(KernelsTest, DotRowsSpecial) {
    for (int n : {1, 16, 19, 48})
        for (uint16_t bits : {0x7c00, 0xfc00, 0x7e01, 0x7c01, 0x0001, 0x8000}) {
            std::vector<uint16_t> rows(size_t(n) * 4, 0x3c00);
            rows[size_t(n) - 1] = bits;
            rows[size_t(n) * 2] = bits;
            check_dot(k().dot_rows_f16, rows, size_t(n), {4, n, 2}, half_value);
            check_dot(k().dot_rows_f16, rows, size_t(n), {4, n, 1}, half_value);
        }
    for (int n : {1, 16, 19, 48})
        for (uint16_t bits : {0x7f80, 0xff80, 0x7fc1, 0x0001, 0x8000}) {
            std::vector<uint16_t> rows(size_t(n) * 4, 0x3f80);
            rows[size_t(n) - 1] = bits;
            rows[size_t(n) * 2] = bits;
            check_dot(k().dot_rows_bf16, rows, size_t(n), {4, n, 3}, bfloat_value);
            check_dot(k().dot_rows_bf16, rows, size_t(n), {4, n, 1}, bfloat_value);
        }
}

// Numbers whose sum depends on the order, worked out by hand.
TEST_P(KernelsTest, LaneOrder) {
    std::vector<float> ones(48, 1.0f), x(48, 0.0f);
    x[0] = 1e8f, x[16] = 1.0f, x[32] = -1e8f;  // one lane: (1e8 + 1) - 1e8 = 0
    float out;
    k().dot_rows_f32(x.data(), 48, 1, 48, ones.data(), 48, 1, &out, 1);
    EXPECT_EQ(out, 0.0f);
    std::fill(x.begin(), x.end(), 0.0f);
    x[0] = 1e8f, x[8] = -1e8f, x[1] = 1.0f;  // lanes 0 and 8 meet first: 0 + 1 = 1
    k().dot_rows_f32(x.data(), 48, 1, 48, ones.data(), 48, 1, &out, 1);
    EXPECT_EQ(out, 1.0f);
}

}  // namespace
}  // namespace bitnet
