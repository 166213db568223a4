#include "abi/cli/diff/matcher.h"

#include "abi/cli/diff/trace_reader.h"

#include <algorithm>
#include <cmath>

namespace bitnet::diff {

Matcher::Matcher(const Options &options)
    : max_distance_(options.max_distance), index_(size_t(1) << 12), for_envelopes_(options.find_envelopes != nullptr) {
    if (for_envelopes_) return;
    if (options.rule) {
        firsts_.push_back({*options.rule, false, {}, {}});
    } else {
        // Which engine wrote the last run is known at the end only.
        firsts_.push_back({Rule::hashes, false, {}, {}});
        firsts_.push_back({Rule::logits, false, {}, {}});
    }
}

// The place of this key in the index, or the free one where it belongs.
uint32_t &Matcher::find(Key key) {
    const size_t mask = index_.size() - 1;
    for (size_t at = size_t(key * 0x9e3779b97f4a7c15u >> 20) & mask;; at = (at + 1) & mask) {
        const uint32_t number = index_[at];
        if (number == 0 || pairs_[number - 1].place_key == key) return index_[at];
    }
}

void Matcher::grow() {
    index_.assign(2 * index_.size(), 0);
    for (size_t i = 0; i < pairs_.size(); ++i) find(pairs_[i].place_key) = uint32_t(i + 1);
}

void Matcher::add(Side side, const Record &record) {
    if (is_last_layer_key(record.key)) {
        last_layers_[side].push_back(record);
        return;
    }
    const uint8_t here = side == kA ? in_a : in_b;
    uint32_t &number = find(record.key);
    if (number == 0) {
        Pair &pair = pairs_.emplace_back();
        pair.place_key = record.key;
        (side == kA ? pair.a : pair.b) = record.place();
        pair.logits = waiting_.put(record);
        pair.sides = here;
        ++n_waiting_[side];
        number = uint32_t(pairs_.size());
        if (pairs_.size() * 3 > index_.size() * 2) grow();
        return;
    }
    Pair &pair = pairs_[number - 1];
    if (pair.sides & here) {
        Duplicates &duplicates = duplicates_[side];
        if (duplicates.n++ < Problems::kKept) {
            duplicates.kept.push_back({record.key, record.place(), side == kA ? pair.a : pair.b});
        }
        return;
    }
    Record other;
    waiting_.take(pair.logits, other);
    --n_waiting_[side == kA ? kB : kA];
    side == kA ? pair_up(pair, record, other) : pair_up(pair, other, record);
}

// An envelope allows a stage of a layer the same at every position, so a pair that is no farther apart than an earlier one
// is never the first outside. What more than distances decide about is kept as it is.
void Matcher::note_candidate(const Pair &pair, const Record &a, const Record &b) {
    if (pair.is(Pair::same_bits) ? pair.is(Pair::statistics_agree) : !pair.is(Pair::comparable)) return;
    const bool by_distance = !pair.is(Pair::same_bits) && pair.is(Pair::same_size) && !pair.is(Pair::nonfinite) &&
                             pair.is(Pair::measurable) && pair.logits == Pair::kNoLogits;
    if (by_distance && !std::isnan(pair.distance)) {
        const uint64_t run = uint64_t(run_of(pair.key())), layer = uint64_t(layer_of(pair.key()) + 1);
        const auto [at, is_new] = farthest_.try_emplace((run * (kMaxLayers + 1) + layer) * kNodeLimit + node_of(pair.key()),
                                                        Farthest{pair.key(), pair.distance});
        Farthest &farthest = at->second;
        if (!is_new && farthest.key < pair.key() && farthest.distance >= pair.distance) return;
        if (pair.distance >= farthest.distance) farthest = {pair.key(), pair.distance};
    }
    candidates_.push_back({pair.key(), waiting_.put(a), waiting_.put(b)});
}

void Matcher::pair_up(Pair &pair, const Record &a, const Record &b) {
    pair = make_pair(a, b);
    pair.sides = in_a | in_b;
    if (node_of(a.key) == logits_node()) {
        pair.logits = uint32_t(logits_.size());
        logits_.push_back(compare_logits(a, b, pair.distance));
    }
    if (for_envelopes_) note_candidate(pair, a, b);
    const LogitsPair *logits = pair.logits == Pair::kNoLogits ? nullptr : &logits_.back();
    for (FirstPair &first : firsts_) {
        if (first.found && first.a.key < a.key) continue;
        if (judge(pair, logits, first.rule, max_distance_) != Relation::different) continue;
        first.found = true;
        first.a = a;
        first.b = b;
    }
}

// Gives outputs of the last layer their layer's number. One that is there under its number too is the same value twice:
// that is what the name means, and no duplicate.
void Matcher::settle_last_layers(const Trace &a, const Trace &b) {
    for (const Side side : {kA, kB}) {
        std::vector<Record> &records = last_layers_[side];
        for (Record &record : records) {
            const size_t run = size_t(run_of(record.key));
            const int last = std::max(run < a.runs.size() ? a.runs[run].max_layer : -1,
                                      run < b.runs.size() ? b.runs[run].max_layer : -1);
            record.key = make_key(int(run), position_of(record.key), std::max(last, 0),
                                  *find_stage(int(layer_out_node())));
        }
        // All are looked up before the first is added: two of the same position are duplicates.
        std::erase_if(records, [&](const Record &record) {
            const uint32_t number = find(record.key);
            return number != 0 && pairs_[number - 1].sides & (side == kA ? in_a : in_b);
        });
        for (const Record &record : records) add(side, record);
    }
}

void Matcher::report_duplicates(Side side, Trace &trace) const {
    const Duplicates &duplicates = duplicates_[side];
    trace.n_duplicate = duplicates.n;
    for (uint64_t i = 0; i < duplicates.n; ++i) {
        // Those beyond what is kept count only.
        const auto &item = duplicates.kept[std::min<size_t>(i, duplicates.kept.size() - 1)];
        trace.problems.add(duplicate_text(trace, item.key, item.second, item.first));
    }
}

void Matcher::finish(Trace &a, Trace &b, Comparison &comparison) {
    settle_last_layers(a, b);
    report_duplicates(kA, a);
    report_duplicates(kB, b);
    std::vector<uint32_t>().swap(index_);
    Counts &counts = comparison.counts;
    auto missing = [](uint64_t &n, std::optional<Key> &first, Key key) {
        ++n;
        if (!first || key < *first) first = key;
    };
    std::erase_if(pairs_, [&](const Pair &pair) {
        if (pair.sides == in_a) missing(counts.missing_in_b, comparison.first_missing_in_b, pair.place_key);
        if (pair.sides == in_b) missing(counts.missing_in_a, comparison.first_missing_in_a, pair.place_key);
        return pair.sides != (in_a | in_b);
    });
    comparison.pairs = std::move(pairs_);
    std::sort(comparison.pairs.begin(), comparison.pairs.end(),
              [](const Pair &x, const Pair &y) { return x.place_key < y.place_key; });
    comparison.logits = std::move(logits_);
}

void Matcher::take_first(Rule rule, Key key, Record &a, Record &b) {
    for (const FirstPair &first : firsts_) {
        if (first.rule != rule) continue;
        a = first.a;
        b = first.b;
    }
    for (const Candidate &candidate : candidates_) {
        if (candidate.key != key) continue;
        waiting_.take(candidate.a, a);
        waiting_.take(candidate.b, b);
    }
}

}  // namespace bitnet::diff
