// Section 12 of the header: the logits of two engines. Expected numbers are worked out by hand or in long double; numpy
// has its say in tests/cli/crossval/test_metrics.py.
#include <cmath>
#include <limits>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

struct Compared {
    bitnet_logits_row_t row = make<bitnet_logits_row_t>();
    bitnet_logits_summary_t summary = make<bitnet_logits_summary_t>();
};

Compared compare(const std::vector<float> &a, const std::vector<float> &b,
                 const bitnet_logits_limits_t *limits = nullptr) {
    Compared out;
    EXPECT_EQ(a.size(), b.size());
    EXPECT_OK(bitnet_compare_logits(a.data(), b.data(), 1, a.size(), limits, &out.row, &out.summary));
    return out;
}

bitnet_logits_limits_t preset(const char *name) {
    auto limits = make<bitnet_logits_limits_t>();
    EXPECT_OK(bitnet_compare_preset(name, &limits)) << name;
    return limits;
}

// Limits of which one alone counts.
bitnet_logits_limits_t only(uint32_t metric) {
    auto limits = make<bitnet_logits_limits_t>();
    limits.judged = metric;
    return limits;
}

TEST(CompareMetrics, OfASmallRow) {
    // d = (1, -2, 0, 0), |a|^2 = 1+4+9+16 = 30, |b|^2 = 0+16+9+16 = 41, ab = 0+8+9+16 = 33
    const Compared c = compare({1, 2, 3, 4}, {0, 4, 3, 4});
    EXPECT_EQ(c.row.n, 4u);
    EXPECT_DOUBLE_EQ(c.row.cosine, 33 / std::sqrt(30.0 * 41.0));
    EXPECT_DOUBLE_EQ(c.row.l2, std::sqrt(5.0));
    EXPECT_EQ(c.row.max_abs, 2);
    EXPECT_EQ(c.row.worst_index, 1u);
    EXPECT_EQ(c.row.worst_a, 2);
    EXPECT_EQ(c.row.worst_b, 4);
    EXPECT_DOUBLE_EQ(c.row.mse, 1.25);
    EXPECT_DOUBLE_EQ(c.row.nmse, 5.0 / 30);
    EXPECT_DOUBLE_EQ(c.row.rms_difference, std::sqrt(1.25));
    EXPECT_EQ(c.row.top1_a, 3);
    EXPECT_EQ(c.row.top1_b, 1);  // ties to the lowest index
    EXPECT_EQ(c.row.top1_lead, 2);
    long double za = 0, zb = 0, kl = 0;
    const long double a[] = {1, 2, 3, 4}, b[] = {0, 4, 3, 4};
    for (int i = 0; i < 4; ++i) za += std::exp(a[i]), zb += std::exp(b[i]);
    for (int i = 0; i < 4; ++i) kl += std::exp(a[i]) / za * (a[i] - std::log(za) - b[i] + std::log(zb));
    EXPECT_NEAR(c.row.kl, double(kl), 1e-15);
    EXPECT_EQ(c.row.measured, BITNET_METRIC_ALL & ~BITNET_METRIC_MEAN_KL);
    EXPECT_EQ(c.summary.kl_mean, c.row.kl);
    EXPECT_EQ(c.summary.cosine_least, c.row.cosine);
}

TEST(CompareMetrics, TopKOverlap) {
    auto limits = only(BITNET_METRIC_TOP_K);
    limits.top_k = 3;
    limits.top_k_min = 0.6;
    // {0, 1, 2} and {1, 2, 5} of the rows below.
    const std::vector<float> a = {9, 8, 7, 1, 2, 3}, b = {1, 8, 9, 0, 2, 7};
    EXPECT_DOUBLE_EQ(compare(a, b, &limits).row.top_k, 2.0 / 3);
    EXPECT_EQ(compare(a, b, &limits).summary.verdict, BITNET_COMPARE_MATCH);
    limits.top_k_min = 0.7;
    EXPECT_EQ(compare(a, b, &limits).row.failed, BITNET_METRIC_TOP_K);
    limits.top_k = 100;  // more than there are: all of them
    EXPECT_EQ(compare(a, b, &limits).row.top_k, 1);
    limits.top_k = 4;  // {0, 1, 2, 5} and {1, 2, 4, 5}
    EXPECT_DOUBLE_EQ(compare(a, b, &limits).row.top_k, 3.0 / 4);
    limits.top_k = 0;  // 5: {0, 1, 2, 3, 4} and {1, 2, 3, 4, 5}
    EXPECT_DOUBLE_EQ(compare({9, 8, 7, 6, 5, 4}, {0, 8, 7, 6, 5, 4}, &limits).row.top_k, 4.0 / 5);
}

