#include <gtest/gtest.h>

#include <algorithm>
#include <blake3.h>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "plugins/host/services.h"

namespace bitnet {
namespace {

// The definitions of plugins/TRACE_FORMAT.md once more, in the plainest way.
uint64_t naive_mix(uint64_t x) {
    uint64_t z = (x + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

std::vector<float> naive_sketch(const std::vector<double> &values) {
    std::vector<double> sums(64, 0.0);
    for (size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) continue;
        const uint64_t b = i / 64, p = i % 64;
        const bool minus = naive_mix(2 * b) >> p & 1;
        sums[p ^ (naive_mix(2 * b + 1) & 63)] += minus ? -values[i] : values[i];
    }
    return {sums.begin(), sums.end()};
}

std::vector<double> widen(const std::vector<float> &values) { return {values.begin(), values.end()}; }

Row row_of(const std::vector<float> &values) { return {values.data(), values.size(), BITNET_DTYPE_F32}; }

std::vector<float> random_values(size_t n, uint32_t seed, bool specials) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.3f, 2.0f);
    std::vector<float> values(n);
    for (float &v : values) {
        v = normal(random);
        const uint32_t kind = random() % 40;
        if (specials && kind == 0) v = std::numeric_limits<float>::quiet_NaN();
        if (specials && kind == 1) v = std::numeric_limits<float>::infinity();
        if (specials && kind == 2) v = -std::numeric_limits<float>::infinity();
        if (kind == 3) v = 0;
        if (kind == 4) v = -0.0f;
        if (kind == 5) v = 4.5f;  // ties
        if (kind == 6) v = -4.5f;
        if (kind == 7) v = 1e-41f;
    }
    return values;
}

void expect_stats(const std::vector<double> &values, const bitnet_stats_t &stats) {
    uint64_t n_nan = 0, n_inf = 0, n_zero = 0;
    std::vector<double> finite;
    std::vector<uint32_t> order;
    for (uint32_t i = 0; i < values.size(); ++i) {
        n_nan += std::isnan(values[i]);
        n_inf += std::isinf(values[i]);
        n_zero += values[i] == 0;
        if (std::isfinite(values[i])) finite.push_back(values[i]);
        if (!std::isnan(values[i])) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return std::fabs(values[a]) > std::fabs(values[b]); });
    EXPECT_EQ(stats.n, values.size());
    EXPECT_EQ(stats.n_nan, n_nan);
    EXPECT_EQ(stats.n_inf, n_inf);
    EXPECT_EQ(stats.n_zero, n_zero);
    ASSERT_EQ(stats.n_top, std::min<size_t>(8, order.size()));
    for (uint32_t i = 0; i < stats.n_top; ++i) {
        EXPECT_EQ(stats.top_index[i], order[i]) << i;
        EXPECT_EQ(stats.top_value[i], float(values[order[i]])) << i;
    }
    long double sum = 0, squares = 0, deviations = 0;
    for (double v : finite) sum += v, squares += (long double)v * v;
    const long double n = finite.empty() ? 1 : (long double)finite.size();
    for (double v : finite) deviations += (v - sum / n) * (v - sum / n);
    const double scale = std::sqrt(double(squares / n));
    EXPECT_NEAR(stats.mean, double(sum / n), 1e-13 * scale);
    EXPECT_NEAR(stats.rms, scale, 1e-13 * scale);
    EXPECT_NEAR(stats.l2, std::sqrt(double(squares)), 1e-13 * std::sqrt(double(squares)));
    EXPECT_NEAR(stats.std, std::sqrt(double(deviations / n)), 1e-12 * scale);
    const double min = finite.empty() ? 0 : *std::min_element(finite.begin(), finite.end());
    const double max = finite.empty() ? 0 : *std::max_element(finite.begin(), finite.end());
    EXPECT_EQ(stats.min, float(min));
    EXPECT_EQ(stats.max, float(max));
    EXPECT_EQ(stats.absmax, std::max(std::fabs(float(min)), std::fabs(float(max))));
    const auto first_of = [&](double wanted) {
        const auto at = std::find(values.begin(), values.end(), wanted);
        return finite.empty() ? 0u : uint32_t(at - values.begin());
    };
    EXPECT_EQ(stats.min_index, first_of(min));
    EXPECT_EQ(stats.max_index, first_of(max));
}

