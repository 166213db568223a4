// The operations against their formulas in long double.
#include "core/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/cpu.h"

namespace bitnet {
namespace {

std::vector<float> random_floats(int n, uint32_t seed, float scale = 1.0f) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> x(static_cast<size_t>(n));
    for (float &v : x) v = normal(rng);
    return x;
}

double relative_l2(const std::vector<float> &got, const std::vector<long double> &exact) {
    long double d = 0, e = 0;
    for (size_t i = 0; i < got.size(); ++i) d += (got[i] - exact[i]) * (got[i] - exact[i]), e += exact[i] * exact[i];
    return double(std::sqrt(d / e));
}

TEST(Ops, RmsNorm) {
    for (int n : {128, 2560, 6912}) {
        const std::vector<float> x = random_floats(n, 1, 3.0f), w = random_floats(n, 2);
        std::vector<float> y(x.size());
        rms_norm(scalar::kernels, x.data(), w.data(), n, 1e-5f, y.data());
        long double sum = 0;
        for (float v : x) sum += (long double)v * v;
        std::vector<long double> exact(x.size());
        for (size_t i = 0; i < x.size(); ++i) exact[i] = x[i] / std::sqrt(sum / n + (long double)1e-5f) * w[i];
        EXPECT_LT(relative_l2(y, exact), 1e-7);
    }
}

TEST(Ops, QuantizeRowUsesTheFloorOfTheScale) {
    std::vector<float> tiny(16, 1e-9f);
    std::vector<int8_t> codes(16);
    int32_t sum = -1;
    EXPECT_EQ(quantize_row(scalar::kernels, tiny.data(), 16, codes.data(), sum), 127.0f / 1e-5f);
    EXPECT_EQ(sum, 0);
    std::vector<float> x = {0.5f, -2.0f, 1.0f, 0.25f};  // scale 63.5: 31.75, -127, 63.5 (tie to even: 64), 15.875
    EXPECT_EQ(quantize_row(scalar::kernels, x.data(), 4, codes.data(), sum), 63.5f);
    EXPECT_EQ(std::vector<int>(codes.begin(), codes.begin() + 4), (std::vector<int>{32, -127, 64, 16}));
    EXPECT_EQ(sum, -15);
}

TEST(Ops, ScaleAccumulatorsInPlace) {
    std::vector<int32_t> acc = {3, -7, 0, 877824};
    std::vector<float> out(4);
    scale_accumulators(scalar::kernels, acc.data(), 4, 63.5f, 1.25f, WeightScale::multiply, out.data());
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(out[i], (float(acc[i]) / 63.5f) * 1.25f);
    scale_accumulators(scalar::kernels, acc.data(), 4, 63.5f, 1.25f, WeightScale::divide, out.data());
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(out[i], (float(acc[i]) / 63.5f) / 1.25f);
    scale_accumulators(scalar::kernels, acc.data(), 4, 63.5f, 1.25f, WeightScale::none,
                       reinterpret_cast<float *>(acc.data()));
    EXPECT_EQ(reinterpret_cast<float *>(acc.data())[1], -7.0f / 63.5f);
}

TEST(Ops, RopeAnglesAreRoundedOnce) {
    for (int position : {0, 1, 17, 4095, 100000}) {
        std::vector<float> c(64), s(64);
        rope_angles(position, 128, 500000.0, RopeAngle::exact, c.data(), s.data());
        for (int i = 0; i < 64; ++i) {
            const long double angle = position * std::pow(500000.0L, -2.0L * i / 128);
            EXPECT_NEAR(c[size_t(i)], double(std::cos(angle)), 6.1e-8) << position << " " << i;
            EXPECT_NEAR(s[size_t(i)], double(std::sin(angle)), 6.1e-8) << position << " " << i;
        }
    }
}

TEST(Ops, RopeStepsDriftFromExact) {
    std::vector<float> c(64), s(64), c2(64), s2(64);
    rope_angles(4000, 128, 500000.0, RopeAngle::exact, c.data(), s.data());
    rope_angles(4000, 128, 500000.0, RopeAngle::steps_f32, c2.data(), s2.data());
    float worst = 0;
    for (size_t i = 0; i < 64; ++i) worst = std::max(worst, std::fabs(c[i] - c2[i]));
    EXPECT_GT(worst, 1e-6f);
    EXPECT_LT(worst, 1e-2f);
}

TEST(Ops, RopeOrders) {
    std::vector<float> c = {0.0f, 1.0f}, s = {1.0f, 0.0f};  // first pair turns by 90 degrees, second stays
    std::vector<float> x = {1, 2, 3, 4, 50};
    rope(x.data(), 1, 5, 4, RopeOrder::neox, c.data(), s.data());  // pairs (0,2), (1,3)
    EXPECT_EQ(x, (std::vector<float>{-3, 2, 1, 4, 50}));
    x = {1, 2, 3, 4, 50};
    rope(x.data(), 1, 5, 4, RopeOrder::norm, c.data(), s.data());  // pairs (0,1), (2,3)
    EXPECT_EQ(x, (std::vector<float>{-2, 1, 3, 4, 50}));
}

TEST(Ops, Softmax) {
    for (int n : {1, 5, 16, 17, 1000}) {
        std::vector<float> x = random_floats(n, 3, 5.0f);
        std::vector<long double> exact(x.size());
        long double sum = 0;
        for (size_t i = 0; i < x.size(); ++i) sum += exact[i] = std::exp((long double)x[i]);
        for (long double &e : exact) e /= sum;
        scalar::kernels.softmax(x.data(), n);
        EXPECT_LT(relative_l2(x, exact), 3e-7) << n;
    }
}

TEST(Ops, Activations) {
    const std::vector<float> g = random_floats(1000, 4, 2.0f), u = random_floats(1000, 5);
    const auto check = [&](Activation a, auto formula) {
        std::vector<float> y(g.size());
        ffn_activation(scalar::kernels, g.data(), u.data(), 1000, a, y.data());
        std::vector<long double> exact(g.size());
        for (size_t i = 0; i < g.size(); ++i) exact[i] = formula((long double)g[i]) * u[i];
        EXPECT_LT(relative_l2(y, exact), 3e-7) << int(a);
    };
    check(Activation::relu2, [](long double x) { return x > 0 ? x * x : 0.0L; });
    check(Activation::relu, [](long double x) { return x > 0 ? x : 0.0L; });
    check(Activation::silu, [](long double x) { return x / (1 + std::exp(-x)); });
    check(Activation::gelu, [](long double x) {
        return 0.5L * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846L) * (x + 0.044715L * x * x * x)));
    });
}

