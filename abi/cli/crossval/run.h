// One prompt at a time: ids, then our logits against the other side's, position by position.
#pragma once

#include <functional>
#include <string>

#include "abi/cli/crossval/report.h"
#include "abi/cli/crossval/source.h"
#include "abi/cli/session.h"

namespace bitnet::crossval {

// What a prompt is judged by in place of the preset's limits, once its tokens are known.
struct EnvelopeLimits {
    std::shared_ptr<const envelope::Judge> judge;
    bitnet_logits_limits_t limits;  // of the largest class, with the single options over them
};

struct RunSettings {
    ContextOptions context;
    TokenizeFlags flags;
    std::string ladder = "positions";  // tokens, first-logit, positions, decode
    int n_positions = 0;               // of the wanted ones, the first so many; 0: all
    int n_decode = 0;
    bool allow_missing = false;
    std::function<EnvelopeLimits(const Ids &)> envelope;  // empty: none
    bool keep_tops = false;                               // the five largest of each row, for the receipt
};

// Never throws CommandError: what goes wrong is the prompt's error.
PromptReport compare_prompt(const bitnet_model_t *model, Source &source, size_t index, const PromptItem &item,
                            const RunSettings &settings, const bitnet_logits_limits_t &limits);

// Judges what was measured (`complete`) by these limits: the summary, and the verdict of each position. Throws
// CommandError when that makes no verdict.
void judge_prompt(PromptReport &report, const bitnet_logits_limits_t &limits);

}  // namespace bitnet::crossval
