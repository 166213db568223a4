#include "abi/cli/crossval/limits.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <CLI/CLI.hpp>

#include "abi/cli/options.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

using Limits = bitnet_logits_limits_t;

struct Limit {
    const char *option;
    const char *help;
    uint32_t metric;
    double Limits::*field;
    bool at_least;  // the value must not be smaller
};

constexpr Limit all_limits[] = {
    {"--cos-tol", "Least cosine of a position", BITNET_METRIC_COSINE, &Limits::cosine_min, true},
    {"--cos-warn", "Cosine below which a position is a warning", BITNET_METRIC_COSINE, &Limits::cosine_warn, true},
    {"--l2-tol", "Largest L2 distance", BITNET_METRIC_L2, &Limits::l2_max, false},
    {"--max-abs", "Largest difference of two logits", BITNET_METRIC_MAX_ABS, &Limits::max_abs_max, false},
    {"--atol", "|a - b| <= atol + rtol |a| for each logit", BITNET_METRIC_CLOSE, &Limits::atol, false},
    {"--rtol", "The same", BITNET_METRIC_CLOSE, &Limits::rtol, false},
    {"--mse", "Largest mean squared difference", BITNET_METRIC_MSE, &Limits::mse_max, false},
    {"--nmse", "Largest |a - b|^2 / |a|^2", BITNET_METRIC_NMSE, &Limits::nmse_max, false},
    {"--kl", "Largest KL divergence of a position, nats", BITNET_METRIC_KL, &Limits::kl_max, false},
    {"--mean-kl", "Largest mean KL divergence of a prompt", BITNET_METRIC_MEAN_KL, &Limits::mean_kl_max, false},
    {"--top-k-min", "Least share of common ids among the k largest", BITNET_METRIC_TOP_K, &Limits::top_k_min, true},
};

struct Name {
    uint32_t metric;
    const char *name;
    const char *shown;
};

constexpr Name names[] = {
    {BITNET_METRIC_COSINE, "cosine", "cosine"},
    {BITNET_METRIC_L2, "l2", "L2"},
    {BITNET_METRIC_MAX_ABS, "max_abs", "max abs"},
    {BITNET_METRIC_CLOSE, "close", "atol/rtol"},
    {BITNET_METRIC_MSE, "mse", "MSE"},
    {BITNET_METRIC_NMSE, "nmse", "NMSE"},
    {BITNET_METRIC_KL, "kl", "KL"},
    {BITNET_METRIC_MEAN_KL, "mean_kl", "mean KL"},
    {BITNET_METRIC_TOP1, "top1", "top-1"},
    {BITNET_METRIC_TOP_K, "top_k", "top-k"},
    {BITNET_METRIC_EITHER, "either", "either"},
    {BITNET_METRIC_FINITE, "finite", "finite"},
};

const Name &name_of(uint32_t metric) {
    for (const Name &name : names)
        if (name.metric == metric) return name;
    throw CommandError(text_of("metric 0x%x has no name", metric));
}

// The limit of a metric that has one number and one option.
const Limit *limit_of(uint32_t metric) {
    if (metric == BITNET_METRIC_CLOSE) return nullptr;
    for (const Limit &limit : all_limits)
        if (limit.metric == metric) return &limit;
    return nullptr;
}

bool parse_limit(const std::string &text, double &value) {
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end && std::isfinite(value);
}

// Bits that --metrics can leave out.
uint32_t optional_metrics(const std::string &list) {
    uint32_t wanted = 0;
    for (size_t at = 0; at <= list.size();) {
        const size_t end = std::min(list.find(',', at), list.size());
        const std::string name = list.substr(at, end - at);
        at = end + 1;
        if (name == "mse") {
            wanted |= BITNET_METRIC_MSE | BITNET_METRIC_NMSE;
        } else if (name == "kl") {
            wanted |= BITNET_METRIC_KL | BITNET_METRIC_MEAN_KL;
        } else if (name == "topk") {
            wanted |= BITNET_METRIC_TOP1 | BITNET_METRIC_TOP_K;
        } else {
            throw CommandError(
                text_of("--metrics: found '%s', expected a list of mse, kl, topk", printable(name).c_str()));
        }
    }
    return wanted;
}

