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

// A token with its logit, as the full head computes it.
struct Candidate {
    int32_t token;
    float logit;
};

// The k largest logits, largest first, ties to the lowest id; NaN last of all. Returns min(k, n) ids.
std::vector<int32_t> top_logits(const float *logits, int n, int k);

// log softmax(logits)[token], in double. NaN when there is a NaN or +Inf among them, or nothing but -Inf.
double log_probability(const float *logits, int n, int token);

// How many of the largest logits sample() looks at: 1 when greedy; n_vocab when any may be drawn, or when the
// repetition penalty reorders them.
int logits_needed(int n_vocab, const SamplerSettings &settings, size_t n_recent);

// The token that sample() would draw, from candidates among which are the logits_needed() largest.
int32_t sample(std::vector<Candidate> candidates, const SamplerSettings &settings, uint64_t draw);

// `draw` numbers the random draws of one generation from 0. recent: tokens the repetition penalty looks at.
int32_t sample(const float *logits, int n_vocab, const SamplerSettings &settings, uint64_t draw, const int32_t *recent,
               size_t n_recent);

}  // namespace bitnet
