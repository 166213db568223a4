// Two rows of logits against each other: what is measured, and what the limits make of it. Every sum is f64 in
// ascending order of the index, exp and log are core/math.h's: the same bits everywhere.
#pragma once

#include <cstddef>

#include "bitnet_c.h"

namespace bitnet {

// Limits by name; null when there is no such preset. Names: preset_name(0), (1), ... until null.
const bitnet_logits_limits_t *find_preset(const char *name);
const char *preset_name(size_t index);
constexpr const char *default_preset = "bitnet";

constexpr int default_top_k = 5;

// Fills every field but struct_size, failed and warned.
void measure_row(const float *a, const float *b, size_t n, const bitnet_logits_limits_t &limits,
                 bitnet_logits_row_t &row);
// Sets failed and warned from what was measured.
void judge_row(const bitnet_logits_limits_t &limits, bitnet_logits_row_t &row);

// Gathers judged rows, then concludes.
class LogitsSummary {
public:
    explicit LogitsSummary(const bitnet_logits_limits_t &limits) : limits_(limits) {}
    void add(const bitnet_logits_row_t &row);
    bitnet_logits_summary_t conclude() const;  // without struct_size

private:
    struct Mean {
        double sum = 0;
        uint64_t n = 0;
        void add(double value) { sum += value, ++n; }
        double value() const { return n ? sum / double(n) : __builtin_nan(""); }
    };
    const bitnet_logits_limits_t limits_;
    bitnet_logits_summary_t counts_{};
    bool unjudged_row_ = false;
    double cosine_ = __builtin_nan(""), l2_ = cosine_, max_abs_ = cosine_, nmse_ = cosine_, kl_ = cosine_;
    Mean mse_, mean_kl_, top_k_;
};

}  // namespace bitnet
