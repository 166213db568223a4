// Op or input: where a difference arises although everything that goes into the operation is equal.
#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/text.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace bitnet::diff {

namespace {

// What is known of a value, recorded or seen through its own inputs.
struct Known {
    bool different = false;
    bool recorded = true;  // false: somewhere on the way a value that no trace holds
    double distance = 0;
    bool rounding = false, other = false;  // how it differs: by what rounding explains, by something else

    void join(const Known &also) {
        different |= also.different;
        rounding |= also.rounding;
        other |= also.other;
        recorded &= also.recorded;
        distance = std::max(distance, also.distance);
    }
};

// Pairs of one position, ascending.
using Slice = std::span<const Pair>;

const Pair *find(Slice slice, Key key) {
    auto at = std::lower_bound(slice.begin(), slice.end(), key, [](const Pair &p, Key k) { return p.key() < k; });
    return at != slice.end() && at->key() == key ? &*at : nullptr;
}

// What the last bits of an operation at equal inputs may be apart.
double rounding_distance(const Stage &stage, int position) {
    switch (stage.stage_class) {
    case StageClass::linear: return 5e-7;
    case StageClass::rope: return 2e-6 + 1e-7 * position;
    case StageClass::attention: return 5e-6;
    default: return 2e-6;
    }
}

// Engines that run freely: no stage is equal, so a leap over the inputs takes the place of "inputs equal".
bool leaps(const Pair &pair, const Known &inputs) {
    const double floor = std::max(inputs.distance, kSketchFloor);
    return pair.is(Pair::measurable) && pair.distance > std::max(kFlipNoise, kJumpFactor * floor);
}

// Walks the stages of a run position by position in execution order, carrying what is known of each value.
class Dataflow {
public:
    Dataflow(const Comparison &comparison, const Run &a, const Run &b)
        : comparison_(comparison), rule_(comparison.rule), nodes_(a.nodes | b.nodes), tokens_known_(!a.tokens.empty() && !b.tokens.empty()),
          n_layers_(std::max(a.max_layer, b.max_layer) + 1), cached_(size_t(n_layers_)) {}

    // Positions ascending. `visit(pair, stage, layer, inputs)` is called for every pair.
    template <typename Visit> void position(Slice slice, Visit &&visit) {
        int run = run_of(slice.front().key()), at = position_of(slice.front().key());
        // K and V of a position that no record shows.
        if (at != next_position_) {
            for (auto &layer : cached_) layer[kKeys].recorded = layer[kValues].recorded = false;
        }
        next_position_ = at + 1;
        auto next = slice.begin();
        auto take = [&](const Stage &stage, int layer) {
            Known inputs = this->inputs(stage);
            bool here = next != slice.end() && next->key() == make_key(run, at, layer, stage);
            if (!here) {
                // A stage that is not there at all is looked through; one that could have been recorded is a gap.
                inputs.recorded &= stage.skippable || absent_sub_norm(stage);
                values_[stage.node] = inputs;
                return;
            }
            // Under a tolerance nothing is known of what could not be judged.
            const bool known = rule_ == Rule::logits || !is_undecided(*next, rule_);
            values_[stage.node] = {next->relation == Relation::different, known,
                                   std::isfinite(next->distance) ? next->distance : HUGE_VAL};
            note_difference(*next, stage, inputs, values_[stage.node]);
            visit(*next++, stage, layer, inputs);
        };
        take(*find_stage(embeddings_node()), -1);
        residual_ = values_[embeddings_node()];
        for (int layer = 0; layer < n_layers_; ++layer) {
            cache_ = &cached_[size_t(layer)];
            for (const Stage &stage : stages()) {
                if (!stage.in_layer) continue;
                take(stage, layer);
                note_cached(stage);
            }
            residual_ = values_[layer_out_node()];
        }
        for (const Stage &stage : stages()) {
            if (!stage.in_layer && stage.node != embeddings_node()) take(stage, -1);
        }
    }

    // What is known of a stage that was visited at this position.
    const Known &value(const Stage &stage) const { return values_[stage.node]; }

    bool is_gap(const Stage &stage) const { return !(stage.skippable || absent_sub_norm(stage)); }

private:
    enum { kKeys, kValues };

