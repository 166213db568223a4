#include "abi/cli/explain/explain.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::explain {

namespace {

// Pairs of faults are a few hundred products of a linear: an operation of an engine that does something nobody listed is
// not asked about them for every layer.
constexpr size_t searches_in_vain_max = 4;

class Search {
public:
    Search(const bitnet_model_t *model, const Recording &recording, const Tolerances &tolerances)
        : model_(model), recording_(recording), tolerances_(tolerances), semantics_(bitnet_model_semantics(model)) {}

    // Every alternative that reproduces this operation. What explained another one of its kind is asked first, and
    // alone when it does.
    std::vector<Alternative> causes_of(const Finding &finding) {
        std::vector<Hypothesis> &known = proven_[class_of(finding.stage)];
        std::vector<Alternative> fits = fitting(known, finding);
        if (fits.empty()) fits = fitting_in_part(known, finding);
        if (fits.empty()) fits = fitting(hypotheses_for(finding.stage, semantics_), finding, &known);
        if (fits.empty()) fits = fitting_in_part(hypotheses_for(finding.stage, semantics_), finding, &known);
        if (fits.empty()) fits = fitting(pairs_for(finding.stage, semantics_), finding, &known);
        size_t &n_in_vain = in_vain_[class_of(finding.stage)];
        if (fits.empty() && n_in_vain < searches_in_vain_max) {
            fits = fitting(fault_pairs_for(finding.stage, semantics_), finding, &known);
            n_in_vain += fits.empty() ? 1 : 0;
        }
        // What is legal proves no fault; then what comes closest, by powers of ten.
        std::stable_sort(fits.begin(), fits.end(), [](const Alternative &a, const Alternative &b) {
            if (a.legal != b.legal) return a.legal;
            const auto size = [](double d) { return d > 0 ? std::floor(std::log10(d)) : -100.0; };
            return size(a.distance) < size(b.distance);
        });
        return fits;
    }

private:
    std::vector<Alternative> fitting(const std::vector<Hypothesis> &hypotheses, const Finding &finding,
                                     std::vector<Hypothesis> *remembered = nullptr) {
        std::vector<Alternative> fits;
        for (const Hypothesis &hypothesis : hypotheses) {
            const Engine *engine = engine_for(hypothesis.semantics);
            if (!engine) continue;
            const Fit fit = judge(*engine, recording_, {finding.layer, finding.stage}, tolerances_);
            const auto same = [&](const Alternative &other) { return other.semantics == hypothesis.semantics; };
            if (!fit.compared || std::any_of(fits.begin(), fits.end(), same)) continue;
            const Part part = part_of(&hypothesis, fit, finding);
            if (!fit.within && (part.rows.empty() || std::count(part.rows.begin(), part.rows.end(), false) > 0))
                continue;
            fits.push_back({hypothesis.semantics, hypothesis.text, hypothesis.legal, fit.distance});
            if (remembered) remembered->push_back(hypothesis);
        }
        return fits;
    }

    // Rows that some semantics reproduce.
    struct Part {
        const Hypothesis *hypothesis;  // NULL: the model's own
        std::vector<bool> rows;
        double distance;  // of those
    };

    // Rows are empty when all are within, or when there is nothing to compare with.
    Part part_of(const Hypothesis *hypothesis, const Fit &fit, const Finding &finding) const {
        Part part = {hypothesis, {}, 0};
        const bool loosely = hypothesis && !tolerances_.exact &&
                             (!hypothesis->allowed.of_bf16 || is_bf16(*recording_.find(finding.layer, finding.stage)));
        for (const RowFit &row : fit.rows) {
            const double more = loosely ? hypothesis->allowed.at(row.position) * tolerances_.factor : 0;
            part.rows.push_back(row.distance <= std::max(row.allowed, more));
            if (part.rows.back()) part.distance = std::max(part.distance, row.distance);
        }
        return part;
    }

