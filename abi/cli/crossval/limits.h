// The limits of a verdict, from a preset and single options, and their names.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bitnet_c.h"

namespace CLI {
class App;
}

namespace bitnet::crossval {

inline constexpr const char *preset_default = "bitnet";

struct LimitOptions {
    std::string preset;                         // "": as `base` of resolved(), or bitnet
    std::map<std::string, std::string> values;  // option, number or "off"
    std::string top1;                           // "", "exact", "noise", "off"
    int top_k = 0;                              // 0: 5
    std::string metrics;                        // "mse,kl,topk": what may be judged beside cosine, L2 and max abs

    // `preset_of_none`: what counts without --preset, for the help.
    void add_to(CLI::App &command, const std::string &preset_of_none = preset_default);
    bool given() const;  // any of them, the preset included
    // The preset's with the single options over them; `base`: in place of the preset's when none is given, NULL: those of
    // preset_default. Throws CommandError.
    bitnet_logits_limits_t resolved(const bitnet_logits_limits_t *base = nullptr) const;
};

// "cosine", "mean_kl", ... of one BITNET_METRIC_... bit.
std::string metric_name(uint32_t metric);
std::vector<std::string> metric_names(uint32_t metrics);
// Its bit; 0: there is no such metric.
uint32_t metric_of(const std::string &name);
// Every bit of `metrics`, ascending.
std::vector<uint32_t> metric_bits(uint32_t metrics);
// Value of a row, or of a limit, for one bit; NaN where there is no single number.
double metric_value(const bitnet_logits_row_t &row, uint32_t metric);
double limit_value(const bitnet_logits_limits_t &limits, uint32_t metric);
// Whether such a limit has one number; then it counts from now on.
bool set_limit(bitnet_logits_limits_t &limits, uint32_t metric, double value);
// "cosine >= 0.97 (warning below 0.99), NMSE <= 0.01, ..."
std::string limits_text(const bitnet_logits_limits_t &limits);
// "cosine 0.912 is below 0.97 (--cos-tol 0.912 would pass)"
std::string failure_text(const bitnet_logits_row_t &row, uint32_t metric, const bitnet_logits_limits_t &limits);
std::string mean_kl_text(const bitnet_logits_summary_t &summary, const bitnet_logits_limits_t &limits);

}  // namespace bitnet::crossval
