#include "abi/cli/diff/integers.h"

#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/raw_values.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace bitnet::diff {

namespace {

constexpr double kCodeMax = 127, kAbsmaxMin = 1e-5;

bool is_integer(StageClass kind) {
    return kind == StageClass::codes || kind == StageClass::scale || kind == StageClass::accumulator;
}

// What the quantiser makes of a row, by the paper's formula: 127 over the largest magnitude, in f32.
float scale_by_formula(const RawRow &x, size_t begin, size_t end) {
    float largest = float(kAbsmaxMin);
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(float(x[i])));
    return float(kCodeMax) / largest;
}

// What one engine's quantiser was given.
struct Quantised {
    explicit Quantised(std::optional<RawRow> input) : x(std::move(input)) {}
    std::optional<RawRow> x, scale;

    // The real value of code `i` of `n`.
    std::optional<double> real(size_t i, size_t n) const {
        if (!x || x->size() != n) return std::nullopt;
        if (!scale) return (*x)[i] * double(by_formula(n));
        if (scale->size() == 0 || n % scale->size() != 0) return std::nullopt;
        return (*x)[i] * (*scale)[i / (n / scale->size())];
    }
    // Scale `i` of `n`.
    std::optional<double> own_scale(size_t i, size_t n) const {
        if (!x || n == 0 || x->size() % n != 0) return std::nullopt;
        const size_t block = x->size() / n;
        return scale_by_formula(*x, i * block, (i + 1) * block);
    }

private:
    float by_formula(size_t n) const {
        if (!formula_) formula_ = scale_by_formula(*x, 0, n);
        return *formula_;
    }
    mutable std::optional<float> formula_;
};

double relative(double a, double b) { return a == b ? 0 : std::fabs(a - b) / std::fabs(a); }

IntegerOutcome worst_of(const IntegerPair &pair) {
    if (pair.n_wrong) return IntegerOutcome::wrong;
    if (pair.n_unknown) return IntegerOutcome::unknown;
    if (pair.n_open) return IntegerOutcome::open;
    if (pair.n_inputs) return IntegerOutcome::inputs;
    return IntegerOutcome::rounding;
}

// One pair of rows, element by element.
class Judge {
public:
    // `differs_before`: so that what went in need not be the same where only one side recorded it.
    Judge(const RawRow &a, const RawRow &b, bool differs_before) : a_(a), b_(b), differs_before_(differs_before) {
        out_.n = a.size();
    }

    template <class Classify> IntegerPair run(Classify classify) {
        std::optional<IntegerOutcome> shown;
        for (size_t i = 0; i < a_.size(); ++i) {
            const double a = a_[i], b = b_[i];
            if (a == b || (std::isnan(a) && std::isnan(b))) continue;
            ++out_.n_differ;
            IntegerPair::Element element{i, a, b, std::nullopt, std::nullopt};
            const IntegerOutcome outcome = classify(element);
            ++count_of(outcome);
            if (shown && *shown >= outcome) continue;
            shown = outcome;
            out_.shown = element;
        }
        out_.outcome = worst_of(out_);
        return out_;
    }

    IntegerOutcome code(IntegerPair::Element &e, const Quantised &a, const Quantised &b) {
        const double step = std::fabs(e.a - e.b), tie = 0.5 * (e.a + e.b);
        out_.largest = std::max(out_.largest, step);
        e.real_a = a.real(e.index, out_.n);
        e.real_b = b.real(e.index, out_.n);
        if (!e.real_a && !e.real_b) return IntegerOutcome::unknown;
        const double off_a = e.real_a ? std::fabs(*e.real_a - tie) : 0,
                     off_b = e.real_b ? std::fabs(*e.real_b - tie) : 0;
        if (step == 1 && off_a <= kTieDistance && off_b <= kTieDistance) {
            out_.farthest_tie = std::max({out_.farthest_tie, off_a, off_b});
            return IntegerOutcome::rounding;
        }
        if (!e.real_a || !e.real_b) return one_sided();
        return follows(*e.real_a, e.a) && follows(*e.real_b, e.b) ? IntegerOutcome::inputs : IntegerOutcome::wrong;
    }

    IntegerOutcome scale(IntegerPair::Element &e, const Quantised &a, const Quantised &b) {
        const double off = relative(e.a, e.b);
        out_.largest = std::isnan(off) ? HUGE_VAL : std::max(out_.largest, off);
        e.real_a = a.own_scale(e.index, out_.n);
        e.real_b = b.own_scale(e.index, out_.n);
        if (off <= kScaleDistance) return IntegerOutcome::rounding;
        if (!e.real_a && !e.real_b) return IntegerOutcome::unknown;
        if (!e.real_a || !e.real_b) return one_sided();
        if (out_.inputs_equal) return IntegerOutcome::wrong;
        const bool a_follows = relative(*e.real_a, e.a) <= kScaleDistance;
        const bool b_follows = relative(*e.real_b, e.b) <= kScaleDistance;
        if (a_follows != b_follows) return IntegerOutcome::wrong;
        return a_follows ? IntegerOutcome::inputs : IntegerOutcome::open;
    }

    // A weight is -1, 0 or 1: a sum cannot move farther than its codes did.
    IntegerOutcome sum(const IntegerPair::Element &e) {
        out_.largest = std::max(out_.largest, std::fabs(e.a - e.b));
        return std::fabs(e.a - e.b) <= out_.bound ? IntegerOutcome::open : IntegerOutcome::wrong;
    }

