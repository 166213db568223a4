// The comparison of two traces, from what the run records say to the operation at fault.
#pragma once

#include "abi/cli/diff/integers.h"
#include "abi/cli/diff/trace.h"
#include "abi/cli/envelope/envelope.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace bitnet::diff {

// What decides whether two records agree.
enum class Rule {
    hashes,    // equal bits
    distance,  // relative L2 distance of every record at most Options::max_distance
    logits,    // engines run freely: logits inside the envelope, integers explained by rounding, no verdict on other stages
    envelope,  // every record inside a class of legal variations, as far as they were measured for its stage
};

// By run, of the run records of either side.
using Envelopes = std::vector<std::shared_ptr<const envelope::Judge>>;

struct Options {
    std::optional<Rule> rule;      // none: hashes for the same engine and version, else logits
    double max_distance = 0;       // of Rule::distance
    size_t max_origins = 5;        // listed; all are counted
    bool allow_missing = false;    // records on one side only are no error
    // Set: Rule::envelope. Called once, when both sides are read and nothing ended the comparison before any number; what it
    // throws goes through.
    std::function<Envelopes(const Trace &a, const Trace &b)> find_envelopes;
    std::set<std::string> ignore;  // preflight keys, "model_hash" or "semantics.eps" or all of "semantics"
};

// Free-running logits of two engines agree when their relative L2 distance is at most this (NMSE 1e-2).
inline constexpr double kLogitsMaxDistance = 0.1;
// The growth curve names the first step of more than this factor.
inline constexpr double kJumpFactor = 100;
// Distances below this are rounding inside the sketch: the floor a jump is measured from.
inline constexpr double kSketchFloor = 1e-7;
// One flipped int8 code moves a layer by up to about this: between engines only a larger jump is suspicious.
inline constexpr double kFlipNoise = 1e-2;

// --- preflight: what the run records say ---------------------------------------------------------------------------

struct Fact {
    std::string key;   // "tokens", "hyperparameters.n_layer"
    std::string a, b;  // the two values, or summaries of them
    std::string text;  // for people: "hyperparameters: n_layer 4 against 30"
    bool mismatch;     // the comparison ends here
    bool ignored;      // asked to be
};

// Every difference between the run records, in order of importance, each once.
std::vector<Fact> preflight(const Trace &a, const Trace &b, const Options &options);
// Whether `key` can be given to --ignore.
bool is_preflight_key(const std::string &key);

// --- records -------------------------------------------------------------------------------------------------------

enum class Relation : uint8_t {
    equal,      // same bits
    within,     // inside the tolerance
    unjudged,   // differs, and the rule says nothing about this stage
    different,  // wrong
};

// What two logits records say of the largest values.
struct LogitsPair {
    std::optional<uint32_t> top_a, top_b;  // index of the largest value, when the record shows it
    uint32_t n_common = 0, n_listed = 0;   // of the entries listed in `top` by magnitude
    bool top_inside_noise = false;         // they differ by less than the distance explains
};
LogitsPair compare_logits(const Record &a, const Record &b, double distance);

// What is kept of two records of the same place: the records themselves would be eight times as large.
struct Pair {
    enum : uint8_t {
        same_bits = 1,
        statistics_agree = 2,  // of equal bits
        same_size = 4,
        nonfinite = 8,    // NaN or infinities on a side: only the hashes can tell whether they are the same ones
        measurable = 16,  // both have a sketch
        comparable = 32,  // nothing is guessed: both name their position, hold one row and hash the same kind of bytes
    };
    static constexpr uint32_t kNoLogits = ~0u;

    Key place_key = 0;
    double distance = 0;  // L2 distance over A's L2, from the sketches; NaN when it cannot be measured
    double at_least = 0;  // what is known of it without sketches: the root mean squares are this far apart
    uint64_t event_a = 0, event_b = 0;
    Place a, b;
    uint32_t logits = kNoLogits;  // index into Comparison::logits
    uint8_t facts = 0;
    uint8_t sides = 0;  // that it was read on; the matcher's
    Relation relation = Relation::equal;
    uint8_t noise_class = 0;  // of Rule::envelope and Relation::within: index of the smallest class that holds it

    Key key() const { return place_key; }
    bool is(uint8_t fact) const { return facts & fact; }
};

struct Counts {
    uint64_t compared = 0, equal = 0, within = 0, unjudged = 0, different = 0;
    uint64_t missing_in_a = 0, missing_in_b = 0;
    uint64_t unparsable_a = 0, unparsable_b = 0, duplicate_a = 0, duplicate_b = 0;
};

struct Comparison {
    Rule rule = Rule::hashes, automatic_rule = Rule::hashes;  // the second: without Options::rule
    double max_distance = 0;                                  // of Rule::distance
    Envelopes envelopes;                                      // of Rule::envelope
    std::vector<Pair> pairs;                                  // by key
    std::vector<LogitsPair> logits;
    IntegerPairs integers;  // that differ and are raw on both sides
    Counts counts;
    std::optional<Key> first_missing_in_a, first_missing_in_b;
    uint64_t n_logits = 0, n_logits_unjudged = 0;  // of the pairs
    uint64_t n_undecided = 0;                      // is_undecided() of the pairs
    std::optional<Key> first_undecided;
    std::optional<double> would_pass;  // smallest --tolerance under which every pair agrees; none: no tolerance does
    bool no_tolerance_passes = false;  // a pair cannot be measured
    Problems problems;                 // pairs that contradict themselves
};