TEST(CompareMetrics, EqualRowsAreExactlyEqual) {
    std::vector<float> a;
    for (int i = 0; i < 1001; ++i) a.push_back(float(std::sin(i) * 17.3));
    for (int32_t i = 0; bitnet_compare_preset_name(i); ++i) {
        const auto limits = preset(bitnet_compare_preset_name(i));
        const Compared c = compare(a, a, &limits);
        EXPECT_EQ(c.row.cosine, 1) << bitnet_compare_preset_name(i);
        EXPECT_EQ(c.row.l2 + c.row.max_abs + c.row.mse + c.row.nmse + c.row.kl + c.row.top1_lead, 0);
        EXPECT_EQ(c.row.top_k, 1);
        EXPECT_EQ(c.summary.verdict, BITNET_COMPARE_MATCH);
        EXPECT_EQ(c.row.failed | c.row.warned, 0u);
    }
}

TEST(CompareMetrics, Zeros) {
    const std::vector<float> zeros(8, 0), ones(8, 1);
    EXPECT_EQ(compare(zeros, zeros).row.cosine, 1);
    EXPECT_EQ(compare(zeros, zeros).row.nmse, 0);
    EXPECT_EQ(compare(zeros, zeros).summary.verdict, BITNET_COMPARE_MATCH);
    EXPECT_EQ(compare(zeros, ones).row.cosine, 0);
    EXPECT_EQ(compare(zeros, ones).row.nmse, std::numeric_limits<double>::infinity());
    EXPECT_EQ(compare(zeros, ones).summary.verdict, BITNET_COMPARE_DIVERGED);
    EXPECT_EQ(compare(ones, zeros).row.nmse, 1);
}

TEST(CompareMetrics, TheLargestAndSmallestFloatsDoNotOverflow) {
    const float most = std::numeric_limits<float>::max(), least = std::numeric_limits<float>::denorm_min();
    const Compared large = compare({most, -most}, {most, most});
    EXPECT_EQ(large.row.cosine, 0);
    EXPECT_DOUBLE_EQ(large.row.max_abs, 2 * double(most));
    EXPECT_DOUBLE_EQ(large.row.nmse, 2);
    EXPECT_TRUE(std::isfinite(large.row.kl));
    EXPECT_EQ(compare({least, 0}, {least, 0}).row.cosine, 1);
    EXPECT_EQ(compare({most, 1}, {most, 1}).row.kl, 0);
}

TEST(CompareNonfinite, OneSideBothSidesAndMasks) {
    const std::vector<float> good = {1, 2, 3, 4};
    for (const float bad : {nan_value, inf, -inf}) {
        const std::vector<float> other = {1, bad, 3, 4};
        for (const Compared &c : {compare(good, other), compare(other, good)}) {
            EXPECT_EQ(c.summary.verdict, BITNET_COMPARE_DIVERGED);
            EXPECT_EQ(c.row.failed & ~BITNET_METRIC_TOP1, BITNET_METRIC_FINITE);  // an Inf is the largest, too
            EXPECT_EQ(c.row.n_nonfinite, 1u);
            EXPECT_EQ(c.row.n, 3u);
            EXPECT_EQ(c.row.worst_index, 1u);
            EXPECT_EQ(c.row.cosine, 1);  // over what is left
        }
    }
    for (const float bad : {nan_value, inf}) {
        const std::vector<float> row = {1, bad, 3, 4};
        EXPECT_EQ(compare(row, row).summary.verdict, BITNET_COMPARE_DIVERGED) << "an engine's NaN is never right";
    }
    const std::vector<float> masked = {1, -inf, 3, 4};
    EXPECT_EQ(compare(masked, masked).summary.verdict, BITNET_COMPARE_MATCH);
    EXPECT_EQ(compare(masked, masked).row.n_masked, 1u);
    EXPECT_EQ(compare({-inf, -inf}, {-inf, -inf}).summary.verdict, BITNET_COMPARE_DIVERGED);
    EXPECT_EQ(compare({nan_value, nan_value}, {1, 2}).summary.verdict, BITNET_COMPARE_DIVERGED);
}