constexpr uint32_t leavable = BITNET_METRIC_MSE | BITNET_METRIC_NMSE | BITNET_METRIC_KL | BITNET_METRIC_MEAN_KL |
                              BITNET_METRIC_TOP1 | BITNET_METRIC_TOP_K;

}  // namespace

void LimitOptions::add_to(CLI::App &command, const std::string &preset_of_none) {
    std::vector<std::string> presets;
    for (int32_t i = 0; bitnet_compare_preset_name(i) != nullptr; i++) presets.push_back(bitnet_compare_preset_name(i));
    std::string list;
    for (const std::string &name : presets) list += (list.empty() ? "" : ", ") + name;
    command.add_option("--preset", preset, "Limits of the verdict: " + list + " (default " + preset_of_none + ")")
        ->type_name("NAME")
        ->check(one_of(presets));
    for (const Limit &limit : all_limits) {
        command.add_option(limit.option, values[limit.option], std::string(limit.help) + "; off: no limit")
            ->type_name("X")
            ->check(CLI::Validator(
                [](std::string &text) {
                    double value = 0;
                    const bool good = text == "off" || (parse_limit(text, value) && value >= -1);
                    return good ? std::string() : "found '" + printable(text) + "', expected a number, or off";
                },
                ""));
    }
    command
        .add_option("--top1", top1,
                    "exact: the same largest logit; noise: or a lead within 6 RMS differences; off: no limit")
        ->type_name("HOW")
        ->check(one_of({"exact", "noise", "off"}));
    command.add_option("--top-k", top_k, "How many of the largest logits top-k looks at (default 5)")
        ->type_name("K")
        ->check(whole_number_between(1, INT32_MAX));
    command
        .add_option("--metrics", metrics,
                    "What may be judged beside cosine, L2 and max abs: a list of mse, kl, topk (default: all)")
        ->type_name("LIST");
}

bool LimitOptions::given() const {
    const bool number = std::any_of(values.begin(), values.end(), [](auto &value) { return !value.second.empty(); });
    return !preset.empty() || number || !top1.empty() || top_k > 0 || !metrics.empty();
}

bitnet_logits_limits_t LimitOptions::resolved(const bitnet_logits_limits_t *base) const {
    Limits limits = {};
    limits.struct_size = sizeof limits;
    if (preset.empty() && base) {
        limits = *base;
    } else {
        check(bitnet_compare_preset(preset.empty() ? preset_default : preset.c_str(), &limits));
    }
    for (const Limit &limit : all_limits) {
        const std::string &text = values.at(limit.option);
        const bool is_warning = limit.field == &Limits::cosine_warn;
        if (text.empty()) continue;
        if (text == "off") {
            if (is_warning) {
                limits.cosine_warn = -1;
            } else {
                limits.judged &= ~limit.metric;
            }
            continue;
        }
        if (limit.metric == BITNET_METRIC_CLOSE && !(limits.judged & BITNET_METRIC_CLOSE))
            limits.atol = limits.rtol = 0;
        limits.judged |= limit.metric;
        parse_limit(text, limits.*limit.field);
    }
    if (top1 == "off") limits.judged &= ~BITNET_METRIC_TOP1;
    if (top1 == "exact") limits.top1_noise = -1;  // no lead, not even 0, is within it
    if (top1 == "exact" || top1 == "noise") limits.judged |= BITNET_METRIC_TOP1;
    if (top_k > 0) limits.top_k = top_k;
    if (!metrics.empty()) limits.judged &= ~(leavable & ~optional_metrics(metrics));
    if (limits.judged == 0) throw CommandError("every limit is off: nothing could be judged");
    return limits;
}

std::string metric_name(uint32_t metric) { return name_of(metric).name; }

std::vector<uint32_t> metric_bits(uint32_t metrics) {
    std::vector<uint32_t> bits;
    for (const Name &name : names)
        if (metrics & name.metric) bits.push_back(name.metric);
    return bits;
}

std::vector<std::string> metric_names(uint32_t metrics) {
    std::vector<std::string> list;
    for (const uint32_t metric : metric_bits(metrics)) list.push_back(metric_name(metric));
    return list;
}

uint32_t metric_of(const std::string &name) {
    for (const Name &known : names)
        if (name == known.name) return known.metric;
    return 0;
}