TEST(Ops, ActivationsKeepNan) {
    const float nan = std::nanf(""), one = 1.0f;
    for (Activation a : {Activation::relu2, Activation::relu, Activation::silu, Activation::gelu}) {
        float y = 0;
        ffn_activation(scalar::kernels, &nan, &one, 1, a, &y);
        EXPECT_TRUE(std::isnan(y)) << int(a);
    }
}

TEST(Ops, FloatTernaryRows) {
    const int n = 256;
    std::vector<uint8_t> codes(static_cast<size_t>(n) / 4);
    std::vector<int> w(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
        w[size_t(i)] = (i * 7 + i / 5) % 3 - 1;
        codes[size_t(i / 128 * 32 + i % 32)] |= uint8_t((w[size_t(i)] + 1) << (6 - i % 128 / 32 * 2));
    }
    TernaryMatrix m;
    m.codes = codes.data(), m.n_out = 1, m.n_in = n, m.scale = 1.25f;
    const std::vector<float> x = random_floats(n, 6);
    long double exact = 0;
    for (int i = 0; i < n; ++i) exact += (long double)x[size_t(i)] * w[size_t(i)];
    float y;
    float_ternary_rows(m, 0, 1, x.data(), WeightScale::multiply, &y);
    EXPECT_NEAR(y, double(exact) * 1.25, 1e-5);
}

}  // namespace
}  // namespace bitnet
