#include "abi/cli/crossval/run.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr size_t rows_at_once = 32;  // logits held in memory
constexpr size_t n_top = 5;

std::vector<int32_t> largest(const float *row, int32_t n_vocab) {
    std::vector<int32_t> ids(static_cast<size_t>(n_vocab));
    std::iota(ids.begin(), ids.end(), 0);
    std::erase_if(ids, [&](int32_t id) { return std::isnan(row[id]); });
    const auto end = ids.begin() + std::ptrdiff_t(std::min(n_top, ids.size()));
    std::partial_sort(ids.begin(), end, ids.end(),
                      [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    ids.erase(end, ids.end());
    return ids;
}

std::string id_at(const Ids &ids, size_t position) {
    return position < ids.size() ? std::to_string(ids[position]) : "none";
}

// Names the usual mistakes around BOS; "" when it is none of them.
std::string bos_text(const Ids &ours, const Ids &theirs) {
    for (const bool is_theirs : {true, false}) {
        const Ids &longer = is_theirs ? theirs : ours, &shorter = is_theirs ? ours : theirs;
        if (longer.size() != shorter.size() + 1 || shorter.empty()) continue;
        if (!std::equal(shorter.begin(), shorter.end(), longer.begin() + 1)) continue;
        const std::string side = is_theirs ? "theirs" : "ours", other = is_theirs ? "ours" : "theirs";
        if (longer[0] == longer[1]) return side + text_of(" begins with %d twice (double BOS); ", longer[0]);
        return side + text_of(" has %d (BOS?) in front, ", longer[0]) + other + " has none; ";
    }
    return "";
}

std::optional<TokenDifference> difference_of(const Ids &ours, const Ids &theirs) {
    const auto [a, b] = std::mismatch(ours.begin(), ours.end(), theirs.begin(), theirs.end());
    if (a == ours.end() && b == theirs.end()) return std::nullopt;
    TokenDifference out;
    out.position = size_t(a - ours.begin());
    out.ours = id_at(ours, out.position);
    out.theirs = id_at(theirs, out.position);
    out.text = bos_text(ours, theirs) + text_of("position %zu: ours %s, theirs %s (%zu ids against %zu)", out.position,
                                                out.ours.c_str(), out.theirs.c_str(), ours.size(), theirs.size());
    return out;
}

class Comparison {
public:
    Comparison(const bitnet_model_t *model, Source &source, const RunSettings &settings,
               const bitnet_logits_limits_t &limits, PromptReport &report)
        : model_(model), source_(source), settings_(settings), limits_(limits), report_(report),
          n_vocab_(model_info(model).n_vocab) {}

    void run(const PromptItem &item) {
        report_.tokens = tokens_of(item);
        report_.n_prompt = report_.tokens.size();
        if (report_.tokens.empty()) throw CommandError("the prompt has no tokens: at least one is needed");
        compare_ids(item);
        if (report_.difference) return;
        if (settings_.ladder == "tokens") {
            if (!report_.tokens_of_theirs)
                throw CommandError("nothing was compared: the other side's token ids are unknown");
            return;
        }
        if (settings_.n_decode > 0) decode();
        compare_logits();
    }

private:
    Ids tokens_of(const PromptItem &item) const {
        const uint32_t flags = (settings_.flags.add_bos ? BITNET_TOKENIZE_ADD_BOS : 0) |
                               (settings_.flags.parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
        if (!item.given) return tokenize(model_, *item.text, flags);
        Ids ids;
        for (const int64_t id : *item.given) {
            if (id < 0 || id >= n_vocab_)
                throw CommandError(text_of("token %zu is %lld, expected 0 to %d", ids.size(),
                                           static_cast<long long>(id), n_vocab_ - 1));
            ids.push_back(int32_t(id));
        }
        return ids;
    }

    void compare_ids(const PromptItem &item) {
        report_.tokens_of_theirs = source_.tokens(report_.index, item, settings_.flags);
        if (!report_.tokens_of_theirs) return;
        const Ids &ours = report_.tokens, &theirs = *report_.tokens_of_theirs;
        // A recorded run that goes on after the prompt: its ids are evaluated here too.
        const bool goes_on = !source_.own_prompts().empty() && theirs.size() > ours.size() &&
                             std::equal(ours.begin(), ours.end(), theirs.begin());
        if (goes_on) {
            report_.tokens = theirs;
        } else {
            report_.difference = difference_of(ours, theirs);
        }
    }

    ContextHandle context_for(size_t n_tokens) const {
        ContextOptions options = settings_.context;
        if (options.n_ctx == 0) options.n_ctx = int(n_tokens);
        return create_context(model_, options);
    }

    void decode() {
        if (report_.tokens.size() > report_.n_prompt)
            throw CommandError("--max-tokens: the other side's own tokens go on after the prompt already");
        const ContextHandle ctx = context_for(report_.tokens.size() + size_t(settings_.n_decode));
        check(bitnet_eval_tokens(ctx.get(), report_.tokens.data(), report_.tokens.size(), nullptr));
        bitnet_generate_params_t params = {};
        params.struct_size = sizeof params;
        params.max_tokens = settings_.n_decode;
        Ids decoded(static_cast<size_t>(settings_.n_decode));
        size_t n = decoded.size();
        check(bitnet_generate(ctx.get(), &params, decoded.data(), &n));
        report_.tokens.insert(report_.tokens.end(), decoded.begin(), decoded.begin() + std::ptrdiff_t(n));
    }

    std::vector<int> wanted_positions() const {
        const int n = int(report_.tokens.size()), last = int(report_.n_prompt) - 1;
        if (settings_.ladder == "first-logit") return {last};
        std::vector<int> positions;
        for (int i = settings_.ladder == "decode" ? last : 0; i < n; i++) positions.push_back(i);
        if (settings_.n_positions > 0 && positions.size() > size_t(settings_.n_positions))
            positions.resize(size_t(settings_.n_positions));
        return positions;
    }

    void compare_logits() {
        const std::vector<int> wanted = wanted_positions();
        const Offered offered = source_.begin(report_.index, report_.tokens);
        std::vector<int> both;
        std::set_intersection(wanted.begin(), wanted.end(), offered.positions.begin(), offered.positions.end(),
                              std::back_inserter(both));
        report_.n_missing = wanted.size() - both.size();
        report_.missing_allowed = offered.partial || settings_.allow_missing;
        if (both.empty()) throw CommandError("nothing was compared: the other side has none of the positions");
        if (settings_.envelope) {
            const EnvelopeLimits found = settings_.envelope(report_.tokens);
            report_.envelope = found.judge;
            report_.limits = limits_ = found.limits;
        }
        evaluate(both);
        report_.complete = true;
        judge_prompt(report_, limits_);
    }

    // `positions`: ascending.
    void evaluate(const std::vector<int> &positions) {
        const ContextHandle ctx = context_for(report_.tokens.size());
        auto next = positions.begin();
        for (size_t at = 0; at < report_.tokens.size() && next != positions.end(); at += rows_at_once) {
            const size_t n = std::min(rows_at_once, report_.tokens.size() - at);
            bitnet_eval_params_t params = {};
            params.struct_size = sizeof params;
            params.logits = size_t(*next) < at + n ? BITNET_LOGITS_ALL : BITNET_LOGITS_NONE;
            check(bitnet_eval_tokens(ctx.get(), report_.tokens.data() + at, n, &params));
            for (; next != positions.end() && size_t(*next) < at + n; ++next) {
                const float *ours = bitnet_get_logits_ith(ctx.get(), *next - int(at));
                if (ours == nullptr) throw CommandError(bitnet_last_error());
                add(*next, ours);
            }
        }
    }

    void add(int position, const float *ours) {
        Position p = {position, report_.tokens[size_t(position)], {}, {}, {}, {}};
        p.row.struct_size = sizeof p.row;
        const float *theirs = source_.compare(position, ours, limits_, p.row);
        if (report_.envelope) p.noise_class = report_.envelope->smallest(p.row);
        if (settings_.keep_tops) {
            p.top_ours = largest(ours, n_vocab_);
            if (theirs != nullptr) p.top_theirs = largest(theirs, n_vocab_);
        }
        report_.positions.push_back(std::move(p));
    }

    const bitnet_model_t *model_;
    Source &source_;
    const RunSettings &settings_;
    bitnet_logits_limits_t limits_;
    PromptReport &report_;
    const int32_t n_vocab_;
};

}  // namespace

void judge_prompt(PromptReport &report, const bitnet_logits_limits_t &limits) {
    std::vector<bitnet_logits_row_t> rows;
    for (const Position &p : report.positions) rows.push_back(p.row);
    report.summary.struct_size = sizeof report.summary;
    check(bitnet_compare_rows(rows.data(), rows.size(), &limits, &report.summary));
    for (size_t i = 0; i < rows.size(); ++i) report.positions[i].row = rows[i];
    if (report.n_missing > 0 && !report.missing_allowed && !report.limits_missed())
        throw CommandError(text_of("%zu of %zu positions are missing on the other side (--allow-missing accepts it)",
                                   report.n_missing, report.n_missing + report.positions.size()));
    if (report.summary.verdict == BITNET_COMPARE_NOTHING)
        throw CommandError("no verdict: none of the limits can be judged from what the other side holds");
}

PromptReport compare_prompt(const bitnet_model_t *model, Source &source, size_t index, const PromptItem &item,
                            const RunSettings &settings, const bitnet_logits_limits_t &limits) {
    PromptReport report;
    report.index = index;
    report.id = item.id;
    report.line = item.line;
    report.text = item.text;
    try {
        Comparison(model, source, settings, limits, report).run(item);
    } catch (const CommandError &error) {
        report.error = error.what();
    }
    return report;
}

}  // namespace bitnet::crossval
