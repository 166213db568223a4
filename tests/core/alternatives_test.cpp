// Alternatives of the semantics by their formulas, on numbers that show them.
#include "core/alternatives.h"

#include <gtest/gtest.h>

#include <cmath>

#include "bitnet_c.h"
#include "core/ops.h"

namespace bitnet {
namespace {

std::shared_ptr<const Model> load(const std::string &overrides = "") {
    LoadOptions options;
    options.overrides = overrides;
    return Model::load(Mapping::map_file("tests/data/small.gguf"), options);
}

// One row of 128 codes packed by hand in every order.
TEST(Alternatives, CodesAreReadAsTheyWerePacked) {
    const auto model = load();
    const TernaryMatrix &w = model->layers[0].wq;
    std::vector<int8_t> unit(size_t(w.n_in), 0);
    const auto weight = [&](const Semantics &semantics, int row, int i) {
        unit.assign(unit.size(), 0);
        unit[size_t(i)] = 1;
        std::vector<int32_t> acc(size_t(w.n_out));
        Operations(*model, scalar::kernels, semantics, 0)
            .accumulate(BITNET_STAGE_Q_PROJ, unit.data(), 1, row, row + 1, acc.data());
        return acc[size_t(row)];
    };
    const int values[6][3] = {{-1, 0, 1}, {-1, 1, 0}, {0, -1, 1}, {0, 1, -1}, {1, -1, 0}, {1, 0, -1}};
    for (int row : {0, 5})
        for (int i : {0, 1, 31, 32, 63, 64, 100, 127, 128, 255}) {
            const uint8_t *bytes = w.codes + size_t(row) * size_t(w.n_in) / 4;
            const struct {
                const char *text;
                int byte, shift;
            } places[] = {{"i2s=block128", i / 128 * 32 + i % 32, 6 - i % 128 / 32 * 2},
                          {"i2s=block64", i / 64 * 16 + i % 16, 6 - i % 64 / 16 * 2},
                          {"i2s=block32", i / 32 * 8 + i % 8, 6 - i % 32 / 8 * 2},
                          {"i2s=sequential", i / 4, 6 - i % 4 * 2},
                          {"i2s=sequential,i2s_bits=low_first", i / 4, i % 4 * 2},
                          {"i2s_bits=low_first", i / 128 * 32 + i % 32, i % 128 / 32 * 2}};
            for (const auto &place : places) {
                const int code = bytes[place.byte] >> place.shift & 3;
                int n = 0;
                for (const char *map : {"-0+", "-+0", "0-+", "0+-", "+-0", "+0-"}) {
                    Semantics semantics;
                    apply_overrides(semantics, std::string(place.text) + ",i2s_map=" + map);
                    EXPECT_EQ(weight(semantics, row, i), values[n][code]) << place.text << " " << map << " " << i;
                    ++n;
                }
            }
        }
}

// The same bytes whether the model was loaded as blocks of 64, which rearranges them, or not.
TEST(Alternatives, CodesOfARearrangedModel) {
    const auto plain = load(), rearranged = load("i2s=block64");
    for (const char *text : {"i2s=block128", "i2s=block32", "i2s=block64,i2s_bits=low_first", "i2s=block64"}) {
        Semantics semantics;
        apply_overrides(semantics, text);
        std::vector<int8_t> codes(256);
        for (int i = 0; i < 256; ++i) codes[size_t(i)] = int8_t(i * 37 % 255 - 127);
        std::vector<int32_t> a(256), b(256);
        Operations(*plain, scalar::kernels, semantics, 1)
            .accumulate(BITNET_STAGE_Q_PROJ, codes.data(), 1, 0, 256, a.data());
        Operations(*rearranged, scalar::kernels, semantics, 1)
            .accumulate(BITNET_STAGE_Q_PROJ, codes.data(), 1, 0, 256, b.data());
        EXPECT_EQ(a, b) << text;
    }
}

TEST(Alternatives, AccumulatorsOf16BitsWrap) {
    const auto model = load();
    Semantics wraps;
    apply_overrides(wraps, "acc=int16");
    // Codes of the signs of the weights: the largest sum that there is, 127 times the number of weights that are not 0.
    const Operations exact(*model, scalar::kernels, model->semantics, 0), wrapping(*model, scalar::kernels, wraps, 0);
    const TernaryMatrix &w = exact.matrix(BITNET_STAGE_FFN_OUT);
    std::vector<int8_t> codes(size_t(w.n_in), 0);
    for (int i = 0; i < w.n_in; ++i)
        codes[size_t(i)] = int8_t(127 * ((w.codes[i / 128 * 32 + i % 32] >> (6 - i % 128 / 32 * 2) & 3) - 1));
    std::vector<int32_t> a(size_t(w.n_out)), b(size_t(w.n_out));
    exact.accumulate(BITNET_STAGE_FFN_OUT, codes.data(), 1, 0, w.n_out, a.data());
    wrapping.accumulate(BITNET_STAGE_FFN_OUT, codes.data(), 1, 0, w.n_out, b.data());
    ASSERT_GT(a[0], 32767);
    EXPECT_EQ(b[0], (a[0] + 32768) % 65536 - 32768);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ((a[i] - b[i]) % 65536, 0);
}

TEST(Alternatives, QuantisersByHand) {
    const auto model = load();
    // 64 elements a row: the first row's largest is 4 in its first half and 1 in its second, the second row's is 0.5.
    std::vector<float> x(128, 0.0f);
    x[0] = -4.0f, x[1] = 1.0f, x[2] = 0.5f * 4 / 127, x[32] = 1.0f, x[33] = 0.75f, x[64] = 0.5f, x[65] = -0.25f;
    const auto quantise = [&](const char *text, std::vector<float> &scales) {
        Semantics semantics;
        apply_overrides(semantics, text);
        const Operations ops(*model, scalar::kernels, semantics, 0);
        std::vector<int8_t> codes(128);
        scales.assign(size_t(2 * ops.scales_per_row(64)), 0.0f);
        ops.quantize(x.data(), 2, 64, codes.data(), scales.data());
        return codes;
    };
    std::vector<float> scales;
    std::vector<int8_t> codes = quantise("", scales);
    EXPECT_EQ(scales, (std::vector<float>{127.0f / 4, 127.0f / 0.5f}));
    EXPECT_EQ(codes[1], 32);   // 31.75
    EXPECT_EQ(codes[2], 0);    // 0.5: a tie, to even
    EXPECT_EQ(codes[33], 24);  // 23.8125
    EXPECT_EQ(codes[65], -64);
    codes = quantise("round=away", scales);
    EXPECT_EQ(codes[2], 1);
    EXPECT_EQ(codes[0], -127);
    codes = quantise("round=truncate", scales);
    EXPECT_EQ(codes[1], 31);
    EXPECT_EQ(codes[33], 23);
    EXPECT_EQ(codes[65], -63);  // -63.5
    codes = quantise("quant=tensor_int8", scales);
    EXPECT_EQ(scales, (std::vector<float>{127.0f / 4, 127.0f / 4}));
    EXPECT_EQ(codes[64], 16);  // 15.875
    codes = quantise("quant=block32_int8", scales);
    EXPECT_EQ(scales, (std::vector<float>{127.0f / 4, 127.0f, 127.0f / 0.5f, 127.0f / 1e-5f}));
    EXPECT_EQ(codes[33], 95);  // 95.25
}

TEST(Alternatives, Bf16RoundsToEven) {
    EXPECT_EQ(round_bf16(1.0f), 1.0f);
    EXPECT_EQ(round_bf16(1.00390625f), 1.0f);       // 1 + 2^-8: a tie
    EXPECT_EQ(round_bf16(1.01171875f), 1.015625f);  // 1 + 3 * 2^-8: a tie
    EXPECT_EQ(round_bf16(-1.00390637f), -1.0078125f);
    EXPECT_TRUE(std::isnan(round_bf16(std::nanf(""))));
    EXPECT_EQ(round_bf16(3.4e38f), HUGE_VALF);
    EXPECT_EQ(round_bf16(-0.0f), 0.0f);
}

TEST(Alternatives, NormsByTheirFormulas) {
    const auto model = load();
    const int n = 256;
    std::vector<float> x(static_cast<size_t>(n)), y(x.size());
    for (int i = 0; i < n; ++i) x[size_t(i)] = 0.3f + std::sin(float(i));
    const float *w = model->layers[1].ffn_norm;
    double mean = 0, squares = 0, variance = 0;
    for (float v : x) mean += double(v) / n;
    for (float v : x) squares += double(v) * v / n, variance += (v - mean) * (v - mean) / n;
    const auto check = [&](const char *text, auto formula) {
        Semantics semantics;
        apply_overrides(semantics, text);
        Operations(*model, scalar::kernels, semantics, 1).norm(BITNET_STAGE_FFN_NORM, x.data(), 1, n, y.data());
        for (int i = 0; i < n; ++i)
            EXPECT_NEAR(y[size_t(i)], formula(double(x[size_t(i)]), double(w[i])), 1e-5) << text << " " << i;
    };
    check("", [&](double v, double weight) { return v / std::sqrt(squares + 1e-5) * weight; });
    check("norm=unweighted", [&](double v, double) { return v / std::sqrt(squares + 1e-5); });
    check("norm=weighted_twice",
          [&](double v, double weight) { return v / std::sqrt(squares + 1e-5) * weight * weight; });
    check("norm=centred", [&](double v, double weight) { return (v - mean) / std::sqrt(variance + 1e-5) * weight; });
    check("ffn_sub_norm=off,attn_sub_norm=off",
          [&](double v, double weight) { return v / std::sqrt(squares + 1e-5) * weight; });
}

}  // namespace
}  // namespace bitnet
