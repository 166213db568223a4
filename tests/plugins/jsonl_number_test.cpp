// The text of a number against the C library's, whose conversion is exact.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>

#include "plugins/output/number_text.h"

namespace bitnet {
namespace {

std::string ours(double value) {
    char text[kNumberBytes];
    const size_t n = number_text_of(value, text);
    EXPECT_LE(n, sizeof text);
    return std::string(text, n);
}

std::string theirs(double value) {
    char text[64];
    snprintf(text, sizeof text, "%.9g", value);
    return text;
}

// Returns how many were compared.
int compare(double value) {
    if (!std::isfinite(value)) return 0;
    char text[kNumberBytes + 1], expected[64];
    text[number_text_of(value, text)] = 0;
    snprintf(expected, sizeof expected, "%.9g", value);
    EXPECT_STREQ(text, expected) << std::hexfloat << value;
    return 1;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRandom = 300000;
#else
constexpr int kRandom = 5000000;
#endif

TEST(NumberText, RandomFloats) {
    std::mt19937_64 random(1);
    int n = 0;
    for (int i = 0; i < kRandom; ++i) n += compare(std::bit_cast<float>(uint32_t(random())));
    EXPECT_GT(n, kRandom * 9 / 10);
}

TEST(NumberText, RandomDoubles) {
    std::mt19937_64 random(2);
    int n = 0;
    for (int i = 0; i < kRandom; ++i) {
        const uint64_t bits = random();
        // Half of any size, half of sizes that statistics of f32 have.
        const uint64_t near = (bits & ~(uint64_t(0x7ff) << 52)) | (1023 - 160 + random() % 320) << 52;
        n += compare(std::bit_cast<double>(i % 2 ? bits : near));
    }
    EXPECT_GT(n, kRandom * 9 / 10);
}

// Halfway between two texts, as exactly as a double can be, and next to it.
TEST(NumberText, TiesAndTheirNeighbours) {
    std::mt19937_64 random(3);
    for (int i = 0; i < kRandom / 25; ++i) {
        const uint64_t digits = 100000000 + random() % 900000000;
        const int power = int(random() % 90) - 55;
        const double tie = strtod((std::to_string(digits) + "5e" + std::to_string(power)).c_str(), nullptr);
        compare(tie);
        compare(std::nextafter(tie, 0));
        compare(std::nextafter(tie, HUGE_VAL));
        compare(double(2 * digits + 1) / double(uint64_t(2) << random() % 14));  // exact ones
    }
}

TEST(NumberText, PowersOfTenAndTheirNeighbours) {
    for (int power = -330; power <= 308; ++power) {
        const double exact = strtod(("1e" + std::to_string(power)).c_str(), nullptr);
        double below = exact, above = exact;
        for (int i = 0; i < 40; ++i) {
            compare(below = std::nextafter(below, 0));
            compare(above = std::nextafter(above, HUGE_VAL));
        }
        compare(exact);
        compare(-exact * 9.99999999499999);
        compare(exact * 9.99999999500001);
    }
}

TEST(NumberText, Shapes) {
    const std::pair<double, const char *> cases[] = {{0.0, "0"},
                                                     {-0.0, "-0"},
                                                     {1, "1"},
                                                     {-1.5, "-1.5"},
                                                     {100, "100"},
                                                     {123456789, "123456789"},
                                                     {1234567890, "1.23456789e+09"},
                                                     {0.0001, "0.0001"},
                                                     {0.00001, "1e-05"},
                                                     {0.000099999999999, "0.0001"},
                                                     {999999999.5, "1e+09"},
                                                     {1e100, "1e+100"},
                                                     {5e-324, "4.94065646e-324"},
                                                     {1.7976931348623157e308, "1.79769313e+308"},
                                                     {0.1f, "0.100000001"},
                                                     {1e-45f, "1.40129846e-45"},
                                                     {3.4028234663852886e38, "3.40282347e+38"}};
    for (const auto &[value, text] : cases) {
        EXPECT_EQ(ours(value), text);
        EXPECT_EQ(theirs(value), text);
    }
}

}  // namespace
}  // namespace bitnet
