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

// Every version that this CPU can run.
std::vector<RowCpu> usable_cpus() {
    std::vector<RowCpu> usable;
    for (RowCpu cpu : {RowCpu::plain, RowCpu::avx2, RowCpu::avx512}) {
        if (row_use_cpu(cpu)) usable.push_back(cpu);
    }
    return usable;
}

class Services : public testing::TestWithParam<RowCpu> {
protected:
    void SetUp() override { ASSERT_TRUE(row_use_cpu(GetParam())); }
    void TearDown() override { row_use_cpu(usable_cpus().back()); }
};

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
    uint32_t first_nonfinite = UINT32_MAX;
    std::vector<double> finite;
    std::vector<uint32_t> order;
    for (uint32_t i = 0; i < values.size(); ++i) {
        n_nan += std::isnan(values[i]);
        n_inf += std::isinf(values[i]);
        n_zero += values[i] == 0;
        if (std::isfinite(values[i]))
            finite.push_back(values[i]);
        else if (first_nonfinite == UINT32_MAX)
            first_nonfinite = i;
        if (!std::isnan(values[i])) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return std::fabs(values[a]) > std::fabs(values[b]); });
    EXPECT_EQ(stats.n, values.size());
    EXPECT_EQ(stats.n_nan, n_nan);
    EXPECT_EQ(stats.n_inf, n_inf);
    EXPECT_EQ(stats.n_zero, n_zero);
    EXPECT_EQ(stats.nonfinite_index, first_nonfinite);
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
    if (finite.empty()) return;
    // Of +0 and -0, the first one.
    EXPECT_EQ(std::signbit(stats.min), std::signbit(values[stats.min_index]));
    EXPECT_EQ(std::signbit(stats.max), std::signbit(values[stats.max_index]));
}

constexpr size_t kSizes[] = {0, 1, 3, 7, 8, 9, 63, 64, 65, 127, 128, 200, 1000, 2560, 6912};