// What decides about one pair; `logits`: its entry of Comparison::logits, or NULL. `max_distance`: what Rule::distance
// and Rule::envelope allow this pair.
Relation judge(const Pair &pair, const LogitsPair *logits, Rule rule, double max_distance);
// Whether the rule asks for a verdict on this pair and its records do not allow one.
bool is_undecided(const Pair &pair, Rule rule);
// What raw integers make of it: differences that rounding explains are within, others wrong under rules that leave engines
// some freedom.
Relation judge_integers(const IntegerPairs &integers, Key key, Rule rule, Relation relation);
// Pair of two records of one key, with everything but the relation.
Pair make_pair(const Record &a, const Record &b);

// The rule for these traces, both read to their end, where no envelopes are asked for.
Rule rule_for(const Trace &a, const Trace &b, const Options &options);
// Judges and counts the pairs, which must be there and sorted; the rule, with what it needs, is that of the comparison.
void judge_pairs(const Trace &a, const Trace &b, Comparison &comparison);

// The distance that was allowed for this record; none when only equal bits would do or nothing was asked of it.
std::optional<double> allowed_distance(const Comparison &comparison, const Pair &pair);

// Whether two records of equal bits also say the same of them. Equal bits have equal sums, whoever computed them; the
// slack is for the digits a writer printed.
bool statistics_agree(const Record &a, const Record &b);

// --- op or input ---------------------------------------------------------------------------------------------------

enum class Inputs : uint8_t {
    equal,       // all recorded and equal: the operation itself is wrong
    unrecorded,  // some were not recorded; everything recorded before is equal
    token,       // the token id is its only input
    close,       // Rule::logits: more than kJumpFactor closer than the output
    inside,      // Rule::envelope: inside a class, and the output is not
    own,         // integers: they do not follow from what their own engine recorded as its input
};

struct Origin {
    const Pair *pair;  // at its first position
    Inputs inputs;
    std::vector<std::string> recorded, unrecorded;  // names of the inputs
    uint64_t n_positions = 1;
    double worst_distance = 0;
};

// Where a difference arises although what goes in is equal: one entry for each layer and stage, by first position and
// execution order. Sorted pairs of the comparison.
std::vector<Origin> find_origins(const Comparison &comparison, const Trace &a, const Trace &b);
// Which records differ by rounding, which lie behind those, and which do neither: into `integers`.
void trace_rounding(const Comparison &comparison, const Trace &a, const Trace &b, Integers &integers);
// "event numbers of A contradict ..." when an input was computed after its user; "" when the order holds.
std::string check_execution_order(const Comparison &comparison);

// --- what a pair shows ---------------------------------------------------------------------------------------------

struct TopDifference {
    uint32_t index;
    std::optional<float> a, b;  // none: not among that side's listed entries
};
std::optional<TopDifference> first_top_difference(const Record &a, const Record &b);
// "same values in another order", "one value differs", "B is A times 0.5", each only when the records prove it.
std::vector<std::string> hints(const Record &a, const Record &b);
// What BITNET_TRACE_SELECT must name so that `bitnet explain` can judge this record from raw values: its layer at its position
// with scores, codes, scales and sums, what enters the layer, and K and V of earlier positions.
std::string selection_to_explain(Key key);

// --- growth --------------------------------------------------------------------------------------------------------

struct LayerGrowth {
    int layer;
    const Stage *stage;  // layer_out, or the last recorded stage of this layer
    double distance;     // at the chosen position
    double worst;        // over all positions
    int worst_position;
};
struct Growth {
    int run = 0, position = 0;
    std::vector<LayerGrowth> layers;  // ascending
    std::optional<size_t> jump;       // index of the first layer more than kJumpFactor above the one before
};
// At the position of `key`; empty when no layer was compared there.
Growth growth_curve(const Comparison &comparison, Key key);

// --- envelopes -----------------------------------------------------------------------------------------------------

// One stage of a layer, over all positions and runs.
struct StageNoise {
    int layer;
    const Stage *stage;
    double worst = 0, allowed = 0;  // the distance farthest off, and what the largest class allows there
    size_t noise_class = 0;         // the smallest that holds all of them; the number of classes: none does
};
struct Noise {
    std::vector<std::string> classes;   // names, from the smallest to the largest
    std::vector<uint64_t> records;      // by class, the last for those outside every class; equal ones are in none
    std::optional<size_t> noise_class;  // the smallest that holds everything, none: something is outside every class
    bool all_equal = true;
    std::vector<StageNoise> stages;  // judged, by layer and execution order
};
// Of a comparison by Rule::envelope.
Noise measure_noise(const Comparison &comparison);

// --- the whole -----------------------------------------------------------------------------------------------------

enum class Verdict { match = 0, divergence = 1, error = 2 };  // values: exit status

struct Report {
    Verdict verdict = Verdict::error;
    std::string sentence;             // the verdict in one line
    std::vector<std::string> errors;  // one line each
    size_t n_input_errors = 0;        // of them, the first: what the files themselves are, whatever rule is asked
    std::vector<Fact> facts;
    Comparison comparison;
    bool judged = false;              // false: preflight or the input ended it before any number
    const Pair *first = nullptr;      // first wrong record in execution order; NULL: none
    Record first_a, first_b;          // its two records
    std::vector<Origin> origins;      // the first's, when it has one, stands first
    std::vector<std::string> causes;  // semantics that can explain the first origin
    Growth growth;
    std::optional<Noise> noise;          // Rule::envelope
    Integers integers;                   // raw on both sides
    const Pair *logits = nullptr;        // at the first divergent position, else the first ones that are not equal
    const Pair *logits_worst = nullptr;  // the farthest apart
};

// Reads both sides at once, one thread for each, and compares as it reads: what agrees is not kept. `a` and `b` are filled
// but for their records. Temporary files take what the two orders force to wait and memory should not hold.
Report compare_files(const std::string &path_a, const std::string &path_b, const Options &options, Trace &a, Trace &b);

}  // namespace bitnet::diff
