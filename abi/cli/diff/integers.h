// Codes, scales and sums of two engines whose raw values are there: which of their differences rounding explains.
#pragma once

#include "abi/cli/diff/stages.h"

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace bitnet::diff {

struct Comparison;
struct Pair;
struct Trace;

// How far from k + 0.5 the real value of a code may lie, in code steps, for either neighbour to be right: the product
// of value and scale, each off by an ulp, at 127.
inline constexpr double kTieDistance = 4e-5;
// What the last bit of its largest value leaves to a scale, relative.
inline constexpr double kScaleDistance = 2.4e-7;

enum class IntegerOutcome : uint8_t {
    rounding,  // every code that differs lies at a rounding tie; scales within kScaleDistance
    inputs,    // the others follow, on each side, from what that side's quantiser was given, which differs
    open,      // not judged: sums as large as the codes that differ can make them, scales of another quantiser
    unknown,   // unexplained, because an input was not recorded
    wrong,     // not by a tie, and not by what went in
};

// Two rows of integers (or scales) that differ. Elements by outcome.
struct IntegerPair {
    IntegerOutcome outcome = IntegerOutcome::rounding;
    uint64_t n = 0, n_differ = 0;
    uint64_t n_rounding = 0, n_inputs = 0, n_open = 0, n_unknown = 0, n_wrong = 0;
    double largest = 0;       // difference; of scales relative
    double farthest_tie = 0;  // of the codes at ties, in steps
    double bound = 0;         // of sums: what the codes that differ can make
    bool inputs_equal = false;
    std::string missing;  // the input that was not recorded
    // The first element of the worst outcome.
    struct Element {
        uint64_t index = 0;
        double a = 0, b = 0;
        std::optional<double> real_a, real_b;  // value x scale of a code; what the scale should be
    } shown;
};
using IntegerPairs = std::unordered_map<Key, IntegerPair>;

// Of one kind over all rows that are raw on both sides.
struct IntegerTotals {
    uint64_t rows = 0, rows_equal = 0;
    uint64_t values = 0, differ = 0, rounding = 0, inputs = 0, open = 0, unknown = 0, wrong = 0;
    double largest = 0, farthest_tie = 0;
};
struct Integers {
    IntegerTotals codes, scales, sums;
    std::optional<Key> first_rounding, first_unknown;
    // Records that differ, by why: explained by rounding itself, behind such a one, or neither.
    uint64_t n_rounding = 0, n_behind = 0, n_other = 0;
    std::optional<Key> first_other;

    bool any() const { return codes.rows + scales.rows + sums.rows > 0; }
    uint64_t n_unknown() const { return codes.unknown + scales.unknown + sums.unknown; }
    // Codes were compared, and everything that differs is explained by rounding or lies behind what is.
    bool explain_all() const { return codes.rows > 0 && n_other == 0 && n_unknown() == 0; }
};

// Fills Comparison::pairs' distances of raw values, and Comparison::integers. Before the pairs are judged.
void compare_raw(const Trace &a, const Trace &b, Comparison &comparison);
// After they were judged.
Integers total_integers(const Trace &a, const Trace &b, const Comparison &comparison);

// "3 of 640 codes differ: 2 at rounding ties, 1 without a tie"
std::string integer_text(const IntegerPair &pair, const Stage &stage);
// "[17]: 5 against 6; value x scale: 5.2 in A, 0.3 steps from the tie"
std::string element_text(const IntegerPair &pair, const Stage &stage);
// "3 of 2560 codes differ, all explained by rounding ties"; "": none differs.
std::string totals_text(const IntegerTotals &totals, StageClass kind);
// Of codes, scales and sums, with "; " between.
std::string integers_text(const Integers &integers);

}  // namespace bitnet::diff