    // Engines compute rows of a batch in another way than single ones: two legal ways that reproduce all rows between
    // them, one of which may be the model's own. Said of the rows at which positions, as far as both do not do.
    std::vector<Alternative> fitting_in_part(const std::vector<Hypothesis> &hypotheses, const Finding &finding,
                                             std::vector<Hypothesis> *remembered = nullptr) {
        std::vector<Part> parts = {part_of(nullptr, finding.fit, finding)};
        const size_t n = parts[0].rows.size();
        for (const Hypothesis &hypothesis : hypotheses) {
            const Engine *engine = hypothesis.legal ? engine_for(hypothesis.semantics) : nullptr;
            if (!engine || n < 2) continue;
            const Fit fit = judge(*engine, recording_, {finding.layer, finding.stage}, tolerances_);
            Part part = part_of(&hypothesis, fit, finding);
            if (fit.compared && part.rows.size() == n) parts.push_back(std::move(part));
        }
        for (size_t i = 0; i < parts.size(); ++i)
            for (size_t j = i + 1; j < parts.size(); ++j) {
                bool all = true;
                for (size_t row = 0; row < n; ++row) all &= parts[i].rows[row] || parts[j].rows[row];
                if (!all || n < 2) continue;
                if (remembered)
                    for (const Part *part : {&parts[i], &parts[j]})
                        if (part->hypothesis) remembered->push_back(*part->hypothesis);
                return {in_part(parts[i], parts[j], finding.fit)};
            }
        return {};
    }

    static Alternative in_part(const Part &a, const Part &b, const Fit &fit) {
        std::vector<int32_t> only_b;
        for (size_t row = 0; row < a.rows.size(); ++row)
            if (!a.rows[row]) only_b.push_back(fit.rows[row].position);
        const std::string positions = text_of("%zu rows from position %d on", only_b.size(), only_b.front());
        const std::string others = a.hypothesis ? ", and for the rest: " + a.hypothesis->text : "";
        return {(a.hypothesis ? a.hypothesis->semantics + "|" : "|") + b.hypothesis->semantics,
                b.hypothesis->text + " for " + positions + others, true, std::max(a.distance, b.distance)};
    }

    const Engine *engine_for(const std::string &semantics) {
        auto found = engines_.find(semantics);
        if (found == engines_.end()) {
            std::string why;  // such as sub-norms off in a model that has none: no alternative then
            found = engines_.emplace(semantics, Engine::make(model_, semantics, why)).first;
        }
        return found->second ? &*found->second : nullptr;
    }

