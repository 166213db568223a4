#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/text.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bitnet::diff {

namespace {

// What a root mean square that was summed in f32 may be off by.
constexpr double kRmsRounding = 1e-3;

double sketch_distance(const Record &a, const Record &b) {
    double sum = 0;
    for (size_t i = 0; i < kSketchBuckets; ++i) {
        double d = double(a.sketch[i]) - double(b.sketch[i]);
        sum += d * d;
    }
    return std::sqrt(sum);
}

double relative_distance(const Record &a, const Record &b) {
    if (a.bare || b.bare) return std::numeric_limits<double>::quiet_NaN();
    // A sketch leaves NaN and infinities out: with more of them on one side it measures something else.
    if (a.n_elements != b.n_elements || a.n_nan != b.n_nan || a.n_inf != b.n_inf) {
        return std::numeric_limits<double>::quiet_NaN();
    }
    double distance = sketch_distance(a, b);
    if (distance == 0 || std::isnan(distance)) return distance;
    return distance / a.l2;
}

bool same_bits(const Record &a, const Record &b) {
    return a.blake3 == b.blake3 && a.n_elements == b.n_elements && a.dtype == b.dtype;
}

bool is_nonfinite(const Record &r) { return r.bare ? !std::isfinite(r.rms) : r.n_nan + r.n_inf > 0; }
// With NaN or infinities anywhere only the hashes can tell whether they are the same ones.
bool has_nonfinite(const Record &a, const Record &b) { return is_nonfinite(a) || is_nonfinite(b); }

// BitNet-rs sums squares in f32 and counts values that are not finite.
bool agree_as_far_as_known(const Record &a, const Record &b) {
    if (is_nonfinite(a) != is_nonfinite(b)) return false;
    return is_nonfinite(a) || std::abs(a.rms - b.rms) <= kRmsRounding * std::max(a.rms, b.rms);
}

// Index of the largest value: as recorded, else where `top` (by magnitude) shows it.
std::optional<uint32_t> largest(const Record &record) {
    if (record.argmax) return record.argmax;
    for (uint32_t i = 0; i < record.n_top; ++i) {
        if (double(record.top[i].value) == double(float(record.max))) return record.top[i].index;
    }
    return std::nullopt;
}

std::optional<float> listed_value(const Record &record, uint32_t index) {
    for (uint32_t i = 0; i < record.n_top; ++i) {
        if (record.top[i].index == index) return record.top[i].value;
    }
    return std::nullopt;
}

// Whether the largest value of `record` leads its value at `other` by no more than `noise`. A value that is not listed
// is at most as large as the smallest magnitude that is.
bool lead_inside(const Record &record, uint32_t other, double noise) {
    if (record.n_top == 0) return true;
    double rival = listed_value(record, other).value_or(std::abs(record.top[record.n_top - 1].value));
    return record.max - rival <= noise;
}

// Another largest value, and not because of noise.
bool top_differs(const LogitsPair &logits) {
    return logits.top_a && logits.top_b && *logits.top_a != *logits.top_b && !logits.top_inside_noise;
}

Relation judge_logits(const Pair &pair, const LogitsPair &logits, double max_distance) {
    if (!(pair.distance <= max_distance)) return Relation::different;
    return top_differs(logits) ? Relation::different : Relation::within;
}

// The distance is at least that of the root mean squares.
double distance_of_rms(const Record &a, const Record &b) {
    const double difference = std::abs(a.rms - b.rms);
    return difference == 0 ? 0 : difference / a.rms;
}

uint8_t facts_of(const Record &a, const Record &b) {
    uint8_t facts = 0;
    if (same_bits(a, b)) facts |= Pair::same_bits;
    if (a.bare || b.bare ? agree_as_far_as_known(a, b) : statistics_agree(a, b)) facts |= Pair::statistics_agree;
    if (a.n_elements == b.n_elements) facts |= Pair::same_size;
    if (has_nonfinite(a, b)) facts |= Pair::nonfinite;
    if (!a.bare && !b.bare) facts |= Pair::measurable;
    // BitNet-rs writes all rows of a prefill as one record, and hashes integers as f32.
    const bool rows = a.bare != b.bare && a.n_elements != b.n_elements && a.n_elements && b.n_elements &&
                      (a.bare ? a.n_elements % b.n_elements : b.n_elements % a.n_elements) == 0;
    const bool other_bytes = a.bare != b.bare && std::string_view(a.dtype.data()) != "F32";
    if (a.position_assumed == b.position_assumed && !rows && !other_bytes) facts |= Pair::comparable;
    return facts;
}

const envelope::Judge &envelope_of(const Comparison &comparison, const Pair &pair) {
    return *comparison.envelopes[size_t(run_of(pair.key()))];
}

// Inside the largest class, and of which class; a stage that was not measured is not judged unless it is wrong anyway.
Relation judge_noise(Pair &pair, const LogitsPair *logits, const Comparison &comparison) {
    const auto allowed = allowed_distance(comparison, pair);
    const Relation relation = judge(pair, allowed ? logits : nullptr, Rule::envelope, allowed.value_or(HUGE_VAL));
    if (relation != Relation::within) return relation;
    if (!allowed) return Relation::unjudged;
    const std::string_view stage = find_stage(int(node_of(pair.key())))->name;
    pair.noise_class = uint8_t(*envelope_of(comparison, pair).smallest(layer_of(pair.key()), stage, pair.distance));
    return relation;
}

void count(Comparison &comparison, const Pair &pair) {
    Counts &counts = comparison.counts;
    ++counts.compared;
    switch (pair.relation) {
    case Relation::equal: ++counts.equal; break;
    case Relation::within: ++counts.within; break;
    case Relation::unjudged: ++counts.unjudged; break;
    case Relation::different: ++counts.different; break;
    }
    if (node_of(pair.key()) == logits_node()) {
        ++comparison.n_logits;
        comparison.n_logits_unjudged += pair.relation == Relation::unjudged ? 1 : 0;
    }
    if (pair.relation == Relation::equal) return;
    const auto integers = comparison.integers.find(pair.key());
    if (integers != comparison.integers.end() && integers->second.outcome == IntegerOutcome::rounding)
        return;  // it passes under every number
    if (is_undecided(pair, comparison.rule)) {
        ++comparison.n_undecided;
        if (!comparison.first_undecided) comparison.first_undecided = pair.key();
    }
    // Equal bits that are told differently: one record was altered, and no distance speaks for it.
    bool measurable = !pair.is(Pair::same_bits) && std::isfinite(pair.distance) && !pair.is(Pair::nonfinite);
    if (!measurable) {
        comparison.would_pass.reset();
        comparison.no_tolerance_passes = true;
    } else if (!comparison.no_tolerance_passes) {
        comparison.would_pass = std::max(comparison.would_pass.value_or(0), pair.distance);
    }
}

void check_pair(Comparison &comparison, const Trace &a, const Trace &b, const Pair &pair) {
    bool measured = comparison.rule != Rule::hashes && pair.is(Pair::same_size) && pair.is(Pair::measurable);
    if (!measured || pair.is(Pair::nonfinite) || !std::isnan(pair.distance)) return;
    comparison.problems.add(format_text("%s:%u and %s:%u: %s: the distance is NaN: a sketch holds a value that is not finite",
                                        printable(a.files[pair.a.file], 200).c_str(), pair.a.line,
                                        printable(b.files[pair.b.file], 200).c_str(), pair.b.line,
                                        record_name(pair.key()).c_str()));
}

bool same_engine(const Trace &a, const Trace &b) {
    for (size_t i = 0; i < std::min(a.runs.size(), b.runs.size()); ++i) {
        const Run &x = a.runs[i], &y = b.runs[i];
        if (x.engine != y.engine || x.engine_version != y.engine_version) return false;
    }
    return true;
}

}  // namespace

