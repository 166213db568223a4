#include "core/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/math.h"

namespace bitnet {

// SplitMix64's output function (Steele et al. 2014) of seed and counter: no state to carry, any draw on its own.
static double uniform(uint64_t seed, uint64_t draw) {
    uint64_t z = seed + (draw + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z = z ^ (z >> 31);
    return double(z >> 11) * 0x1p-53;  // [0, 1)
}

// NaN counts as smaller than everything; equal logits are ordered by id.
static bool before(const float *logits, int32_t a, int32_t b) {
    const float x = logits[a], y = logits[b];
    if (x != x || y != y) return x == x ? true : y == y ? false : a < b;
    return x != y ? x > y : a < b;
}

std::vector<int32_t> top_logits(const float *logits, int n, int k) {
    k = std::clamp(k, 0, n);
    if (k == 1) {
        int32_t best = 0;
        for (int32_t i = 1; i < n; ++i)
            if (before(logits, i, best)) best = i;
        return {best};
    }
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (int32_t i = 0; i < n; ++i) ids[size_t(i)] = i;
    std::partial_sort(ids.begin(), ids.begin() + k, ids.end(),
                      [&](int32_t a, int32_t b) { return before(logits, a, b); });
    ids.resize(size_t(k));
    return ids;
}

double log_probability(const float *logits, int n, int token) {
    double m = logits[0];
    for (int i = 1; i < n; ++i) m = double(logits[i]) > m ? double(logits[i]) : m;
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += exp_f64(double(logits[i]) - m);
    return (double(logits[token]) - m) - log_f64(sum);
}

static void penalise(std::vector<float> &logits, float penalty, const int32_t *recent, size_t n_recent) {
    std::vector<int32_t> seen(recent, recent + n_recent);
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t id : seen) {
        if (id < 0 || size_t(id) >= logits.size()) continue;
        float &l = logits[size_t(id)];
        l = l > 0 ? l / penalty : l * penalty;
    }
}

int32_t sample(const float *row, int n_vocab, const SamplerSettings &settings, uint64_t draw, const int32_t *recent,
               size_t n_recent) {
    std::vector<float> penalised;
    const float *logits = row;
    if (settings.repeat_penalty > 0 && settings.repeat_penalty != 1 && n_recent > 0) {
        penalised.assign(row, row + n_vocab);
        penalise(penalised, settings.repeat_penalty, recent, n_recent);
        logits = penalised.data();
    }
    if (!(settings.temperature > 0)) return top_logits(logits, n_vocab, 1)[0];

    const int k = settings.top_k > 0 ? std::min(settings.top_k, n_vocab) : n_vocab;
    std::vector<int32_t> ids = top_logits(logits, n_vocab, k);
    std::vector<double> weight(ids.size());
    const double largest = logits[ids[0]];
    double total = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
        const double x = (double(logits[ids[i]]) - largest) / double(settings.temperature);
        weight[i] = x == x ? exp_f64(x) : 0.0;  // NaN is never drawn
        total += weight[i];
    }
    size_t n = ids.size();
    if (settings.min_p > 0)  // weight[0] is 1, the largest
        while (n > 1 && weight[n - 1] < double(settings.min_p)) --n;
    if (settings.top_p > 0 && settings.top_p < 1) {
        double mass = 0;
        size_t kept = 0;
        while (kept < n && mass < double(settings.top_p) * total) mass += weight[kept++];
        n = std::max<size_t>(kept, 1);
    }
    double mass = 0;
    for (size_t i = 0; i < n; ++i) mass += weight[i];
    const double target = uniform(settings.seed, draw) * mass;
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
        sum += weight[i];
        if (target < sum) return ids[i];
    }
    return ids[0];  // every weight was NaN or the sum rounded short of the target
}

}  // namespace bitnet