TEST(CompareNonfinite, CountsWhateverTheLimits) {
    auto limits = only(BITNET_METRIC_MAX_ABS);
    limits.max_abs_max = 1e30;
    EXPECT_EQ(compare({1, nan_value}, {1, 2}, &limits).summary.verdict, BITNET_COMPARE_DIVERGED);
}

// A value at the limit passes, the next one does not, and no other limit interferes.
TEST(CompareLimits, EachAlone) {
    const std::vector<float> a = {1, 2, 3, 4}, b = {0, 4, 3, 4};
    const bitnet_logits_row_t row = compare(a, b).row;
    const auto check = [&](uint32_t metric, double bitnet_logits_limits_t::*field, double value, double beyond) {
        auto limits = only(metric);
        limits.*field = value;
        EXPECT_EQ(compare(a, b, &limits).summary.verdict, BITNET_COMPARE_MATCH) << metric;
        limits.*field = std::nextafter(value, beyond);
        const Compared c = compare(a, b, &limits);
        EXPECT_EQ(c.summary.verdict, BITNET_COMPARE_DIVERGED) << metric;
        EXPECT_EQ(c.summary.failed, metric);
        EXPECT_EQ(c.summary.first_failed, metric == BITNET_METRIC_MEAN_KL ? 1u : 0u);
    };
    check(BITNET_METRIC_COSINE, &bitnet_logits_limits_t::cosine_min, row.cosine, 2);
    check(BITNET_METRIC_L2, &bitnet_logits_limits_t::l2_max, row.l2, 0);
    check(BITNET_METRIC_MAX_ABS, &bitnet_logits_limits_t::max_abs_max, row.max_abs, 0);
    check(BITNET_METRIC_MSE, &bitnet_logits_limits_t::mse_max, row.mse, 0);
    check(BITNET_METRIC_NMSE, &bitnet_logits_limits_t::nmse_max, row.nmse, 0);
    check(BITNET_METRIC_KL, &bitnet_logits_limits_t::kl_max, row.kl, 0);
    check(BITNET_METRIC_MEAN_KL, &bitnet_logits_limits_t::mean_kl_max, row.kl, 0);
    check(BITNET_METRIC_CLOSE, &bitnet_logits_limits_t::atol, 2, 0);
    check(BITNET_METRIC_CLOSE, &bitnet_logits_limits_t::rtol, 1, 0);  // |1 - 0| <= rtol * 1, |2 - 4| <= rtol * 2
    check(BITNET_METRIC_TOP1, &bitnet_logits_limits_t::top1_noise, row.top1_lead / row.rms_difference, 0);
}

TEST(CompareLimits, EitherOfTwo) {
    const std::vector<float> a = {1, 2, 3, 4}, b = {0, 4, 3, 4};
    auto limits = only(BITNET_METRIC_EITHER);
    limits.either_cosine_min = 0.5;
    EXPECT_EQ(compare(a, b, &limits).row.failed, 0u);
    limits.either_cosine_min = 1;
    EXPECT_EQ(compare(a, b, &limits).row.failed, BITNET_METRIC_EITHER);
    limits.either_max_abs_max = 2;
    EXPECT_EQ(compare(a, b, &limits).row.failed, 0u);
}

TEST(CompareLimits, AWarningIsNoDivergence) {
    const std::vector<float> a = {1, 0}, b = {1, 0.15f};  // cosine 0.98894, NMSE 2.25e-2
    auto limits = preset("bitnet");
    limits.judged = BITNET_METRIC_COSINE;
    const Compared c = compare(a, b, &limits);
    EXPECT_EQ(c.summary.verdict, BITNET_COMPARE_MATCH);
    EXPECT_EQ(c.row.warned, BITNET_METRIC_COSINE);
    EXPECT_EQ(c.summary.n_warned, 1u);
    EXPECT_EQ(compare(a, {1, 0.3f}, &limits).row.warned, 0u);  // 0.958: a divergence, no warning
}