bool statistics_agree(const Record &a, const Record &b) {
    auto near = [](double x, double y, double size) { return std::abs(x - y) <= 1e-5 * size; };
    auto close = [&](double x, double y) { return near(x, y, std::max(std::abs(x), std::abs(y))); };
    if (a.n_nan != b.n_nan || a.n_inf != b.n_inf || a.n_zeros != b.n_zeros || a.n_top != b.n_top) return false;
    for (uint32_t i = 0; i < a.n_top; ++i) {
        if (a.top[i].index != b.top[i].index || a.top[i].value != b.top[i].value) return false;
    }
    return a.sketch == b.sketch && close(a.rms, b.rms) && close(a.l2, b.l2) && close(a.absmax, b.absmax) &&
           close(a.min, b.min) && close(a.max, b.max) && near(a.mean, b.mean, a.rms);
}

std::optional<double> allowed_distance(const Comparison &comparison, const Pair &pair) {
    switch (comparison.rule) {
    case Rule::hashes: break;
    case Rule::distance: return comparison.max_distance;
    case Rule::logits:
        if (node_of(pair.key()) == logits_node()) return kLogitsMaxDistance;
        break;
    case Rule::envelope: {
        const envelope::Judge &envelope = envelope_of(comparison, pair);
        return envelope.allowed(envelope.n_classes() - 1, layer_of(pair.key()),
                                find_stage(int(node_of(pair.key())))->name);
    }
    }
    return std::nullopt;
}

