#include "core/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/math.h"
#include "core/sampler.h"

namespace bitnet {

namespace {

constexpr double infinity = __builtin_inf();
// The fields that bitnet_compare_logits always fills: of a row the mean has nothing to say.
constexpr uint32_t measured_of_row = BITNET_METRIC_ALL & ~BITNET_METRIC_MEAN_KL;

struct Preset {
    const char *name;
    bitnet_logits_limits_t limits;
};

// Two values, each off by up to three standard deviations of the difference: the same allowance as `bitnet diff` makes.
constexpr double top1_noise = 6;

constexpr bitnet_logits_limits_t empty() {
    bitnet_logits_limits_t limits{};
    limits.struct_size = sizeof limits;
    limits.cosine_min = limits.cosine_warn = limits.either_cosine_min = -1;
    limits.top1_noise = top1_noise;
    limits.top_k = default_top_k;
    return limits;
}

constexpr bitnet_logits_limits_t free_running(double mean_kl) {
    bitnet_logits_limits_t limits = empty();
    limits.judged = BITNET_METRIC_COSINE | BITNET_METRIC_NMSE | BITNET_METRIC_MEAN_KL | BITNET_METRIC_TOP1;
    limits.cosine_min = 0.97;
    limits.cosine_warn = 0.99;
    limits.nmse_max = 1e-2;
    limits.mean_kl_max = mean_kl;
    return limits;
}

constexpr bitnet_logits_limits_t cosine_and_max_abs(double cosine, double max_abs) {
    bitnet_logits_limits_t limits = empty();
    limits.judged = BITNET_METRIC_COSINE | BITNET_METRIC_MAX_ABS;
    limits.cosine_min = cosine;
    limits.max_abs_max = max_abs;
    return limits;
}

constexpr bitnet_logits_limits_t trueno() {
    bitnet_logits_limits_t limits = empty();
    limits.judged = BITNET_METRIC_COSINE;
    limits.cosine_min = 0.99;
    limits.cosine_warn = 0.9950000000000001;  // its "ok" begins above 0.995, which itself is a warning
    return limits;
}

constexpr bitnet_logits_limits_t polygraphy() {
    bitnet_logits_limits_t limits = empty();
    limits.judged = BITNET_METRIC_COSINE | BITNET_METRIC_L2;
    limits.cosine_min = 0.997;
    limits.l2_max = 1e-5;
    return limits;
}

constexpr bitnet_logits_limits_t close_to(double rtol, double atol) {
    bitnet_logits_limits_t limits = empty();
    limits.judged = BITNET_METRIC_CLOSE;
    limits.rtol = rtol;
    limits.atol = atol;
    return limits;
}

// Its number for matrix products: logits are one.
constexpr bitnet_logits_limits_t ggml() {
    bitnet_logits_limits_t limits = empty();
    limits.judged = BITNET_METRIC_NMSE;
    limits.nmse_max = 5e-4;
    return limits;
}

constexpr bitnet_logits_limits_t msprobe() {
    bitnet_logits_limits_t limits = cosine_and_max_abs(0.9, 1);
    limits.judged |= BITNET_METRIC_EITHER;
    limits.either_cosine_min = 0.99;
    limits.either_max_abs_max = 1e-3;
    return limits;
}

constexpr Preset presets[] = {
    {default_preset, free_running(1e-2)},
    {"bitnet-same-class", free_running(1e-3)},
    {"seed", cosine_and_max_abs(0.999, 1e-4)},
    {"trueno", trueno()},
    {"polygraphy", polygraphy()},
    {"torch-f32", close_to(1.3e-6, 1e-5)},
    {"torch-f16", close_to(1e-3, 1e-5)},
    {"torch-bf16", close_to(1.6e-2, 1e-5)},
    {"ggml", ggml()},
    {"msprobe", msprobe()},
};

// -Inf on both sides is a token that both engines forbid: nothing to compare.
bool is_masked(float x, float y) { return x == -__builtin_inff() && y == -__builtin_inff(); }
bool is_compared(float x, float y) { return std::isfinite(x) && std::isfinite(y); }

struct Sums {
    double aa = 0, bb = 0, ab = 0, dd = 0;
    float largest_a = 0, largest_b = 0;
};

Sums add_up(const float *a, const float *b, size_t n, const bitnet_logits_limits_t &limits, bitnet_logits_row_t &row) {
    Sums s;
    row.max_abs = -1;
    for (size_t i = 0; i < n; ++i) {
        if (!is_compared(a[i], b[i])) {
            if (is_masked(a[i], b[i])) {
                ++row.n_masked;
            } else if (row.n_nonfinite++ == 0) {
                row.worst_index = i;
            }
            continue;
        }
        const double x = double(a[i]), y = double(b[i]), d = std::fabs(x - y);
        s.largest_a = row.n == 0 ? a[i] : std::max(s.largest_a, a[i]);
        s.largest_b = row.n == 0 ? b[i] : std::max(s.largest_b, b[i]);
        ++row.n;
        s.aa += x * x;
        s.bb += y * y;
        s.ab += x * y;
        s.dd += d * d;
        if (d > limits.atol + limits.rtol * std::fabs(x)) ++row.n_not_close;
        if (d <= row.max_abs) continue;
        row.max_abs = d;
        if (row.n_nonfinite == 0) row.worst_index = i;
    }
    row.max_abs = std::max(row.max_abs, 0.0);
    return s;
}

double cosine_of(const Sums &s) {
    if (s.aa == 0 || s.bb == 0) return s.aa == s.bb ? 1 : 0;
    return std::clamp(s.ab / std::sqrt(s.aa * s.bb), -1.0, 1.0);  // sqrt(x * x) is x: equal rows give exactly 1
}

double divergence_of(const float *a, const float *b, size_t n, const Sums &s) {
    const double largest_a = double(s.largest_a), largest_b = double(s.largest_b);
    double sum_a = 0, sum_b = 0, sum = 0;
    for (size_t i = 0; i < n; ++i) {
        if (!is_compared(a[i], b[i])) continue;
        const double x = double(a[i]) - largest_a, y = double(b[i]) - largest_b, e = exp_f64(x);
        sum_a += e;
        sum_b += exp_f64(y);
        sum += e * (x - y);
    }
    // Rounding can make it negative where the true value is 0.
    return std::max(sum / sum_a - (log_f64(sum_a) - log_f64(sum_b)), 0.0);
}

double overlap(std::vector<int32_t> a, std::vector<int32_t> b) {
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    std::vector<int32_t> both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    return double(both.size()) / double(a.size());
}

uint32_t bit_if(bool bad, uint32_t metric) { return bad ? metric : 0; }

// A metric that is NaN passes no limit.
bool above(double value, double limit) { return !(value <= limit); }
bool below(double value, double limit) { return !(value >= limit); }

}  // namespace

const bitnet_logits_limits_t *find_preset(const char *name) {
    for (const Preset &preset : presets)
        if (std::strcmp(preset.name, name) == 0) return &preset.limits;
    return nullptr;
}

const char *preset_name(size_t index) { return index < std::size(presets) ? presets[index].name : nullptr; }

void measure_row(const float *a, const float *b, size_t n, const bitnet_logits_limits_t &limits,
                 bitnet_logits_row_t &row) {
    const uint32_t struct_size = row.struct_size;
    row = {};
    row.struct_size = struct_size;
    row.measured = measured_of_row;
    const Sums s = add_up(a, b, n, limits, row);
    row.worst_a = a[row.worst_index];
    row.worst_b = b[row.worst_index];
    row.cosine = cosine_of(s);
    row.l2 = std::sqrt(s.dd);
    row.mse = row.n ? s.dd / double(row.n) : 0;
    row.nmse = s.dd == 0 ? 0 : s.aa == 0 ? infinity : s.dd / s.aa;
    row.rms_difference = std::sqrt(row.mse);
    row.kl = row.n ? divergence_of(a, b, n, s) : 0;
    const int k = int(std::min(size_t(limits.top_k), n));
    const std::vector<int32_t> top_a = top_logits(a, int(n), k), top_b = top_logits(b, int(n), k);
    row.top_k = overlap(top_a, top_b);
    row.top1_a = top_a[0];
    row.top1_b = top_b[0];
    row.top1_lead = top_a[0] == top_b[0] ? 0 : double(a[top_a[0]]) - double(a[top_b[0]]);
}

void judge_row(const bitnet_logits_limits_t &limits, bitnet_logits_row_t &row) {
    const bool close_cosine = !below(row.cosine, limits.either_cosine_min);
    const bool close_values = !above(row.max_abs, limits.either_max_abs_max);
    const bool other_top = row.top1_a != row.top1_b && above(row.top1_lead, limits.top1_noise * row.rms_difference);
    const uint32_t bad =
        bit_if(below(row.cosine, limits.cosine_min), BITNET_METRIC_COSINE) |
        bit_if(above(row.l2, limits.l2_max), BITNET_METRIC_L2) |
        bit_if(above(row.max_abs, limits.max_abs_max), BITNET_METRIC_MAX_ABS) |
        bit_if(row.n_not_close > 0, BITNET_METRIC_CLOSE) | bit_if(above(row.mse, limits.mse_max), BITNET_METRIC_MSE) |
        bit_if(above(row.nmse, limits.nmse_max), BITNET_METRIC_NMSE) |
        bit_if(above(row.kl, limits.kl_max), BITNET_METRIC_KL) | bit_if(other_top, BITNET_METRIC_TOP1) |
        bit_if(below(row.top_k, limits.top_k_min), BITNET_METRIC_TOP_K) |
        bit_if(!close_cosine && !close_values, BITNET_METRIC_EITHER);
    row.failed = bad & limits.judged & row.measured & ~BITNET_METRIC_FINITE;
    // A row without a finite element says nothing in favour of either engine.
    row.failed |= bit_if(row.n_nonfinite > 0 || row.n == 0, BITNET_METRIC_FINITE) & row.measured;
    const uint32_t judged = limits.judged & row.measured & ~row.failed;
    row.warned = bit_if(below(row.cosine, limits.cosine_warn), BITNET_METRIC_COSINE) & judged;
}

void LogitsSummary::add(const bitnet_logits_row_t &row) {
    const auto has = [&](uint32_t metric) { return (row.measured & metric) != 0; };
    // fmin and fmax skip the NaN of the beginning; a row's own NaN is a failed row already.
    if (has(BITNET_METRIC_COSINE)) cosine_ = std::fmin(cosine_, row.cosine);
    if (has(BITNET_METRIC_L2)) l2_ = std::fmax(l2_, row.l2);
    if (has(BITNET_METRIC_MAX_ABS)) max_abs_ = std::fmax(max_abs_, row.max_abs);
    if (has(BITNET_METRIC_NMSE)) nmse_ = std::fmax(nmse_, row.nmse);
    if (has(BITNET_METRIC_KL)) kl_ = std::fmax(kl_, row.kl);
    if (has(BITNET_METRIC_MSE)) mse_.add(row.mse);
    if (has(BITNET_METRIC_KL)) mean_kl_.add(row.kl);
    if (has(BITNET_METRIC_TOP_K)) top_k_.add(row.top_k);
    if (has(BITNET_METRIC_TOP1) && row.top1_a == row.top1_b) ++counts_.n_top1_equal;
    const uint32_t wanted = limits_.judged;
    const uint32_t measured = has(BITNET_METRIC_KL) ? row.measured | BITNET_METRIC_MEAN_KL : row.measured;
    counts_.unmeasured |= wanted & ~measured;
    if (!(wanted & measured)) unjudged_row_ = true;
    if (row.failed && counts_.n_failed++ == 0) counts_.first_failed = counts_.n_rows;
    if (row.warned && !row.failed) ++counts_.n_warned;
    counts_.failed |= row.failed;
    counts_.warned |= row.warned;
    ++counts_.n_rows;
}

bitnet_logits_summary_t LogitsSummary::conclude() const {
    bitnet_logits_summary_t out = counts_;
    out.cosine_least = cosine_;
    out.l2_largest = l2_;
    out.max_abs_largest = max_abs_;
    out.mse_mean = mse_.value();
    out.nmse_largest = nmse_;
    out.kl_mean = mean_kl_.value();
    out.kl_largest = kl_;
    out.top_k_mean = top_k_.value();
    if (out.n_failed == 0) out.first_failed = out.n_rows;
    if ((limits_.judged & BITNET_METRIC_MEAN_KL) && mean_kl_.n > 0 && above(out.kl_mean, limits_.mean_kl_max))
        out.failed |= BITNET_METRIC_MEAN_KL;
    out.verdict = out.failed                         ? BITNET_COMPARE_DIVERGED
                  : out.n_rows == 0 || unjudged_row_ ? BITNET_COMPARE_NOTHING
                                                     : BITNET_COMPARE_MATCH;
    return out;
}

}  // namespace bitnet
