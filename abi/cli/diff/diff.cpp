#include "abi/cli/diff/diff.h"

#include "abi/cli/diff/matcher.h"
#include "abi/cli/diff/raw_values.h"
#include "abi/cli/diff/record_stream.h"
#include "abi/cli/diff/text.h"

#include <algorithm>
#include <cmath>

namespace bitnet::diff {

namespace {

using Llu = unsigned long long;

// Reads from the side that is behind, so that few records have to wait.
void match_streams(const std::string &path_a, const std::string &path_b, Trace &a, Trace &b, Matcher &matcher) {
    RecordStream streams[2] = {{path_a, a}, {path_b, b}};
    bool ended[2] = {};
    Key position[2] = {};
    Batch batch;
    while (!ended[0] || !ended[1]) {
        bool a_is_behind = position[0] != position[1] ? position[0] < position[1]
                                                      : matcher.n_waiting(Matcher::kA) <= matcher.n_waiting(Matcher::kB);
        const int side = ended[0] ? 1 : ended[1] || a_is_behind ? 0 : 1;
        if (!streams[side].next(batch)) {
            ended[side] = true;
            continue;
        }
        for (const Record &record : batch) matcher.add(side == 0 ? Matcher::kA : Matcher::kB, record);
        position[side] = next_position(batch.back().key);
    }
}

void add_problems(const Problems &problems, std::vector<std::string> &errors) {
    errors.insert(errors.end(), problems.lines().begin(), problems.lines().end());
    if (problems.total() > problems.lines().size()) {
        errors.push_back(format_text("... and %llu more like these", Llu(problems.total() - problems.lines().size())));
    }
}

bool has_mismatch(const Report &report) {
    return std::any_of(report.facts.begin(), report.facts.end(), [](const Fact &fact) { return fact.mismatch; });
}

std::string missing_text(const char *side, const char *other, uint64_t n, Key first) {
    return format_text("%s lacks %llu of %s's records, the first is %s: an incomplete comparison cannot match "
                       "(--allow-missing accepts it)",
                       side, Llu(n), other, record_name(first).c_str());
}

// What keeps the comparison from being one, whatever the numbers say.
void collect_errors(const Trace &a, const Trace &b, const Options &options, Report &report) {
    for (const Trace *trace : {&a, &b}) {
        add_problems(trace->problems, report.errors);
        if (!options.allow_missing) add_problems(trace->incomplete, report.errors);
    }
    add_problems(report.comparison.problems, report.errors);
    report.n_input_errors = report.errors.size();
    if (has_mismatch(report) || !report.errors.empty()) return;
    if (report.comparison.counts.compared == 0) {
        report.errors.push_back("nothing was compared: the traces have no record in common");
    } else if (report.comparison.rule == Rule::envelope && report.comparison.n_undecided == 0 &&
               report.comparison.counts.unjudged == report.comparison.counts.compared) {
        report.errors.push_back("no verdict: the envelope has none of the stages that were recorded");
    } else if (report.comparison.rule == Rule::logits && report.comparison.counts.unjudged > 0 &&
               report.comparison.n_logits == 0 && report.comparison.counts.different == 0 &&
               (options.allow_missing || report.integers.n_unknown() == 0) && !report.integers.explain_all()) {
        report.errors.push_back("no verdict: the engines differ, so --tolerance auto looks at logits only, and "
                                "no logits were recorded on both sides (give --tolerance a number)");
    }
}

// What could not be judged is no match: an error, unless something wrong was found.
void collect_unjudged(Report &report) {
    const Comparison &comparison = report.comparison;
    const uint64_t n = comparison.n_undecided;
    if (n == 0 || report.first || has_mismatch(report) || !report.errors.empty()) return;
    const char *const what = comparison.rule == Rule::logits ? "logits" : "records";
    report.errors.push_back(format_text(
        "no verdict: %llu of %llu %s differ and cannot be judged, the first is %s: without sketches, or without a position of "
        "their own, only equal hashes and very different sizes say anything",
        Llu(n), Llu(comparison.rule == Rule::logits ? comparison.n_logits : comparison.counts.compared), what,
        record_name(*comparison.first_undecided).c_str()));
}

// Integers whose inputs were not recorded: likewise, unless missing records are allowed.
void collect_unexplained(const Options &options, Report &report) {
    const Integers &integers = report.integers;
    const Rule rule = report.comparison.rule;
    if (rule == Rule::hashes || rule == Rule::distance || !integers.first_unknown || options.allow_missing) return;
    if (report.first || has_mismatch(report) || !report.errors.empty()) return;
    const IntegerPair &pair = report.comparison.integers.at(*integers.first_unknown);
    report.errors.push_back(format_text("no verdict: %s: %s: %s was not recorded (--allow-missing accepts it)",
                                        record_name(*integers.first_unknown).c_str(),
                                        integer_text(pair, *find_stage(int(node_of(*integers.first_unknown)))).c_str(),
                                        pair.missing.c_str()));
}

// Records on one side only: an error, unless something wrong was found that no further record can undo. What a damaged
// trace lacks is its damage's fault, which is reported.
void collect_missing(const Trace &a, const Trace &b, const Options &options, Report &report) {
    const Comparison &comparison = report.comparison;
    if (options.allow_missing || report.first || has_mismatch(report)) return;
    const Counts &counts = comparison.counts;
    if (counts.missing_in_a && a.problems.empty()) {
        report.errors.push_back(missing_text("A", "B", counts.missing_in_a, *comparison.first_missing_in_a));
    }
    if (counts.missing_in_b && b.problems.empty()) {
        report.errors.push_back(missing_text("B", "A", counts.missing_in_b, *comparison.first_missing_in_b));
    }
}

// Semantics that differ and can change what the first wrong stage computes.
std::vector<std::string> likely_causes(const Report &report) {
    std::vector<std::string> causes;
    if (report.origins.empty()) return causes;
    const Origin &origin = report.origins.front();
    const Stage *stage = find_stage(int(node_of(origin.pair->key())));
    bool says_kv = std::any_of(report.facts.begin(), report.facts.end(),
                               [](const Fact &fact) { return fact.key == "semantics.kv"; });
    for (const Fact &fact : report.facts) {
        static const std::string kPrefix = "semantics.";
        bool is_kv = fact.key == "kv_type" && !says_kv;  // the same switch, said twice by our own engine
        if (!is_kv && fact.key.compare(0, kPrefix.size(), kPrefix) != 0) continue;
        // What lies between here and the last equal record is not known to be right.
        std::string key = is_kv ? "kv" : fact.key.substr(kPrefix.size());
        if (origin.inputs == Inputs::unrecorded || semantics_key_affects(key, *stage)) causes.push_back(fact.text);
    }
    return causes;
}

// Logits to show: the first that differ from the first wrong record's position on, else the first from there on.
void collect_logits(Report &report) {
    for (const Pair &pair : report.comparison.pairs) {
        if (node_of(pair.key()) != logits_node()) continue;
        const Pair *&worst = report.logits_worst, *&shown = report.logits;
        if (!worst || pair.distance > worst->distance || std::isnan(pair.distance)) worst = &pair;
        if (report.first && pair.key() < report.first->key()) continue;
        bool better = shown && shown->relation == Relation::equal && pair.relation != Relation::equal;
        if (!shown || better) shown = &pair;
    }
}

// The two records of the first difference.
void take_first(const Trace &a, const Trace &b, Matcher &matcher, Report &report) {
    const Pair &first = *report.first;
    if (!a.raw || !b.raw) return matcher.take_first(report.comparison.rule, first.key(), report.first_a, report.first_b);
    for (const auto &[record, trace, place, event] :
         {std::tuple(&report.first_a, &a, first.a, first.event_a), std::tuple(&report.first_b, &b, first.b, first.event_b)}) {
        *record = record_of(*trace->raw->find(first.key()));
        record->key = first.key();
        record->event = event;
        record->file = place.file;
        record->line = place.line;
    }
}

void analyse(const Trace &a, const Trace &b, Matcher &matcher, Report &report) {
    const Comparison &comparison = report.comparison;
    report.judged = true;
    const Pair *unequal = nullptr;
    for (const Pair &pair : comparison.pairs) {
        if (!unequal && pair.relation != Relation::equal) unequal = &pair;
        if (!report.first && pair.relation == Relation::different) report.first = &pair;
    }
    if (comparison.rule == Rule::envelope) report.noise = measure_noise(comparison);
    if (report.first) {
        take_first(a, b, matcher, report);
        report.origins = find_origins(comparison, a, b);
        report.causes = likely_causes(report);
    }
    if (const Pair *at = report.first ? report.first : unequal) report.growth = growth_curve(comparison, at->key());
    collect_logits(report);
    std::string order = check_execution_order(comparison);
    if (!order.empty()) report.facts.push_back({"order", "", "", order, false, false});
}

std::string join(const std::vector<std::string> &parts, const char *between) {
    std::string text;
    for (const std::string &part : parts) text += (text.empty() ? "" : between) + part;
    return text;
}

std::string inputs_text(const Origin &origin) {
    switch (origin.inputs) {
    case Inputs::equal: return "this operation is wrong: its inputs are equal";
    case Inputs::token: return "this operation is wrong: its input, the token id, is equal";
    case Inputs::unrecorded: return "its inputs were not all recorded; everything recorded before it is equal";
    case Inputs::inside: return "its inputs are inside a class, so it is this operation that is not";
    case Inputs::own: return "this operation is wrong: it does not follow from its own recorded input";
    case Inputs::close: break;
    }
    return "it leaps away from inputs that are close";
}

std::string noise_sentence(const Report &report, bool several_runs) {
    const Pair &first = *report.first;
    std::string text = "outside every class of legal variations, first at " + place_name(first.key(), several_runs);
    auto allowed = allowed_distance(report.comparison, first);
    if (allowed && first.distance > *allowed) {
        text += format_text(": %s relative L2, where %s noise reaches %s", short_number(first.distance).c_str(),
                            report.noise->classes.back().c_str(), short_number(*allowed).c_str());
    }
    if (!report.origins.empty()) text += "; " + inputs_text(report.origins.front());
    return text;
}

const IntegerPair *integers_of(const Comparison &comparison, Key key) {
    const auto at = comparison.integers.find(key);
    return at == comparison.integers.end() ? nullptr : &at->second;
}

std::string divergence_sentence(const Report &report, bool several_runs) {
    const Pair &first = *report.first;
    std::string text = "first difference at " + place_name(first.key(), several_runs);
    const IntegerPair *integers = integers_of(report.comparison, first.key());
    const Stage &stage = *find_stage(int(node_of(first.key())));
    const bool wrong_integers = report.comparison.rule != Rule::hashes && report.comparison.rule != Rule::distance &&
                                integers && integers->outcome == IntegerOutcome::wrong;
    if (wrong_integers) {
        text = "at " + place_name(first.key(), several_runs) + ": " + integer_text(*integers, stage);
        if (!report.origins.empty() && report.origins.front().pair == &first)
            text += "; " + inputs_text(report.origins.front());
    } else if (report.comparison.rule == Rule::logits) {
        text =
            format_text("the %s leave the envelope at %s", node_of(first.key()) == logits_node() ? "logits" : "values",
                        place_name(first.key(), several_runs).c_str());
        if (!report.origins.empty()) {
            text += "; suspect: " + place_name(report.origins.front().pair->key(), several_runs) + ", " +
                    inputs_text(report.origins.front());
        }
    } else if (report.comparison.rule == Rule::envelope) {
        text = noise_sentence(report, several_runs);
    } else if (!report.origins.empty()) {
        text += ": " + inputs_text(report.origins.front());
    }
    text += ".";
    if (integers && !wrong_integers) {
        text += " There " + integer_text(*integers, stage) + ".";
        if (report.comparison.rule == Rule::hashes && integers->outcome == IntegerOutcome::rounding)
            text += " Between different engines that is legal (--tolerance ties).";
    }
    const Comparison &comparison = report.comparison;
    for (const auto &missing : {comparison.first_missing_in_a, comparison.first_missing_in_b}) {
        if (!missing || *missing > first.key()) continue;
        text += " Records before it are missing (" + record_name(*missing) + "): it may arise earlier.";
        break;
    }
    if (!report.causes.empty()) text += " Likely cause: " + join(report.causes, "; ") + ".";
    return text;
}

std::string match_sentence(const Report &report) {
    const Comparison &comparison = report.comparison;
    const Counts &counts = comparison.counts;
    if (counts.equal == counts.compared)
        return format_text("all %llu records are equal, bit for bit.", Llu(counts.compared));
    if (comparison.rule == Rule::envelope) {
        return format_text(
            "inside %s noise: the smallest class that holds all %llu records (%llu of them equal, bit for "
            "bit, %llu not judged).",
            report.noise->classes[*report.noise->noise_class].c_str(), Llu(counts.compared), Llu(counts.equal),
            Llu(counts.unjudged));
    }
    std::string integers = totals_text(report.integers.codes, StageClass::codes);
    if (comparison.rule == Rule::logits && comparison.n_logits == 0) {
        if (integers.empty()) integers = format_text("all %llu codes are equal", Llu(report.integers.codes.values));
        return integers + format_text(". Of %llu records %llu differ by no more than that or in last bits, %llu lie behind "
                                      "those as their effect; no logits were recorded.",
                                      Llu(counts.compared), Llu(report.integers.n_rounding),
                                      Llu(report.integers.n_behind));
    }
    if (comparison.rule == Rule::distance) {
        return format_text("%llu records agree within %s relative L2 (%llu of them bit for bit).", Llu(counts.compared),
                           short_number(comparison.max_distance).c_str(), Llu(counts.equal));
    }
    return format_text("the logits of %llu tokens agree within %s relative L2; the engines run freely, so the layers "
                       "are shown and not judged%s.",
                       Llu(comparison.n_logits), short_number(kLogitsMaxDistance).c_str(),
                       integers.empty() ? "" : (", but for integers: " + integers).c_str());
}

void conclude(Report &report, bool several_runs) {
    std::vector<std::string> mismatches;
    for (const Fact &fact : report.facts) {
        if (fact.mismatch) mismatches.push_back(fact.text);
    }
    if (!report.errors.empty()) {
        report.verdict = Verdict::error;
        report.sentence = report.errors.front();
    } else if (!mismatches.empty()) {
        report.verdict = Verdict::divergence;
        report.sentence = "before any number: " + join(mismatches, "; ") + ".";
    } else if (report.first) {
        report.verdict = Verdict::divergence;
        report.sentence = divergence_sentence(report, several_runs);
    } else {
        report.verdict = Verdict::match;
        report.sentence = match_sentence(report);
    }
}

}  // namespace

Report compare_files(const std::string &path_a, const std::string &path_b, const Options &options, Trace &a, Trace &b) {
    Matcher matcher(options);
    match_streams(path_a, path_b, a, b, matcher);
    Report report;
    Comparison &comparison = report.comparison;
    comparison.automatic_rule = rule_for(a, b, {});
    comparison.rule = options.rule.value_or(comparison.automatic_rule);
    comparison.max_distance = options.max_distance;
    matcher.finish(a, b, comparison);
    report.facts = preflight(a, b, options);
    if (options.find_envelopes && !has_mismatch(report)) comparison.envelopes = options.find_envelopes(a, b);
    if (!comparison.envelopes.empty()) comparison.rule = Rule::envelope;
    judge_pairs(a, b, comparison);
    report.integers = total_integers(a, b, comparison);
    if (report.integers.any()) trace_rounding(comparison, a, b, report.integers);
    collect_errors(a, b, options, report);
    if (!has_mismatch(report)) analyse(a, b, matcher, report);
    collect_unjudged(report);
    collect_unexplained(options, report);
    collect_missing(a, b, options, report);
    conclude(report, a.runs.size() > 1 || b.runs.size() > 1);
    return report;
}

}  // namespace bitnet::diff