LogitsPair compare_logits(const Record &a, const Record &b, double distance) {
    LogitsPair logits;
    logits.top_a = largest(a);
    logits.top_b = largest(b);
    logits.n_listed = std::max(a.n_top, b.n_top);
    for (uint32_t i = 0; i < a.n_top; ++i) logits.n_common += listed_value(b, a.top[i].index) ? 1 : 0;
    if (logits.top_a && logits.top_b && *logits.top_a != *logits.top_b && a.n_elements > 0) {
        // A difference of two values, each off by up to three standard deviations of the error.
        double noise = 6 * distance * a.l2 / std::sqrt(double(a.n_elements));
        logits.top_inside_noise = lead_inside(a, *logits.top_b, noise);
    }
    return logits;
}

Pair make_pair(const Record &a, const Record &b) {
    Pair pair;
    pair.place_key = a.key;
    pair.event_a = a.event;
    pair.event_b = b.event;
    pair.a = a.place();
    pair.b = b.place();
    pair.facts = facts_of(a, b);
    if (pair.is(Pair::same_bits)) return pair;
    pair.distance = relative_distance(a, b);
    if (pair.is(Pair::same_size) && !pair.is(Pair::nonfinite)) pair.at_least = distance_of_rms(a, b);
    return pair;
}

Relation judge(const Pair &pair, const LogitsPair *logits, Rule rule, double max_distance) {
    if (pair.is(Pair::same_bits)) return pair.is(Pair::statistics_agree) ? Relation::equal : Relation::different;
    if (!pair.is(Pair::comparable)) return Relation::unjudged;
    if (rule == Rule::hashes || !pair.is(Pair::same_size) || pair.is(Pair::nonfinite)) return Relation::different;
    if (rule == Rule::logits && !logits) return Relation::unjudged;
    if (!pair.is(Pair::measurable)) {
        // Root mean squares can show that records are too far apart, never that they are close.
        const double allowed = rule == Rule::logits ? kLogitsMaxDistance : max_distance;
        return pair.at_least > allowed + kRmsRounding ? Relation::different : Relation::unjudged;
    }
    if (rule == Rule::logits) return judge_logits(pair, *logits, kLogitsMaxDistance);
    if (rule == Rule::envelope && logits) return judge_logits(pair, *logits, max_distance);
    return pair.distance <= max_distance ? Relation::within : Relation::different;
}

Relation judge_integers(const IntegerPairs &integers, Key key, Rule rule, Relation relation) {
    const auto at = integers.find(key);
    if (at == integers.end() || rule == Rule::hashes) return relation;
    const IntegerOutcome outcome = at->second.outcome;
    if (outcome == IntegerOutcome::rounding) return Relation::within;
    if (rule == Rule::distance) return relation;
    return outcome == IntegerOutcome::wrong ? Relation::different : Relation::unjudged;
}

bool is_undecided(const Pair &pair, Rule rule) {
    if (pair.relation != Relation::unjudged) return false;
    switch (rule) {
    case Rule::logits: return node_of(pair.key()) == logits_node();
    case Rule::envelope: return !pair.is(Pair::measurable) || !pair.is(Pair::comparable);  // else it has no such stage
    case Rule::hashes:
    case Rule::distance: break;
    }
    return true;
}

Rule rule_for(const Trace &a, const Trace &b, const Options &options) {
    return options.rule.value_or(same_engine(a, b) ? Rule::hashes : Rule::logits);
}

void judge_pairs(const Trace &a, const Trace &b, Comparison &comparison) {
    comparison.would_pass = 0;
    compare_raw(a, b, comparison);
    Counts &counts = comparison.counts;
    counts.unparsable_a = a.n_unparsable;
    counts.unparsable_b = b.n_unparsable;
    counts.duplicate_a = a.n_duplicate;
    counts.duplicate_b = b.n_duplicate;
    for (Pair &pair : comparison.pairs) {
        const LogitsPair *logits = pair.logits == Pair::kNoLogits ? nullptr : &comparison.logits[pair.logits];
        pair.relation = comparison.rule == Rule::envelope
                            ? judge_noise(pair, logits, comparison)
                            : judge(pair, logits, comparison.rule, comparison.max_distance);
        pair.relation = judge_integers(comparison.integers, pair.key(), comparison.rule, pair.relation);
        check_pair(comparison, a, b, pair);
        count(comparison, pair);
    }
}

}  // namespace bitnet::diff
