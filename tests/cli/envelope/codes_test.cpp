#include "abi/cli/envelope/codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace {

using namespace bitnet::envelope;

// The rule of the quantiser: round half to even of x * 127 / max|x|.
std::vector<int> codes_of(const std::vector<float> &row) {
    double largest = 0;
    for (const float x : row) largest = std::max(largest, std::abs(double(x)));
    std::vector<int> codes;
    for (const float x : row) codes.push_back(int(std::nearbyint(double(x) * 127 / largest)));
    return codes;
}

std::vector<float> random_row(size_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> row(n);
    for (float &x : row) x = normal(engine);
    return row;
}

size_t n_different(const std::vector<int> &a, const std::vector<int> &b) {
    size_t n = 0;
    for (size_t i = 0; i < a.size(); i++) n += a[i] != b[i] ? 1 : 0;
    return n;
}

TEST(Codes, OneFlipsByOne) {
    for (const size_t n : {2u, 3u, 64u, 256u, 6912u}) {
        for (uint64_t seed = 0; seed < 40; seed++) {
            const std::vector<float> row = random_row(n, unsigned(seed) + 7);
            std::vector<float> flipped = row;
            ASSERT_TRUE(flip_one_code(flipped.data(), n, seed));
            const std::vector<int> before = codes_of(row), after = codes_of(flipped);
            ASSERT_EQ(n_different(before, after), 1u) << n << " " << seed;
            for (size_t i = 0; i < n; i++) {
                ASSERT_EQ(row[i] != flipped[i], before[i] != after[i]);
                ASSERT_LE(std::abs(before[i] - after[i]), 1);
            }
        }
    }
}

TEST(Codes, TheFlippedOneIsNearItsTie) {
    const std::vector<float> row = random_row(2560, 1);
    double largest = 0, moved = 0;
    for (const float x : row) largest = std::max(largest, std::abs(double(x)));
    std::set<size_t> places;
    for (uint64_t seed = 0; seed < 64; seed++) {
        std::vector<float> flipped = row;
        flip_one_code(flipped.data(), flipped.size(), seed);
        for (size_t i = 0; i < row.size(); i++) {
            if (row[i] == flipped[i]) continue;
            places.insert(i);
            moved = std::max(moved, std::abs(double(row[i]) - double(flipped[i])) * 127 / largest);
        }
    }
    EXPECT_EQ(places.size(), 4u);  // of the four nearest each is somebody's
    EXPECT_LT(moved, 0.01);        // steps of a code; four of 2560 ties are at about 4 / 5120 at most
}

TEST(Codes, NothingToFlip) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (const std::vector<float> &row : {std::vector<float>{}, {0, 0, 0}, {1, -1, 1}, {infinity, 1, 2}}) {
        std::vector<float> flipped = row;
        EXPECT_FALSE(flip_one_code(flipped.data(), flipped.size(), 3));
        EXPECT_EQ(flipped, row);
    }
}

TEST(Codes, ATieItself) {
    const std::vector<float> row = {127, 2.5f, -40};
    for (uint64_t seed = 0; seed < 8; seed++) {
        std::vector<float> flipped = row;
        ASSERT_TRUE(flip_one_code(flipped.data(), flipped.size(), seed));
        EXPECT_EQ(n_different({127, 2, -40}, codes_of(flipped)), 1u);
    }
}

TEST(Codes, RoundedOtherwiseIsAFewUnits) {
    const std::vector<float> row = random_row(512, 2);
    std::set<float> factors;
    for (uint64_t seed = 0; seed < 64; seed++) {
        std::vector<float> rounded = row;
        round_otherwise(rounded.data(), rounded.size(), seed);
        EXPECT_NE(rounded, row);
        for (size_t i = 0; i < row.size(); i++) ASSERT_LE(std::abs(rounded[i] - row[i]), 3e-7f * std::abs(row[i]));
        factors.insert(rounded[0] / row[0]);
    }
    EXPECT_GE(factors.size(), 3u);
}

TEST(Codes, HeldCodesAreTheEnginesOwn) {
    for (unsigned seed = 0; seed < 20; seed++) {
        const std::vector<float> own = random_row(2560, seed);
        for (const float noise : {1e-7f, 1e-4f, 1e-2f}) {
            std::vector<float> row = own;
            const std::vector<float> random = random_row(own.size(), seed + 100);
            for (size_t i = 0; i < row.size(); i++) row[i] += noise * random[i];
            const bool differed = n_different(codes_of(own), codes_of(row)) > 0;
            EXPECT_TRUE(differed || noise < 1e-6f);
            const std::vector<float> before = row;
            hold_codes(row.data(), own.data(), own.size());
            EXPECT_EQ(codes_of(row), codes_of(own));
            size_t n_kept = 0;
            for (size_t i = 0; i < row.size(); i++) {
                ASSERT_TRUE(row[i] == before[i] || row[i] == own[i]);
                n_kept += row[i] == before[i] ? 1 : 0;
            }
            EXPECT_GT(n_kept, noise < 1e-3f ? own.size() * 9 / 10 : 0);
        }
    }
}

}  // namespace
