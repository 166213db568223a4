// Finds the two records of each place while both traces are being read.
#pragma once

#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/waiting_records.h"

#include <array>
#include <unordered_map>

namespace bitnet::diff {

class Matcher {
public:
    enum Side { kA, kB };

    explicit Matcher(const Options &options);

    // In any order.
    void add(Side side, const Record &record);
    uint64_t n_waiting(Side side) const { return n_waiting_[side]; }

    // When both sides are read: pairs, missing and duplicate records into the comparison, and into the traces' problems.
    void finish(Trace &a, Trace &b, Comparison &comparison);

    // The two records of the first pair that this rule calls different, which is that of `key`. Once.
    void take_first(Rule rule, Key key, Record &a, Record &b);

private:
    enum : uint8_t { in_a = 1, in_b = 2 };

    struct FirstPair {
        Rule rule;
        bool found = false;
        Record a, b;
    };
    // A pair that may turn out to be the first outside an envelope, which is known when all tokens are. Its records wait.
    struct Candidate {
        Key key;
        uint32_t a, b;  // slots
    };
    struct Farthest {
        Key key;
        double distance;
    };

    struct Duplicates {
        uint64_t n = 0;
        struct Item {
            Key key;
            Place second, first;
        };
        std::vector<Item> kept;
    };

    uint32_t &find(Key key);
    void grow();
    void note_candidate(const Pair &pair, const Record &a, const Record &b);
    void pair_up(Pair &pair, const Record &a, const Record &b);
    void settle_last_layers(const Trace &a, const Trace &b);
    void report_duplicates(Side side, Trace &trace) const;

    double max_distance_;
    std::vector<Pair> pairs_;      // also of one record; while it waits, `logits` is its slot
    std::vector<uint32_t> index_;  // by hash of the key: number of a pair plus one, 0: none
    WaitingRecords waiting_;
    std::array<uint64_t, 2> n_waiting_{};
    std::array<Duplicates, 2> duplicates_;
    std::array<std::vector<Record>, 2> last_layers_;  // outputs of the last layer, whichever that is
    std::vector<LogitsPair> logits_;
    std::vector<FirstPair> firsts_;  // of the rules that may turn out to be the one
    bool for_envelopes_;
    std::vector<Candidate> candidates_;
    std::unordered_map<uint64_t, Farthest> farthest_;  // of the candidates, by run, layer and stage
};

}  // namespace bitnet::diff