constexpr size_t kSizes[] = {0, 1, 3, 7, 8, 9, 63, 64, 65, 127, 128, 200, 1000, 2560, 6912};

TEST(Services, StatsEqualAPlainRecomputation) {
    for (size_t n : kSizes) {
        for (bool specials : {false, true}) {
            SCOPED_TRACE(testing::Message() << n << " elements, specials " << specials);
            const std::vector<float> values = random_values(n, uint32_t(n) + 1, specials);
            bitnet_stats_t stats;
            row_stats(row_of(values), &stats);
            expect_stats(widen(values), stats);
        }
    }
}

TEST(Services, StatsOfExtremes) {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    for (float fill : {nan, inf, -inf, 0.0f, -0.0f, 3.0e38f, 1e-45f}) {
        for (size_t n : {5, 64, 150}) {
            SCOPED_TRACE(testing::Message() << n << " times " << fill);
            const std::vector<float> values(n, fill);
            bitnet_stats_t stats;
            row_stats(row_of(values), &stats);
            expect_stats(widen(values), stats);
        }
    }
}

TEST(Services, SketchEqualsANaiveOne) {
    for (size_t n : kSizes) {
        for (bool specials : {false, true}) {
            const std::vector<float> values = random_values(n, uint32_t(n) + 9, specials);
            float sketch[64];
            row_sketch(row_of(values), sketch);
            EXPECT_EQ(std::vector<float>(sketch, sketch + 64), naive_sketch(widen(values))) << n;
        }
    }
}

// The vectors of plugins/TRACE_FORMAT.md.
TEST(Services, DocumentedVectors) {
    std::vector<float> ramp(130);
    for (size_t i = 0; i < ramp.size(); ++i) ramp[i] = float(i + 1);
    float sketch[64];
    row_sketch(row_of(ramp), sketch);
    EXPECT_EQ(sketch[0], -56.0f);
    EXPECT_EQ(sketch[1], 56.0f);
    EXPECT_EQ(sketch[2], -56.0f);
    EXPECT_EQ(sketch[63], -96.0f);
    EXPECT_EQ(row_multiset(row_of(ramp)), 0xc74fa5c6ae973261ull);
    EXPECT_EQ(row_multiset(row_of({0.0f})), 0xe220a8397b1dcdafull);
    EXPECT_EQ(row_multiset(row_of({1.0f})), 0x07bcdb394edd5adeull);
    EXPECT_EQ(row_multiset(row_of({-1.0f, 1.0f})), 0x3744d487483e21c8ull);
    const int8_t codes[] = {-127, 0, 127};
    EXPECT_EQ(row_multiset({codes, 3, BITNET_DTYPE_I8}), 0xdeb81d9218a8de80ull);
    EXPECT_EQ(naive_mix(0), 0xe220a8397b1dcdafull);
    EXPECT_EQ(naive_mix(1), 0x6e789e6aa1b965f4ull);
}

TEST(Services, SketchEstimatesDistances) {
    const std::vector<float> a = random_values(6912, 1, false);
    double sum = 0;
    constexpr int kTrials = 200;
    for (int trial = 0; trial < kTrials; ++trial) {
        std::vector<float> b = a;
        const std::vector<float> noise = random_values(b.size(), 100 + uint32_t(trial), false);
        double exact = 0;
        for (size_t i = 0; i < b.size(); ++i) {
            b[i] += 1e-3f * noise[i];
            exact += (double(b[i]) - a[i]) * (double(b[i]) - a[i]);
        }
        float sa[64], sb[64];
        row_sketch(row_of(a), sa);
        row_sketch(row_of(b), sb);
        double estimate = 0;
        for (int i = 0; i < 64; ++i) estimate += (double(sa[i]) - sb[i]) * (double(sa[i]) - sb[i]);
        const double error = std::sqrt(estimate / exact) - 1;
        sum += error * error;
    }
    EXPECT_LT(std::sqrt(sum / kTrials), 0.12);
    EXPECT_GT(std::sqrt(sum / kTrials), 0.05);  // it is an estimate, and the test can tell
}