TEST(ComparePresets, TheNumbersOfOthers) {
    EXPECT_EQ(preset("seed").cosine_min, 0.999);
    EXPECT_EQ(preset("seed").max_abs_max, 1e-4);
    EXPECT_EQ(preset("torch-f32").rtol, 1.3e-6);
    EXPECT_EQ(preset("torch-f16").rtol, 1e-3);
    EXPECT_EQ(preset("torch-bf16").rtol, 1.6e-2);
    EXPECT_EQ(preset("torch-bf16").atol, 1e-5);
    EXPECT_EQ(preset("polygraphy").l2_max, 1e-5);
    EXPECT_EQ(preset("polygraphy").cosine_min, 0.997);
    EXPECT_EQ(preset("ggml").nmse_max, 5e-4);
    EXPECT_EQ(preset("bitnet").mean_kl_max, 1e-2);
    EXPECT_EQ(preset("bitnet-same-class").mean_kl_max, 1e-3);
    auto trueno = preset("trueno");
    auto row = make<bitnet_logits_row_t>();
    row.measured = BITNET_METRIC_COSINE;
    for (const auto &[cosine, failed, warned] :
         {std::tuple(0.9951, false, false), {0.995, false, true}, {0.99, false, true}, {0.9899, true, false}}) {
        row.cosine = cosine;
        ASSERT_OK(bitnet_compare_rows(&row, 1, &trueno, nullptr));
        EXPECT_EQ(row.failed != 0, failed) << cosine;
        EXPECT_EQ(row.warned != 0, warned) << cosine;
    }
    auto msprobe = preset("msprobe");
    row.measured = BITNET_METRIC_COSINE | BITNET_METRIC_MAX_ABS | BITNET_METRIC_EITHER;
    for (const auto &[cosine, max_abs, failed] : {std::tuple(0.95, 0.0005, false),
                                                  {0.95, 0.5, true},
                                                  {0.995, 0.5, false},
                                                  {0.89, 0.0, true},
                                                  {1.0, 1.5, true}}) {
        row.cosine = cosine;
        row.max_abs = max_abs;
        ASSERT_OK(bitnet_compare_rows(&row, 1, &msprobe, nullptr));
        EXPECT_EQ(row.failed != 0, failed) << cosine << " " << max_abs;
    }
    auto limits = make<bitnet_logits_limits_t>();
    expect_error(bitnet_compare_preset("torch", &limits), BITNET_E_INVALID, {"\"torch\"", "torch-f32", "msprobe"});
    EXPECT_STREQ(bitnet_compare_preset_name(0), "bitnet");
    EXPECT_EQ(bitnet_compare_preset_name(10), nullptr);
    EXPECT_EQ(bitnet_compare_preset_name(-1), nullptr);
}

TEST(CompareSummary, GathersRowsInAnyWay) {
    constexpr size_t n_rows = 5, n_vocab = 64;
    std::vector<float> a(n_rows * n_vocab), b;
    for (size_t i = 0; i < a.size(); ++i) a[i] = float(std::sin(double(i) * 0.37) * 8);
    b = a;
    b[2 * n_vocab + 7] += 3;  // rows 2 and 4 differ
    b[4 * n_vocab + 9] -= 5;
    std::vector<bitnet_logits_row_t> rows(n_rows, make<bitnet_logits_row_t>());
    auto at_once = make<bitnet_logits_summary_t>(), gathered = at_once;
    ASSERT_OK(bitnet_compare_logits(a.data(), b.data(), n_rows, n_vocab, nullptr, rows.data(), &at_once));
    EXPECT_EQ(at_once.verdict, BITNET_COMPARE_DIVERGED);
    EXPECT_EQ(at_once.n_rows, n_rows);
    EXPECT_EQ(at_once.first_failed, rows[2].failed ? 2u : 4u);
    EXPECT_EQ(at_once.max_abs_largest, 5);
    EXPECT_DOUBLE_EQ(at_once.mse_mean, (9.0 + 25.0) / n_vocab / n_rows);
    std::vector<bitnet_logits_row_t> single(n_rows, make<bitnet_logits_row_t>());
    for (size_t i = 0; i < n_rows; ++i)
        ASSERT_OK(bitnet_compare_logits(&a[i * n_vocab], &b[i * n_vocab], 1, n_vocab, nullptr, &single[i], nullptr));
    ASSERT_OK(bitnet_compare_rows(single.data(), n_rows, nullptr, &gathered));
    EXPECT_EQ(std::memcmp(&at_once, &gathered, sizeof gathered), 0);
    EXPECT_EQ(std::memcmp(rows.data(), single.data(), n_rows * sizeof rows[0]), 0);
    auto without_rows = make<bitnet_logits_summary_t>();
    ASSERT_OK(bitnet_compare_logits(a.data(), b.data(), n_rows, n_vocab, nullptr, nullptr, &without_rows));
    EXPECT_EQ(std::memcmp(&at_once, &without_rows, sizeof gathered), 0);
}

