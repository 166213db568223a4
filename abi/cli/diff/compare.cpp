#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/text.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bitnet::diff {

namespace {

double sketch_distance(const Record &a, const Record &b) {
    double sum = 0;
    for (size_t i = 0; i < kSketchBuckets; ++i) {
        double d = double(a.sketch[i]) - double(b.sketch[i]);
        sum += d * d;
    }
    return std::sqrt(sum);
}

double relative_distance(const Record &a, const Record &b) {
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

// With NaN or infinities anywhere only the hashes can tell whether they are the same ones.
bool has_nonfinite(const Record &a, const Record &b) { return a.n_nan + a.n_inf + b.n_nan + b.n_inf > 0; }

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
bool top_differs(const Pair &pair) {
    LogitsPair logits = compare_logits(pair);
    return logits.top_a && logits.top_b && *logits.top_a != *logits.top_b && !logits.top_inside_noise;
}

Relation judge_logits(const Pair &pair) {
    if (!(pair.distance <= kLogitsMaxDistance)) return Relation::different;
    return top_differs(pair) ? Relation::different : Relation::within;
}

const envelope::Judge &envelope_of(const Comparison &comparison, const Pair &pair) {
    return *comparison.envelopes[size_t(run_of(pair.key()))];
}

Relation judge_noise(Pair &pair, const Comparison &comparison) {
    const envelope::Judge &envelope = envelope_of(comparison, pair);
    const Stage &stage = *find_stage(int(node_of(pair.key())));
    std::optional<size_t> smallest = envelope.smallest(layer_of(pair.key()), stage.name, pair.distance);
    if (!smallest) return Relation::unjudged;
    if (*smallest == envelope.n_classes()) return Relation::different;
    pair.noise_class = uint8_t(*smallest);
    return stage.node == logits_node() && top_differs(pair) ? Relation::different : Relation::within;
}

Relation judge(Pair &pair, const Comparison &comparison) {
    if (same_bits(*pair.a, *pair.b)) {
        return statistics_agree(*pair.a, *pair.b) ? Relation::equal : Relation::different;
    }
    if (comparison.rule == Rule::hashes || pair.a->n_elements != pair.b->n_elements ||
        has_nonfinite(*pair.a, *pair.b)) {
        return Relation::different;
    }
    if (comparison.rule == Rule::distance) {
        return pair.distance <= comparison.max_distance ? Relation::within : Relation::different;
    }
    if (comparison.rule == Rule::envelope) return judge_noise(pair, comparison);
    return node_of(pair.key()) == logits_node() ? judge_logits(pair) : Relation::unjudged;
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
    if (node_of(pair.key()) == logits_node()) ++comparison.n_logits;
    if (pair.relation == Relation::equal) return;
    bool measurable = std::isfinite(pair.distance) && !has_nonfinite(*pair.a, *pair.b);
    if (!measurable) {
        comparison.would_pass.reset();
        comparison.no_tolerance_passes = true;
    } else if (!comparison.no_tolerance_passes) {
        comparison.would_pass = std::max(comparison.would_pass.value_or(0), pair.distance);
    }
}

void check_pair(Comparison &comparison, const Trace &a, const Trace &b, const Pair &pair) {
    auto where = [&](const char *text) {
        comparison.problems.add(format_text("%s:%u and %s:%u: %s: %s", printable(a.files[pair.a->file], 200).c_str(),
                                            pair.a->line, printable(b.files[pair.b->file], 200).c_str(), pair.b->line,
                                            record_name(pair.key()).c_str(), text));
    };
    bool measured = comparison.rule != Rule::hashes && pair.a->n_elements == pair.b->n_elements;
    if (measured && !has_nonfinite(*pair.a, *pair.b) && std::isnan(pair.distance))
        where("the distance is NaN: a sketch holds a value that is not finite");
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

LogitsPair compare_logits(const Pair &pair) {
    const Record &a = *pair.a, &b = *pair.b;
    LogitsPair logits;
    logits.top_a = largest(a);
    logits.top_b = largest(b);
    logits.n_listed = std::max(a.n_top, b.n_top);
    for (uint32_t i = 0; i < a.n_top; ++i) logits.n_common += listed_value(b, a.top[i].index) ? 1 : 0;
    if (logits.top_a && logits.top_b && *logits.top_a != *logits.top_b && a.n_elements > 0) {
        // A difference of two values, each off by up to three standard deviations of the error.
        double noise = 6 * pair.distance * a.l2 / std::sqrt(double(a.n_elements));
        logits.top_inside_noise = lead_inside(a, *logits.top_b, noise);
    }
    return logits;
}

Comparison compare_records(const Trace &a, const Trace &b, const Options &options) {
    Comparison comparison;
    comparison.rule = options.rule.value_or(same_engine(a, b) ? Rule::hashes : Rule::logits);
    if (!options.envelopes.empty()) comparison.rule = Rule::envelope;
    comparison.envelopes = options.envelopes;
    comparison.max_distance = options.max_distance;
    comparison.would_pass = 0;
    Counts &counts = comparison.counts;
    counts.unparsable_a = a.n_unparsable;
    counts.unparsable_b = b.n_unparsable;
    counts.duplicate_a = a.n_duplicate;
    counts.duplicate_b = b.n_duplicate;
    auto in_a = a.sorted.begin(), in_b = b.sorted.begin();
    while (in_a != a.sorted.end() || in_b != b.sorted.end()) {
        if (in_b == b.sorted.end() || (in_a != a.sorted.end() && (*in_a)->key < (*in_b)->key)) {
            if (counts.missing_in_b++ == 0) comparison.first_missing_in_b = (*in_a)->key;
            ++in_a;
        } else if (in_a == a.sorted.end() || (*in_b)->key < (*in_a)->key) {
            if (counts.missing_in_a++ == 0) comparison.first_missing_in_a = (*in_b)->key;
            ++in_b;
        } else {
            Pair pair{*in_a++, *in_b++, 0, Relation::equal};
            if (!same_bits(*pair.a, *pair.b)) pair.distance = relative_distance(*pair.a, *pair.b);
            pair.relation = judge(pair, comparison);
            check_pair(comparison, a, b, pair);
            count(comparison, pair);
            comparison.pairs.push_back(pair);
        }
    }
    return comparison;
}

}  // namespace bitnet::diff
