#include <algorithm>
#include <cmath>

#include "abi/cli/crossval/run.h"
#include "abi/cli/report/recheck.h"
#include "abi/cli/report/saved_crossval.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

using namespace crossval;
using Limits = bitnet_logits_limits_t;

// Limits that were not asked when the file was written.
uint32_t new_limits(const Limits &now, const Limits &saved) {
    uint32_t bits = now.judged & ~saved.judged;
    for (const uint32_t bit : metric_bits(now.judged & saved.judged)) {
        const double before = limit_value(saved, bit), after = limit_value(now, bit);
        if (!std::isnan(after) && before != after) bits |= bit;
    }
    const auto changed = [&](uint32_t bit, double Limits::*field) {
        if (now.judged & bit && now.*field != saved.*field) bits |= bit;
    };
    changed(BITNET_METRIC_TOP1, &Limits::top1_noise);
    changed(BITNET_METRIC_EITHER, &Limits::either_cosine_min);
    changed(BITNET_METRIC_EITHER, &Limits::either_max_abs_max);
    changed(BITNET_METRIC_CLOSE, &Limits::atol);
    changed(BITNET_METRIC_CLOSE, &Limits::rtol);
    return bits;
}

// What the rows were measured with cannot be another afterwards.
void check_measured_with(const Limits &now, const Limits &saved, const std::string &path) {
    const bool other_close = now.atol != saved.atol || now.rtol != saved.rtol || !(saved.judged & BITNET_METRIC_CLOSE);
    if (now.judged & BITNET_METRIC_CLOSE && other_close)
        throw CommandError(path + ": --atol and --rtol need the logits themselves, which are not saved (--atol off "
                                  "leaves them out)");
    if (now.judged & BITNET_METRIC_TOP_K && now.top_k != saved.top_k)
        throw CommandError(path + text_of(": --top-k %d: the file has it of %d (--top-k-min off leaves it out)",
                                          now.top_k, saved.top_k));
}

void check_measured(const Report &report, uint32_t wanted, const std::string &path) {
    size_t n_rows = 0;
    for (const PromptReport &prompt : report.prompts) {
        for (const Position &p : prompt.positions) {
            ++n_rows;
            if (p.row.n_nonfinite > 0) continue;  // diverges, whatever the limits
            // The mean is of rows that have it.
            uint32_t has = p.row.measured;
            if (has & BITNET_METRIC_KL) has |= BITNET_METRIC_MEAN_KL;
            for (const uint32_t bit : metric_bits(wanted & ~has))
                throw CommandError(path + text_of(": %s cannot be judged: it was not measured at position %d of prompt "
                                                  "%s, so it is no pass",
                                                  metric_name(bit).c_str(), p.position, printable(prompt.id).c_str()));
        }
    }
    if (n_rows == 0 && report.ladder == "tokens")
        throw CommandError(path + ": token ids alone were compared: there is nothing that a limit could judge");
}

}  // namespace

Rechecked recheck_crossval(const Saved &document, bool is_receipt, const LimitOptions &options) {
    Report report = is_receipt ? read_receipt(document) : read_crossval(document);
    const std::string path = document.place();
    // Each prompt was judged by limits of its own, which no single set stands for.
    const bool has_envelope = std::any_of(report.prompts.begin(), report.prompts.end(),
                                          [](const PromptReport &prompt) { return prompt.limits.has_value(); });
    if (has_envelope && options.preset.empty())
        throw CommandError(path + ": it was judged by envelopes, a set of limits for each prompt: give --preset");
    const Limits saved = report.limits;
    Limits base = saved;
    if (base.judged == 0 && !options.given()) throw CommandError(path + ": its thresholds are all off: give a limit");
    report.limits = options.resolved(&base);
    if (options.given()) {
        if (options.top_k == 0) report.limits.top_k = saved.top_k;
        check_measured_with(report.limits, saved, path);
        check_measured(report, new_limits(report.limits, saved), path);
        if (!options.preset.empty()) report.preset = options.preset;
    }
    for (PromptReport &prompt : report.prompts) {
        prompt.limits.reset();
        if (!prompt.complete || prompt.positions.empty()) continue;
        prompt.error.clear();
        try {
            judge_prompt(prompt, report.limits);
        } catch (const CommandError &error) {
            prompt.error = error.what();
        }
    }
    return {report.exit_code(), render_text(report), render_json(report), report.errors()};
}

}  // namespace bitnet::report