    const bitnet_model_t *model_;
    const Recording &recording_;
    const Tolerances &tolerances_;
    const std::string semantics_;
    std::map<std::string, std::optional<Engine>> engines_;
    std::map<OperationClass, std::vector<Hypothesis>> proven_;
    std::map<OperationClass, size_t> in_vain_;  // searches among all pairs of faults that found nothing
};

// What makes every number meaningless, and what a reader should know.
void preflight(const bitnet_model_t *model, const Recording &recording, const Options &options, Report &report) {
    if (recording.model_hash.empty()) {
        report.facts.push_back("the recording does not say which model it is of");
    } else if (recording.model_hash != report.model_hash) {
        const std::string text = text_of("recorded with another model: hash %.16s..., this one has %.16s...",
                                         printable(recording.model_hash).c_str(), report.model_hash.c_str());
        (options.allow_other_model ? report.facts : report.errors).push_back(text);
    }
    const int32_t bos = bitnet_token_special(model, BITNET_SPECIAL_BOS);
    const std::vector<int32_t> &tokens = recording.tokens;
    if (bos >= 0 && tokens.size() > 1 && tokens[0] == bos && tokens[1] == bos)
        report.facts.push_back(text_of("double BOS: the tokens begin with %d twice", bos));
    if (!recording.complete) report.errors.push_back("the recording was cut short: its run.json says so");
    if (!recording.passed_by.empty()) {
        report.facts.push_back(text_of("%zu arrays are of no stage, the first '%s'", recording.passed_by.size(),
                                       printable(recording.passed_by[0]).c_str()));
    }
}

void judge_all(const Engine &engine, const Recording &recording, const Tolerances &tolerances, Report &report) {
    for (const bitnet_operation_t &operation : engine.operations()) {
        if (!recording.find(operation.layer, operation.stage)) {
            // Companions and scores are left out of most recordings.
            const bool usual = operation.stage < 0x100 && operation.stage != BITNET_STAGE_ATTN_SCORES;
            report.n_unrecorded += usual;
            continue;
        }
        Finding finding;
        finding.layer = operation.layer;
        finding.stage = operation.stage;
        finding.fit = judge(engine, recording, {operation.layer, operation.stage}, tolerances);
        finding.outcome = !finding.fit.compared ? Outcome::uncompared
                          : finding.fit.within  ? Outcome::reproduced
                                                : Outcome::wrong;
        report.findings.push_back(std::move(finding));
    }
    for (const auto &[place, rows] : recording.stages) {
        if (engine.find(place.first, place.second)) continue;
        Finding finding;
        finding.layer = place.first;
        finding.stage = place.second;
        finding.fit.why_not = "the model has no such operation";
        report.findings.push_back(std::move(finding));
    }
}

// Of several causes the one that explains most operations of the kind.
void agree_on_causes(Report &report) {
    std::map<std::string, size_t> counts;
    for (const Finding &finding : report.findings)
        for (const Alternative &cause : finding.causes) ++counts[cause.semantics];
    for (Finding &finding : report.findings)
        std::stable_sort(finding.causes.begin(), finding.causes.end(), [&](const Alternative &a, const Alternative &b) {
            return a.legal == b.legal && counts[a.semantics] > counts[b.semantics];
        });
}

void group(Report &report) {
    std::map<std::pair<Outcome, std::string>, size_t> places;
    for (const Outcome outcome : {Outcome::wrong, Outcome::legal})
        for (const Finding &finding : report.findings) {
            if (finding.outcome != outcome) continue;
            const Alternative cause = finding.causes.empty() ? Alternative() : finding.causes[0];
            const auto [at, is_new] = places.emplace(std::make_pair(outcome, cause.semantics), report.groups.size());
            if (is_new) report.groups.push_back({cause, outcome, {}});
            Group &own = report.groups[at->second];
            own.findings.push_back(&finding);
            own.cause.distance = std::max(own.cause.distance, cause.distance);
        }
}

void count(Report &report) {
    for (const Finding &finding : report.findings) {
        report.n_reproduced += finding.outcome == Outcome::reproduced;
        report.n_legal += finding.outcome == Outcome::legal;
        report.n_wrong += finding.outcome == Outcome::wrong;
        report.n_uncompared += finding.outcome == Outcome::uncompared;
        report.n_rows += finding.fit.n_rows;
        report.n_flips += finding.fit.n_flips;
    }
}

void conclude(Report &report) {
    const size_t n = report.n_reproduced + report.n_legal + report.n_wrong;
    if (n == 0 && report.errors.empty()) {
        std::string why;
        for (const Finding &finding : report.findings)
            if (why.empty()) {
                why = text_of(": %s of layer %d: %s", bitnet_stage_name(finding.stage), finding.layer,
                              finding.fit.why_not.c_str());
            }
        report.errors.push_back("nothing could be compared" + why);
    }
    if (!report.errors.empty()) {
        report.exit_code = 2;
        report.verdict = "error";
        report.text = report.errors[0];
    } else if (report.n_wrong > 0) {
        report.exit_code = 1;
        report.verdict = "wrong";
        report.text = text_of("%zu of %zu operations do not follow from their recorded inputs", report.n_wrong, n);
    } else {
        report.exit_code = 0;
        report.verdict = "reproduced";
        report.text = text_of("all %zu operations follow from their recorded inputs", n);
        if (report.n_legal) report.text += text_of(", %zu of them under a legal alternative", report.n_legal);
    }
}

}  // namespace

Report explain(const bitnet_model_t *model, const Recording &recording, const Options &options) {
    Report report;
    report.path = recording.path;
    report.engine = recording.engine;
    report.engine_version = recording.engine_version;
    report.model = bitnet_model_path(model);
    report.model_hash = model_hash(model);
    report.semantics = bitnet_model_semantics(model);
    const bool same_engine = recording.engine == "bitnet-c" && recording.engine_version == bitnet_version();
    report.exact = options.tolerance == Options::Tolerance::exact ||
                   (options.tolerance == Options::Tolerance::automatic && same_engine);
    const Tolerances tolerances = {report.exact, options.factor};
    preflight(model, recording, options, report);
    if (report.errors.empty()) {
        std::string why;
        const std::optional<Engine> engine = Engine::make(model, "", why);
        if (!engine) throw CommandError(why);
        judge_all(*engine, recording, tolerances, report);
        Search search(model, recording, tolerances);
        for (Finding &finding : report.findings)
            if (finding.outcome == Outcome::wrong) finding.causes = search.causes_of(finding);
        agree_on_causes(report);
        for (Finding &finding : report.findings)
            if (finding.outcome == Outcome::wrong && !finding.causes.empty() && finding.causes[0].legal)
                finding.outcome = Outcome::legal;
        group(report);
        count(report);
    }
    conclude(report);
    return report;
}

}  // namespace bitnet::explain
