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
static bool before(float x, int32_t a, float y, int32_t b) {
    if (x != x || y != y) return x == x ? true : y == y ? false : a < b;
    return x != y ? x > y : a < b;
}

std::vector<int32_t> top_logits(const float *logits, int n, int k) {
    k = std::clamp(k, 0, n);
    if (k == 1) {
        int32_t best = 0;
        for (int32_t i = 1; i < n; ++i)
            if (before(logits[i], i, logits[best], best)) best = i;
        return {best};
    }
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (int32_t i = 0; i < n; ++i) ids[size_t(i)] = i;
    std::partial_sort(ids.begin(), ids.begin() + k, ids.end(),
                      [&](int32_t a, int32_t b) { return before(logits[a], a, logits[b], b); });
    ids.resize(size_t(k));
    return ids;
}

double log_probability(const float *logits, int n, int token) {
    double m = logits[0];
    for (int i = 1; i < n; ++i) m = double(logits[i]) > m ? double(logits[i]) : m;
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += exp_f64(double(logits[i]) - m);
    if (sum != sum) return sum;
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

static bool penalises(const SamplerSettings &settings, size_t n_recent) {
    return settings.repeat_penalty > 0 && settings.repeat_penalty != 1 && n_recent > 0;
}

int logits_needed(int n_vocab, const SamplerSettings &settings, size_t n_recent) {
    if (penalises(settings, n_recent)) return n_vocab;
    if (!(settings.temperature > 0)) return 1;
    return settings.top_k > 0 ? std::min(settings.top_k, n_vocab) : n_vocab;
}

// From the largest logits, in order.
static int32_t draw_from(const std::vector<Candidate> &ranked, const SamplerSettings &settings, uint64_t draw) {
    if (!(settings.temperature > 0)) return ranked[0].token;
    std::vector<double> weight(ranked.size());
    const double largest = ranked[0].logit;
    double total = 0;
    for (size_t i = 0; i < ranked.size(); ++i) {
        const double x = (double(ranked[i].logit) - largest) / double(settings.temperature);
        weight[i] = x == x ? exp_f64(x) : 0.0;  // NaN is never drawn
        total += weight[i];
    }
    size_t n = ranked.size();
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
        if (target < sum) return ranked[i].token;
    }
    return ranked[0].token;  // every weight was NaN or the sum rounded short of the target
}

int32_t sample(std::vector<Candidate> candidates, const SamplerSettings &settings, uint64_t draw) {
    const size_t needed = size_t(logits_needed(int(candidates.size()), settings, 0));
    std::partial_sort(
        candidates.begin(), candidates.begin() + ptrdiff_t(needed), candidates.end(),
        [](const Candidate &a, const Candidate &b) { return before(a.logit, a.token, b.logit, b.token); });
    candidates.resize(needed);
    return draw_from(candidates, settings, draw);
}

int32_t sample(const float *row, int n_vocab, const SamplerSettings &settings, uint64_t draw, const int32_t *recent,
               size_t n_recent) {
    std::vector<float> penalised;
    const float *logits = row;
    if (penalises(settings, n_recent)) {
        penalised.assign(row, row + n_vocab);
        penalise(penalised, settings.repeat_penalty, recent, n_recent);
        logits = penalised.data();
    }
    std::vector<Candidate> ranked;
    for (int32_t id : top_logits(logits, n_vocab, logits_needed(n_vocab, settings, 0)))
        ranked.push_back({id, logits[id]});
    return draw_from(ranked, settings, draw);
}

}  // namespace bitnet