    IntegerPair &out() { return out_; }

private:
    static bool follows(double real, double code) {
        return std::fabs(std::clamp(real, -kCodeMax, kCodeMax) - code) <= 0.5 + kTieDistance;
    }
    IntegerOutcome one_sided() const { return differs_before_ ? IntegerOutcome::unknown : IntegerOutcome::wrong; }

    uint64_t &count_of(IntegerOutcome outcome) {
        switch (outcome) {
        case IntegerOutcome::rounding: return out_.n_rounding;
        case IntegerOutcome::inputs: return out_.n_inputs;
        case IntegerOutcome::open: return out_.n_open;
        case IntegerOutcome::unknown: return out_.n_unknown;
        case IntegerOutcome::wrong: break;
        }
        return out_.n_wrong;
    }

    const RawRow &a_, &b_;
    bool differs_before_;
    IntegerPair out_;
};

// Rows of the stages that a pair's stage is computed from.
class Rows {
public:
    Rows(const Trace &a, const Trace &b) : a_(*a.raw), b_(*b.raw) {}

    IntegerPair judge(const Pair &pair, const Stage &stage, bool differs_before) const {
        const Key key = pair.key();
        const RawRow row_a = *a_.find(key), row_b = *b_.find(key);
        Judge judge(row_a, row_b, differs_before);
        if (stage.stage_class == StageClass::accumulator) return sums(judge, key, stage);
        const Key x = sibling(key, stage.inputs[0].node);
        Quantised a(a_.find(x)), b(b_.find(x));
        judge.out().missing = !a.x && !b.x ? stage_name(x)
                              : !a.x       ? stage_name(x) + " of A"
                              : !b.x       ? stage_name(x) + " of B"
                                           : "";
        judge.out().inputs_equal = a.x && b.x && a.x->dtype == b.x->dtype && a.x->bytes == b.x->bytes;
        if (stage.stage_class == StageClass::scale)
            return judge.run([&](IntegerPair::Element &e) { return judge.scale(e, a, b); });
        const Key scale = sibling(key, stage.inputs[1].node);
        a.scale = a_.find(scale);
        b.scale = b_.find(scale);
        return judge.run([&](IntegerPair::Element &e) { return judge.code(e, a, b); });
    }

private:
    static Key sibling(Key key, Node node) {
        return make_key(run_of(key), position_of(key), layer_of(key), *find_stage(int(node)));
    }
    static std::string stage_name(Key key) { return std::string(find_stage(int(node_of(key)))->name); }

    IntegerPair sums(Judge &judge, Key key, const Stage &stage) const {
        const Key codes = sibling(key, stage.inputs[0].node);
        const auto a = a_.find(codes), b = b_.find(codes);
        IntegerPair &out = judge.out();
        if (!a || !b || a->size() != b->size()) {
            out.missing = stage_name(codes) + (a ? " of B" : b ? " of A" : "");
            return judge.run([](IntegerPair::Element &) { return IntegerOutcome::unknown; });
        }
        for (size_t i = 0; i < a->size(); ++i) out.bound += std::fabs((*a)[i] - (*b)[i]);
        out.inputs_equal = out.bound == 0;
        return judge.run([&](IntegerPair::Element &e) { return judge.sum(e); });
    }

    const RawValues &a_, &b_;
};

}  // namespace

void compare_raw(const Trace &a, const Trace &b, Comparison &comparison) {
    if (!a.raw || !b.raw) return;
    const Rows rows(a, b);
    bool differs_before = false;
    int run = -1;
    for (Pair &pair : comparison.pairs) {
        if (run_of(pair.key()) != run) differs_before = false;
        run = run_of(pair.key());
        if (pair.is(Pair::same_bits)) continue;
        const Stage &stage = *find_stage(int(node_of(pair.key())));
        const RawRow row_a = *a.raw->find(pair.key()), row_b = *b.raw->find(pair.key());
        pair.distance = exact_distance(row_a, row_b);
        if (pair.logits != Pair::kNoLogits)
            comparison.logits[pair.logits] = compare_logits(record_of(row_a), record_of(row_b), pair.distance);
        if (is_integer(stage.stage_class) && pair.is(Pair::same_size))
            comparison.integers.emplace(pair.key(), rows.judge(pair, stage, differs_before));
        differs_before = true;
    }
}

Integers total_integers(const Trace &a, const Trace &b, const Comparison &comparison) {
    Integers out;
    if (!a.raw || !b.raw) return out;
    for (const Pair &pair : comparison.pairs) {
        const StageClass kind = find_stage(int(node_of(pair.key())))->stage_class;
        if (!is_integer(kind)) continue;
        IntegerTotals &totals = kind == StageClass::codes   ? out.codes
                                : kind == StageClass::scale ? out.scales
                                                            : out.sums;
        ++totals.rows;
        totals.values += a.raw->size_of(pair.key());
        totals.rows_equal += pair.is(Pair::same_bits);
        const auto at = comparison.integers.find(pair.key());
        if (at == comparison.integers.end()) continue;
        const IntegerPair &integers = at->second;
        totals.differ += integers.n_differ;
        totals.rounding += integers.n_rounding;
        totals.inputs += integers.n_inputs;
        totals.open += integers.n_open;
        totals.unknown += integers.n_unknown;
        totals.wrong += integers.n_wrong;
        totals.largest = std::max(totals.largest, integers.largest);
        totals.farthest_tie = std::max(totals.farthest_tie, integers.farthest_tie);
        if (integers.n_rounding && !out.first_rounding) out.first_rounding = pair.key();
        if (integers.outcome == IntegerOutcome::unknown && !out.first_unknown) out.first_unknown = pair.key();
    }
    return out;
}

}  // namespace bitnet::diff
