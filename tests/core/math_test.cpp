// Error bounds of our own functions, measured against long double libm, and conversions against the compiler's.
#include "core/math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace bitnet {
namespace {

double ulps(float got, long double exact) {
    const float nearest = float(exact);
    const float ulp = std::nextafter(std::fabs(nearest), std::numeric_limits<float>::infinity()) - std::fabs(nearest);
    return double(std::fabs((long double)got - exact) / ulp);
}

TEST(Math, ExpF32Within2Ulp) {
    double worst = 0;
    float at = 0;
    const uint32_t low = __builtin_bit_cast(uint32_t, 1e-8f), high = __builtin_bit_cast(uint32_t, 88.7f);
    for (uint32_t bits = low; bits < high; bits += 101)  // positive and negative floats, spread over every binade
        for (uint32_t sign : {0u, 0x80000000u}) {
            const float x = __builtin_bit_cast(float, bits | sign);
            if (x < -87.33f) continue;
            const double error = ulps(exp_f32(x), std::exp((long double)x));
            if (error > worst) worst = error, at = x;
        }
    RecordProperty("worst_ulp", std::to_string(worst));
    std::printf("exp_f32: worst error %.3f ulp at %.9g\n", worst, double(at));
    EXPECT_LT(worst, 1.5) << at;
}

TEST(Math, ExpF32Edges) {
    EXPECT_EQ(exp_f32(0.0f), 1.0f);
    EXPECT_EQ(exp_f32(-0.0f), 1.0f);
    EXPECT_EQ(exp_f32(-88.0f), 0.0f);
    EXPECT_EQ(exp_f32(-std::numeric_limits<float>::infinity()), 0.0f);
    EXPECT_EQ(exp_f32(89.0f), std::numeric_limits<float>::infinity());
    EXPECT_TRUE(std::isfinite(exp_f32(88.72f)));
    EXPECT_TRUE(std::isnan(exp_f32(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Math, ExpF64AndLogF64) {
    std::mt19937_64 rng(1);
    std::uniform_real_distribution<double> exponent(-700, 700), binade(-300, 300), mantissa(1, 2);
    double worst_exp = 0, worst_log = 0;
    for (int i = 0; i < 1000000; ++i) {
        const double x = exponent(rng);
        const long double e = std::exp((long double)x);
        worst_exp = std::max(worst_exp, double(std::fabs(((long double)exp_f64(x) - e) / e)));
        const double y = std::ldexp(mantissa(rng), int(binade(rng)));
        const long double l = std::log((long double)y);
        if (std::fabs(l) > 1e-3L) worst_log = std::max(worst_log, double(std::fabs(((long double)log_f64(y) - l) / l)));
    }
    std::printf("exp_f64: worst relative error %.3g; log_f64: %.3g\n", worst_exp, worst_log);
    EXPECT_LT(worst_exp, 4e-16);
    EXPECT_LT(worst_log, 4e-16);
    EXPECT_EQ(log_f64(1.0), 0.0);
    EXPECT_EQ(exp_f64(0.0), 1.0);
    EXPECT_EQ(exp_f64(-1000.0), 0.0);
    EXPECT_TRUE(std::isinf(exp_f64(1000.0)));
}

TEST(Math, SinCosF64) {
    std::mt19937_64 rng(2);
    double worst = 0;
    for (double range : {1.0, 100.0, 4096.0, 1570000.0}) {
        std::uniform_real_distribution<double> angle(-range, range);
        for (int i = 0; i < 300000; ++i) {
            const double x = angle(rng);
            double s, c;
            sin_cos_f64(x, s, c);
            worst = std::max({worst, double(std::fabs((long double)s - std::sin((long double)x))),
                              double(std::fabs((long double)c - std::cos((long double)x)))});
        }
    }
    std::printf("sin_cos_f64: worst absolute error %.3g up to 1.57e6\n", worst);
    EXPECT_LT(worst, 3e-16);
}

#if defined(__FLT16_MAX__)
#if defined(__aarch64__)
using Half = __fp16;  // as GCC 12 names it here
#else
using Half = _Float16;
#endif

TEST(Math, HalfToFloatIsExactForEveryHalf) {
    for (uint32_t h = 0; h < 65536; ++h) {
        Half f;
        const uint16_t bits = uint16_t(h);
        std::memcpy(&f, &bits, 2);
        const float expected = float(f), got = half_to_float(bits);
        if (std::isnan(expected))
            EXPECT_TRUE(std::isnan(got)) << h;
        else
            EXPECT_EQ(__builtin_bit_cast(uint32_t, got), __builtin_bit_cast(uint32_t, expected)) << h;
    }
}

TEST(Math, FloatToHalfRoundsToNearestEven) {
    const auto check = [](uint32_t bits) {
        const float x = __builtin_bit_cast(float, bits);
        if (std::isnan(x)) return;
        const Half h = Half(x);
        uint16_t expected;
        std::memcpy(&expected, &h, 2);
        ASSERT_EQ(float_to_half(x), expected) << std::hex << bits;
    };
    for (uint64_t bits = 0; bits < 0x100000000ull; bits += 4099) check(uint32_t(bits));
    for (uint32_t h = 0; h < 65536; ++h) {  // every half and its neighbours: exact values and ties
        const uint32_t b = __builtin_bit_cast(uint32_t, half_to_float(uint16_t(h)));
        for (uint32_t d : {0u, 1u, 0xffffffffu, 0x1000u, 0xfffu, 0x1001u}) check(b + d);
    }
}
#endif

}  // namespace
}  // namespace bitnet