    Known inputs(const Stage &stage) const {
        Known known;
        if (stage.n_inputs == 0) known.recorded = tokens_known_;
        for (int i = 0; i < stage.n_inputs; ++i) known.join(input(stage.inputs[i]));
        return known;
    }
    Known input(const StageInput &input) const {
        switch (input.from) {
        case From::here: break;
        case From::residual:
        case From::last_layer: return residual_;
        case From::every_position: return (*cache_)[input.node == value_node() ? kValues : kKeys];
        }
        return values_[input.node];
    }
    static Node value_node() {
        static const Node node = find_stage("v_proj")->node;
        return node;
    }
    static Node key_node() {
        static const Node node = find_stage("k_rope")->node;
        return node;
    }
    void note_cached(const Stage &stage) {
        if (stage.node == key_node()) (*cache_)[kKeys].join(values_[stage.node]);
        if (stage.node == value_node()) (*cache_)[kValues].join(values_[stage.node]);
    }
    // Architectures without sub-norms: neither trace has a single record of the stage.
    bool absent_sub_norm(const Stage &stage) const {
        return (stage.name == "attn_sub_norm" || stage.name == "ffn_sub_norm") && !nodes_[stage.node];
    }

    // Why a value is not that of the other side.
    void note_difference(const Pair &pair, const Stage &stage, const Known &inputs, Known &value) const {
        if (pair.relation == Relation::equal) return;
        const auto at = comparison_.integers.find(pair.key());
        const bool judged = at != comparison_.integers.end();
        if (judged && at->second.outcome == IntegerOutcome::rounding) {
            value.rounding = true;
            return;
        }
        const bool wrong = judged && at->second.outcome >= IntegerOutcome::unknown;
        if (wrong || inputs.other || !std::isfinite(pair.distance) || leaps(pair, inputs)) {
            value.other = true;
        } else if (inputs.rounding || pair.distance <= rounding_distance(stage, position_of(pair.key()))) {
            value.rounding = true;
        } else {
            value.other = true;
        }
    }

    const Comparison &comparison_;
    Rule rule_;
    std::bitset<kNodeLimit> nodes_;
    bool tokens_known_;
    int n_layers_;
    int next_position_ = 0;
    std::array<Known, kNodeLimit> values_{};
    Known residual_;
    std::vector<std::array<Known, 2>> cached_;  // by layer: K and V of all positions so far
    std::array<Known, 2> *cache_ = nullptr;
};

// Names of what a stage reads, looking through stages that are not there.
class InputNames {
public:
    InputNames(Slice slice, const Dataflow &flow) : slice_(slice), flow_(flow) {}

    void collect(const Stage &stage, int layer, int n_layers, Origin &out) {
        for (int i = 0; i < stage.n_inputs; ++i) {
            const StageInput &input = stage.inputs[i];
            const Stage *source = find_stage(int(input.node));
            int source_layer = layer;
            if (input.from == From::residual) source_layer = layer - 1;
            if (input.from == From::last_layer) source_layer = n_layers - 1;
            if (source_layer < 0 && source->in_layer) source = find_stage(int(embeddings_node()));
            if (seen_[source->node]) continue;
            seen_.set(source->node);
            std::string name(source->name);
            if (source->in_layer && source_layer != layer) name += format_text(" of layer %d", source_layer);
            int at = position_of(slice_.front().key());
            if (input.from == From::every_position && at > 0) name += format_text(" of tokens 0 to %d", at);
            if (find(slice_, make_key(run_of(slice_.front().key()), at, source_layer, *source))) {
                out.recorded.push_back(name);
            } else if (flow_.is_gap(*source)) {
                out.unrecorded.push_back(name);
            } else {
                collect(*source, source_layer, n_layers, out);
            }
        }
    }

private:
    Slice slice_;
    const Dataflow &flow_;
    std::bitset<kNodeLimit> seen_;
};

// Calls `visit(pair, stage, layer, inputs, slice, flow)` for every pair, in order.
template <typename Visit> void walk(const Comparison &comparison, const Trace &a, const Trace &b, Visit &&visit) {
    const std::vector<Pair> &pairs = comparison.pairs;
    std::optional<Dataflow> flow;
    for (size_t begin = 0, end; begin < pairs.size(); begin = end) {
        const Key limit = next_position(pairs[begin].key());
        for (end = begin; end < pairs.size() && pairs[end].key() < limit;) ++end;
        const size_t run = size_t(run_of(pairs[begin].key()));
        if (begin == 0 || run != size_t(run_of(pairs[begin - 1].key()))) flow.emplace(comparison, a.runs[run], b.runs[run]);
        const Slice slice(pairs.data() + begin, end - begin);
        flow->position(slice, [&](const Pair &pair, const Stage &stage, int layer, const Known &inputs) {
            visit(pair, stage, layer, inputs, slice, *flow);
        });
    }
}

class OriginFinder {
public:
    OriginFinder(const Comparison &comparison, const Trace &a, const Trace &b)
        : comparison_(comparison), a_(a), b_(b) {}

