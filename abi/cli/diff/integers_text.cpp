// What is said of codes, scales and sums.
#include "abi/cli/diff/integers.h"

#include "abi/cli/diff/text.h"

namespace bitnet::diff {

namespace {

using Llu = unsigned long long;

const char *things(StageClass kind, uint64_t n) {
    switch (kind) {
    case StageClass::codes: return n == 1 ? "code" : "codes";
    case StageClass::scale: return n == 1 ? "scale" : "scales";
    default: return n == 1 ? "sum" : "sums";
    }
}

struct Numbers {
    uint64_t n, differ, rounding, inputs, open, unknown, wrong;
};

// "3 of 640 codes differ: 2 explained by rounding ties, 1 without a tie"
std::string numbers_text(StageClass kind, const Numbers &n) {
    const bool codes = kind == StageClass::codes, sums = kind == StageClass::accumulator;
    std::string text = format_text("%llu of %llu %s %s", Llu(n.differ), Llu(n.n), things(kind, n.n),
                                   n.differ == 1 ? "differs" : "differ");
    const std::pair<uint64_t, const char *> parts[] = {
        {n.rounding, codes ? "explained by rounding ties" : "in the last bit"},
        {n.inputs, "by inputs that differ"},
        {n.open, sums ? "within what the codes that differ can make, not judged: the weights are not known"
                      : "not judged: of another quantiser"},
        {n.unknown, "unexplained because the input was not recorded"},
        {n.wrong, codes  ? "without a tie"
                  : sums ? "beyond what their codes make"
                         : "too far apart"}};
    const char *between = ": ";
    for (const auto &[count, what] : parts) {
        if (count == 0) continue;
        text += count == n.differ ? (count == 1 ? ", " : ", all ") : between + format_text("%llu ", Llu(count));
        text += what;
        between = ", ";
    }
    return text;
}

}  // namespace

std::string integer_text(const IntegerPair &pair, const Stage &stage) {
    return numbers_text(stage.stage_class, {pair.n, pair.n_differ, pair.n_rounding, pair.n_inputs, pair.n_open,
                                            pair.n_unknown, pair.n_wrong});
}

std::string element_text(const IntegerPair &pair, const Stage &stage) {
    const IntegerPair::Element &e = pair.shown;
    std::string text =
        format_text("[%llu]: %s against %s", Llu(e.index), full_number(e.a).c_str(), full_number(e.b).c_str());
    if (stage.stage_class == StageClass::accumulator)
        return text + (pair.missing.empty() ? format_text("; the codes that differ can make %.0f", pair.bound)
                                            : "; " + pair.missing + " was not recorded");
    if (!e.real_a && !e.real_b) return text + "; " + pair.missing + " was not recorded";
    text += stage.stage_class == StageClass::codes ? "; value x scale is " : "; 127 over the largest value is ";
    if (e.real_a) text += full_number(*e.real_a) + " in A";
    if (e.real_b) text += (e.real_a ? ", " : "") + full_number(*e.real_b) + " in B";
    if (!e.real_a || !e.real_b) text += ", not recorded in " + std::string(e.real_a ? "B" : "A");
    return text;
}

std::string totals_text(const IntegerTotals &t, StageClass kind) {
    if (t.differ == 0) return "";
    return numbers_text(kind, {t.values, t.differ, t.rounding, t.inputs, t.open, t.unknown, t.wrong});
}

std::string integers_text(const Integers &integers) {
    std::string text;
    for (const auto &[totals, kind] :
         {std::pair(&integers.codes, StageClass::codes), std::pair(&integers.scales, StageClass::scale),
          std::pair(&integers.sums, StageClass::accumulator)}) {
        const std::string part = totals_text(*totals, kind);
        if (!part.empty()) text += (text.empty() ? "" : "; ") + part;
    }
    return text;
}

}  // namespace bitnet::diff