double metric_value(const bitnet_logits_row_t &row, uint32_t metric) {
    switch (row.measured & metric) {
    case BITNET_METRIC_COSINE: return row.cosine;
    case BITNET_METRIC_L2: return row.l2;
    case BITNET_METRIC_MAX_ABS: return row.max_abs;
    case BITNET_METRIC_MSE: return row.mse;
    case BITNET_METRIC_NMSE: return row.nmse;
    case BITNET_METRIC_KL: return row.kl;
    case BITNET_METRIC_TOP_K: return row.top_k;
    default: return NAN;
    }
}

double limit_value(const bitnet_logits_limits_t &limits, uint32_t metric) {
    const Limit *limit = limit_of(metric);
    return limit && (limits.judged & metric) ? limits.*limit->field : NAN;
}

bool set_limit(bitnet_logits_limits_t &limits, uint32_t metric, double value) {
    const Limit *limit = limit_of(metric);
    if (!limit) return false;
    limits.judged |= metric;
    limits.*limit->field = value;
    return true;
}

std::string limits_text(const bitnet_logits_limits_t &limits) {
    std::string text;
    for (const uint32_t metric : metric_bits(limits.judged)) {
        text += (text.empty() ? "" : ", ") + std::string(name_of(metric).shown);
        const Limit *limit = limit_of(metric);
        if (limit) text += text_of(limit->at_least ? " >= %g" : " <= %g", limits.*limit->field);
        if (metric == BITNET_METRIC_COSINE && limits.cosine_warn > limits.cosine_min)
            text += text_of(" (warning below %g)", limits.cosine_warn);
        if (metric == BITNET_METRIC_CLOSE) text += text_of(" %g/%g", limits.atol, limits.rtol);
        if (metric == BITNET_METRIC_TOP1)
            text += limits.top1_noise < 0 ? " equal" : text_of(" equal or within %g RMS", limits.top1_noise);
        if (metric == BITNET_METRIC_EITHER)
            text += text_of(" cosine >= %g or max abs <= %g", limits.either_cosine_min, limits.either_max_abs_max);
    }
    return text;
}

std::string failure_text(const bitnet_logits_row_t &row, uint32_t metric, const bitnet_logits_limits_t &limits) {
    const double a = double(row.worst_a), b = double(row.worst_b);
    if (metric == BITNET_METRIC_FINITE) {
        if (row.n == 0) return "no logit is finite";
        std::string text = text_of("%llu logits are NaN or infinite", static_cast<unsigned long long>(row.n_nonfinite));
        if (row.measured & BITNET_METRIC_MAX_ABS)
            text += text_of(", the first at %llu: ours %g, theirs %g", static_cast<unsigned long long>(row.worst_index),
                            a, b);
        return text;
    }
    if (metric == BITNET_METRIC_CLOSE)
        return text_of("%llu logits are not within %g + %g of ours", static_cast<unsigned long long>(row.n_not_close),
                       limits.atol, limits.rtol);
    if (metric == BITNET_METRIC_TOP1)
        return text_of("top-1 is %d, theirs %d: ours leads by %.6g, the noise is %.6g", row.top1_a, row.top1_b,
                       row.top1_lead, std::max(limits.top1_noise, 0.0) * row.rms_difference);
    if (metric == BITNET_METRIC_EITHER)
        return text_of("cosine %.9g is below %g and max abs %.6g above %g", row.cosine, limits.either_cosine_min,
                       row.max_abs, limits.either_max_abs_max);
    const Limit &limit = *limit_of(metric);
    const double value = metric_value(row, metric);
    std::string text = text_of("%s %.9g is %s %g (%s %.17g would pass)", name_of(metric).shown, value,
                               limit.at_least ? "below" : "above", limits.*limit.field, limit.option, value);
    if (metric == BITNET_METRIC_MAX_ABS)
        text += text_of(", at %llu: ours %.9g, theirs %.9g", static_cast<unsigned long long>(row.worst_index), a, b);
    return text;
}

std::string mean_kl_text(const bitnet_logits_summary_t &summary, const bitnet_logits_limits_t &limits) {
    return text_of("mean KL %.9g is above %g (--mean-kl %.17g would pass)", summary.kl_mean, limits.mean_kl_max,
                   summary.kl_mean);
}

}  // namespace bitnet::crossval