    std::vector<Origin> find() {
        walk(comparison_, a_, b_,
             [&](const Pair &pair, const Stage &stage, int layer, const Known &inputs, Slice slice, const Dataflow &flow) {
                 const size_t run = size_t(run_of(pair.key()));
                 const int n_layers = std::max(a_.runs[run].max_layer, b_.runs[run].max_layer) + 1;
                 if (is_origin(pair, inputs)) note(pair, stage, layer, n_layers, inputs, slice, flow);
             });
        return std::move(origins_);
    }

private:
    const IntegerPair *wrong_integers(const Pair &pair) const {
        const auto at = comparison_.integers.find(pair.key());
        const bool wrong = at != comparison_.integers.end() && at->second.outcome == IntegerOutcome::wrong;
        return wrong ? &at->second : nullptr;
    }

    bool is_origin(const Pair &pair, const Known &inputs) const {
        if (comparison_.rule != Rule::hashes && comparison_.rule != Rule::distance && wrong_integers(pair)) return true;
        if (comparison_.rule != Rule::logits) return pair.relation == Relation::different && !inputs.different;
        return pair.relation != Relation::equal && leaps(pair, inputs);
    }

    void note(const Pair &pair, const Stage &stage, int layer, int n_layers, const Known &inputs, Slice slice,
              const Dataflow &flow) {
        auto [at, is_new] = index_.try_emplace({layer, stage.node}, origins_.size());
        if (!is_new) {
            Origin &known = origins_[at->second];
            ++known.n_positions;
            known.worst_distance = std::max(known.worst_distance, pair.distance);
            return;
        }
        Origin origin{&pair, Inputs::equal, {}, {}, 1, pair.distance};
        InputNames(slice, flow).collect(stage, layer, n_layers, origin);
        const IntegerPair *integers = comparison_.rule == Rule::hashes ? nullptr : wrong_integers(pair);
        if (integers) {
            origin.inputs = !integers->missing.empty() ? Inputs::unrecorded
                            : integers->inputs_equal   ? Inputs::equal
                                                       : Inputs::own;
        } else if (comparison_.rule == Rule::logits) {
            origin.inputs = Inputs::close;
        } else if (stage.n_inputs == 0 && inputs.recorded) {
            origin.inputs = Inputs::token;
        } else if (!inputs.recorded) {
            origin.inputs = Inputs::unrecorded;
        } else if (comparison_.rule == Rule::envelope) {
            origin.inputs = Inputs::inside;
        }
        origins_.push_back(std::move(origin));
    }

    const Comparison &comparison_;
    const Trace &a_, &b_;
    std::map<std::pair<int, Node>, size_t> index_;
    std::vector<Origin> origins_;
};

// Whether the order of their events says something: a scale and its codes are made by one operation, and our own engine
// tells of the codes first.
bool made_apart(const Stage &source, const Stage &user) {
    return source.stage_class != StageClass::scale || user.stage_class != StageClass::codes;
}

}  // namespace

std::vector<Origin> find_origins(const Comparison &comparison, const Trace &a, const Trace &b) {
    return OriginFinder(comparison, a, b).find();
}

void trace_rounding(const Comparison &comparison, const Trace &a, const Trace &b, Integers &integers) {
    walk(comparison, a, b,
         [&](const Pair &pair, const Stage &stage, int, const Known &inputs, Slice, const Dataflow &flow) {
             const Known &value = flow.value(stage);
             if (value.other) {
                 ++integers.n_other;
                 if (!integers.first_other) integers.first_other = pair.key();
             } else if (value.rounding) {
                 const auto at = comparison.integers.find(pair.key());
                 const bool itself = at != comparison.integers.end() && at->second.outcome == IntegerOutcome::rounding;
                 ++(itself || !inputs.rounding ? integers.n_rounding : integers.n_behind);
             }
         });
}

std::string check_execution_order(const Comparison &comparison) {
    for (size_t begin = 0; begin < comparison.pairs.size(); ++begin) {
        const Pair &user = comparison.pairs[begin];
        const Stage *stage = find_stage(int(node_of(user.key())));
        int run = run_of(user.key()), at = position_of(user.key()), layer = layer_of(user.key());
        for (int i = 0; i < stage->n_inputs; ++i) {
            if (stage->inputs[i].from != From::here) continue;
            const Stage *source = find_stage(int(stage->inputs[i].node));
            if (!made_apart(*source, *stage)) continue;
            // Inputs of the same layer and position are at most a layer's stages back.
            size_t first = begin > kNodeLimit ? begin - kNodeLimit : 0;
            Slice before(comparison.pairs.data() + first, begin - first);
            const Pair *input = find(before, make_key(run, at, layer, *source));
            if (!input) continue;
            for (const auto &[name, ours, theirs] :
                 {std::tuple("A", input->event_a, user.event_a), std::tuple("B", input->event_b, user.event_b)}) {
                if (ours <= theirs) continue;
                return format_text("event numbers of %s put %s after %s, which reads it: the stage order is used", name,
                                   record_name(input->key()).c_str(), record_name(user.key()).c_str());
            }
        }
    }
    return "";
}

}  // namespace bitnet::diff