TEST(Services, MultisetIgnoresOrderOnly) {
    std::vector<float> values = random_values(1000, 5, true);
    const uint64_t before = row_multiset(row_of(values));
    std::shuffle(values.begin(), values.end(), std::mt19937(3));
    EXPECT_EQ(row_multiset(row_of(values)), before);
    uint32_t bits;
    memcpy(&bits, &values[10], 4);
    bits ^= 1;
    memcpy(&values[10], &bits, 4);
    EXPECT_NE(row_multiset(row_of(values)), before);
}

TEST(Services, Blake3IsOfTheRawBytes) {
    uint8_t hash[32];
    row_blake3({"", 0, BITNET_DTYPE_F32}, hash);
    EXPECT_EQ(hash[0], 0xaf);  // the published hash of no bytes
    EXPECT_EQ(hash[31], 0x62);
    const std::vector<float> values = random_values(2560, 2, true);
    row_blake3(row_of(values), hash);
    uint8_t expected[32];
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    for (float v : values) blake3_hasher_update(&hasher, &v, 4);
    blake3_hasher_finalize(&hasher, expected, 32);
    EXPECT_EQ(memcmp(hash, expected, 32), 0);
}

// Decodes f16 by its definition.
double f16(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

TEST(Services, OtherDtypesAreConvertedFirst) {
    std::vector<uint16_t> halves(65536);
    std::vector<double> f16_values, bf16_values;
    for (uint32_t i = 0; i < 65536; ++i) {
        halves[i] = uint16_t(i * 40503u);  // every pattern once
        f16_values.push_back(f16(halves[i]));
        const uint32_t bits = uint32_t(halves[i]) << 16;
        float v;
        memcpy(&v, &bits, 4);
        bf16_values.push_back(v);
    }
    bitnet_stats_t stats;
    row_stats({halves.data(), halves.size(), BITNET_DTYPE_F16}, &stats);
    expect_stats(f16_values, stats);
    float sketch[64];
    row_sketch({halves.data(), halves.size(), BITNET_DTYPE_F16}, sketch);
    EXPECT_EQ(std::vector<float>(sketch, sketch + 64), naive_sketch(f16_values));
    row_sketch({halves.data(), 1000, BITNET_DTYPE_BF16}, sketch);
    bf16_values.resize(1000);
    EXPECT_EQ(std::vector<float>(sketch, sketch + 64), naive_sketch(bf16_values));

    std::mt19937 random(4);
    std::vector<int8_t> codes(777);
    std::vector<int32_t> sums(777);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = int8_t(random()), sums[i] = int32_t(random());
    row_stats({codes.data(), codes.size(), BITNET_DTYPE_I8}, &stats);
    expect_stats({codes.begin(), codes.end()}, stats);
    row_sketch({codes.data(), codes.size(), BITNET_DTYPE_I8}, sketch);
    EXPECT_EQ(std::vector<float>(sketch, sketch + 64), naive_sketch({codes.begin(), codes.end()}));
    row_stats({sums.data(), sums.size(), BITNET_DTYPE_I32}, &stats);
    expect_stats({sums.begin(), sums.end()}, stats);
    row_sketch({sums.data(), sums.size(), BITNET_DTYPE_I32}, sketch);
    EXPECT_EQ(std::vector<float>(sketch, sketch + 64), naive_sketch({sums.begin(), sums.end()}));
    uint64_t multiset = 0;
    for (int32_t v : sums) multiset += naive_mix(uint32_t(v));
    EXPECT_EQ(row_multiset({sums.data(), sums.size(), BITNET_DTYPE_I32}), multiset);
}

TEST(Services, UnalignedRows) {
    const std::vector<float> values = random_values(200, 6, false);
    std::vector<char> bytes(values.size() * 4 + 1);
    memcpy(bytes.data() + 1, values.data(), values.size() * 4);
    float a[64], b[64];
    row_sketch(row_of(values), a);
    row_sketch({bytes.data() + 1, values.size(), BITNET_DTYPE_F32}, b);
    EXPECT_EQ(memcmp(a, b, sizeof a), 0);
    bitnet_stats_t stats;
    row_stats({bytes.data() + 1, values.size(), BITNET_DTYPE_F32}, &stats);
    expect_stats(widen(values), stats);
}

}  // namespace
}  // namespace bitnet
