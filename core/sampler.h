// Picks the next token from a row of logits. Same settings and seed, same tokens, on every machine: own exp, a
// counter-based generator, and a written order for everything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitnet {

struct SamplerSettings {
    float temperature = 0;     // 0: greedy
    int top_k = 0;             // 0: off
    float top_p = 0;           // 0 or >= 1: off
    float min_p = 0;           // 0: off
    float repeat_penalty = 0;  // 0 or 1: off (Keskar et al. 2019, arXiv:1909.05858)
    uint64_t seed = 0;
};

// The k largest logits, largest first, ties to the lowest id; NaN last of all. Returns min(k, n) ids.
std::vector<int32_t> top_logits(const float *logits, int n, int k);

// log softmax(logits)[token], in double.
double log_probability(const float *logits, int n, int token);

// `draw` numbers the random draws of one generation from 0. recent: tokens the repetition penalty looks at.
int32_t sample(const float *logits, int n_vocab, const SamplerSettings &settings, uint64_t draw, const int32_t *recent,
               size_t n_recent);

}  // namespace bitnet