TEST_P(Services, StatsEqualAPlainRecomputation) {
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

TEST_P(Services, StatsOfExtremes) {
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

TEST_P(Services, SketchEqualsANaiveOne) {
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
TEST_P(Services, DocumentedVectors) {
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

TEST_P(Services, SketchEstimatesDistances) {
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

TEST_P(Services, MultisetIgnoresOrderOnly) {
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

TEST_P(Services, Blake3IsOfTheRawBytes) {
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

// Every length of up to some chunks, and longer ones around the ends of blocks, chunks, and trees of chunks.
TEST_P(Services, Blake3OfAnyLength) {
    std::mt19937 random(8);
    std::vector<uint8_t> bytes(600 * 1024 + 64);
    for (uint8_t &byte : bytes) byte = uint8_t(random());
    std::vector<size_t> lengths;
    for (size_t n = 0; n < 5200; ++n) lengths.push_back(n);
    for (size_t chunks = 5; chunks < 600; chunks += chunks < 70 ? 1 : 1 + random() % 20) {
        for (int off : {-64, -1, 0, 1, 63, 500}) lengths.push_back(chunks * 1024 + size_t(off));
    }
    for (size_t chunks : {127, 128, 129, 255, 256, 257, 511, 512, 513}) lengths.push_back(chunks * 1024 + 1);
    for (size_t n : lengths) {
        const uint8_t *row = bytes.data() + random() % 64;
        uint8_t hash[32], expected[32];
        row_blake3({row, n, BITNET_DTYPE_I8}, hash);
        blake3_hasher hasher;
        blake3_hasher_init(&hasher);
        blake3_hasher_update(&hasher, row, n);
        blake3_hasher_finalize(&hasher, expected, 32);
        ASSERT_EQ(memcmp(hash, expected, 32), 0) << n << " bytes";
    }
}

// Rows of all lengths together: those that share a pass, and those that are a tree of their own.
TEST_P(Services, Blake3OfManyRows) {
    std::mt19937 random(13);
    std::vector<uint8_t> bytes(400 * 1024);
    for (uint8_t &byte : bytes) byte = uint8_t(random());
    for (int trial = 0; trial < 200; ++trial) {
        std::vector<HashJob> jobs(random() % 150);
        std::vector<uint8_t> hashes(jobs.size() * 32 + 1);
        for (size_t i = 0; i < jobs.size(); ++i) {
            const size_t longest = random() % 50 == 0 ? 300000 : random() % 3 ? 5000 : 40000;
            jobs[i] = {bytes.data() + random() % 1000, random() % longest, &hashes[i * 32]};
        }
        blake3_of_many(jobs.data(), jobs.size());
        for (const HashJob &job : jobs) {
            uint8_t expected[32];
            blake3_hasher hasher;
            blake3_hasher_init(&hasher);
            blake3_hasher_update(&hasher, job.data, job.n_bytes);
            blake3_hasher_finalize(&hasher, expected, 32);
            ASSERT_EQ(memcmp(job.out, expected, 32), 0) << jobs.size() << " rows, one of " << job.n_bytes << " bytes";
        }
    }
}

// Decodes f16 by its definition.
double f16(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

TEST_P(Services, OtherDtypesAreConvertedFirst) {
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

TEST_P(Services, UnalignedRows) {
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

// What comes late is the next number above those that it must take the place of, and neither the largest nor the least.
TEST_P(Services, TheNextNumberTakesItsPlace) {
    for (size_t late : {63u, 64u, 70u, 150u, 199u}) {
        std::vector<int32_t> sums(200);
        for (size_t i = 0; i < sums.size(); ++i) sums[i] = int32_t(i % 3);
        for (size_t i = 0; i < 9; ++i) sums[3 * i] = i % 2 ? 1000 : -1000;
        sums[1] = 2000, sums[2] = -2000, sums[late] = 1001;
        std::vector<float> values(sums.begin(), sums.end());
        values[late] = std::nextafter(1000.0f, 2000.0f);
        bitnet_stats_t stats;
        row_stats({sums.data(), sums.size(), BITNET_DTYPE_I32}, &stats);
        expect_stats({sums.begin(), sums.end()}, stats);
        EXPECT_EQ(stats.top_index[2], late);
        row_stats(row_of(values), &stats);
        expect_stats(widen(values), stats);
        EXPECT_EQ(stats.top_index[2], late);
    }
}

INSTANTIATE_TEST_SUITE_P(EveryCpu, Services, testing::ValuesIn(usable_cpus()), [](const auto &test) {
    return std::string(test.param == RowCpu::plain ? "plain" : test.param == RowCpu::avx2 ? "avx2" : "avx512");
});

struct Results {
    uint64_t multiset;
    bitnet_stats_t stats;
    float sketch[64];

    Results(Row row, RowCpu cpu) {
        memset(this, 0, sizeof *this);
        EXPECT_TRUE(row_use_cpu(cpu));
        multiset = row_multiset(row);
        row_stats(row, &stats);
        row_sketch(row, sketch);
    }
};

// To the bit, on rows that are long, short, unaligned, constant, mostly zero, of both zeros, of ties, of extremes.
TEST(ServicesOfEveryCpu, GiveTheSameBits) {
    const std::vector<RowCpu> cpus = usable_cpus();
    std::mt19937 random(11);
    for (int trial = 0; trial < 1200; ++trial) {
        const size_t n = trial % 3 == 0 ? random() % 40 : random() % 1500;
        const int32_t dtypes[] = {BITNET_DTYPE_F32, BITNET_DTYPE_F16, BITNET_DTYPE_BF16, BITNET_DTYPE_I8,
                                  BITNET_DTYPE_I32};
        const int32_t dtype = dtypes[trial % 5];
        const size_t offset = random() % 4;
        std::vector<uint8_t> bytes(n * 4 + 4);
        const uint32_t kind = random() % 5;
        const uint32_t same = random();
        for (size_t i = 0; i < n; ++i) {
            uint32_t bits = random();
            if (kind == 1) bits = same;
            if (kind == 2) bits = bits % 3 ? 0 : bits << 31;  // zeros of both signs
            if (kind == 3) bits = bits % 7 ? 0x3f800000u | (bits & 0x80070000u) : bits & 0x7f7fffffu;
            if (kind == 4) bits = (bits & 0x81ffffffu) | 0x3e000000u;  // finite, and of one size
            memcpy(&bytes[offset + i * dtype_bytes(dtype)], reinterpret_cast<char *>(&bits) + (4 - dtype_bytes(dtype)),
                   dtype_bytes(dtype));
        }
        const Row row = {&bytes[offset], n, dtype};
        const Results plain(row, RowCpu::plain);
        for (RowCpu cpu : cpus) {
            const Results other(row, cpu);
            ASSERT_EQ(plain.multiset, other.multiset) << trial;
            ASSERT_EQ(memcmp(plain.sketch, other.sketch, sizeof plain.sketch), 0) << trial;
            ASSERT_EQ(memcmp(&plain.stats, &other.stats, sizeof plain.stats), 0)
                << trial << " n " << n << " kind " << kind;
        }
    }
    row_use_cpu(cpus.back());
}

TEST(ServicesOfEveryCpu, AreNotAlwaysThere) {
#if !defined(__x86_64__)
    EXPECT_FALSE(row_use_cpu(RowCpu::avx2));
    EXPECT_FALSE(row_use_cpu(RowCpu::avx512));
#endif
    EXPECT_TRUE(row_use_cpu(RowCpu::plain));
    row_use_cpu(usable_cpus().back());
}

}  // namespace
}  // namespace bitnet