TEST(CompareSummary, NothingComparedIsNoMatch) {
    const float one = 1;
    auto summary = make<bitnet_logits_summary_t>();
    ASSERT_OK(bitnet_compare_logits(&one, &one, 0, 1, nullptr, nullptr, &summary));
    EXPECT_EQ(summary.verdict, BITNET_COMPARE_NOTHING);
    EXPECT_TRUE(std::isnan(summary.cosine_least));
    ASSERT_OK(bitnet_compare_rows(nullptr, 0, nullptr, &summary));
    EXPECT_EQ(summary.verdict, BITNET_COMPARE_NOTHING);
    // A row of which nothing was measured that a limit asks for.
    auto row = make<bitnet_logits_row_t>();
    row.measured = BITNET_METRIC_MAX_ABS;
    ASSERT_OK(bitnet_compare_rows(&row, 1, nullptr, &summary));
    EXPECT_EQ(summary.verdict, BITNET_COMPARE_NOTHING);
    EXPECT_EQ(summary.unmeasured, preset("bitnet").judged);
}

TEST(CompareArguments, AreChecked) {
    const std::vector<float> a(8, 1);
    std::vector<bitnet_logits_row_t> rows(2, make<bitnet_logits_row_t>());
    const auto call = [&](const bitnet_logits_limits_t *limits) {
        return bitnet_compare_logits(a.data(), a.data(), 2, 4, limits, rows.data(), nullptr);
    };
    auto limits = make<bitnet_logits_limits_t>();
    limits.judged = 0x1000;
    expect_error(call(&limits), BITNET_E_INVALID, {"judged", "0x1000"});
    limits.judged = BITNET_METRIC_KL;
    limits.kl_max = std::nan("");
    expect_error(call(&limits), BITNET_E_INVALID, {"NaN"});
    limits.kl_max = 0;
    limits.top_k = -1;
    expect_error(call(&limits), BITNET_E_INVALID, {"top_k", "-1"});
    expect_error(bitnet_compare_logits(a.data(), a.data(), 1, 0, nullptr, nullptr, nullptr), BITNET_E_INVALID,
                 {"n_vocab", "0"});
    rows[1].struct_size = 4;
    expect_error(call(nullptr), BITNET_E_ABI, {"rows[1].struct_size", "4", "144"});
    rows[0].struct_size = 12;
    expect_error(call(nullptr), BITNET_E_ABI, {"rows[0].struct_size", "12"});
    auto summary = make<bitnet_logits_summary_t>();
    summary.struct_size = 8;
    expect_error(bitnet_compare_logits(a.data(), a.data(), 2, 4, nullptr, nullptr, &summary), BITNET_E_ABI,
                 {"summary"});
}

// Rows of a newer header: the stride is the caller's, what is behind our part stays.
TEST(CompareArguments, LargerRowsKeepTheirTail) {
    struct Larger {
        bitnet_logits_row_t row;
        uint64_t tail[2];
    } rows[2] = {};
    for (Larger &r : rows) r.row.struct_size = sizeof r, r.tail[0] = r.tail[1] = 77;
    const std::vector<float> a = {1, 2, 3, 4}, b = {1, 2, 3, 5};
    auto summary = make<bitnet_logits_summary_t>();
    ASSERT_OK(bitnet_compare_logits(a.data(), b.data(), 2, 2, nullptr, &rows[0].row, &summary));
    EXPECT_EQ(rows[0].row.max_abs, 0);
    EXPECT_EQ(rows[1].row.max_abs, 1);
    for (const Larger &r : rows) {
        EXPECT_EQ(r.row.struct_size, sizeof r);
        EXPECT_EQ(r.tail[0] + r.tail[1], 154u);
    }
}

}  // namespace
}  // namespace bitnet_test
