#include "abi/cli/diff/diff.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace bitnet::diff {

namespace {

// A distance that cannot be measured is the worst there is.
double comparable(double distance) { return std::isnan(distance) ? HUGE_VAL : distance; }

std::optional<size_t> first_jump(const Growth &growth, double before) {
    for (size_t i = 0; i < growth.layers.size(); ++i) {
        double here = comparable(growth.layers[i].distance);
        if (here > kJumpFactor * std::max(before, kSketchFloor)) return i;
        before = here;
    }
    return std::nullopt;
}

}  // namespace

Growth growth_curve(const Comparison &comparison, Key key) {
    Growth growth;
    growth.run = run_of(key);
    growth.position = position_of(key);
    // The last floating-point stage of each layer at this position: later ones replace earlier ones.
    std::map<int, const Pair *> last;
    double embeddings = 0;
    for (const Pair &pair : comparison.pairs) {
        if (run_of(pair.key()) != growth.run || position_of(pair.key()) != growth.position) continue;
        const Stage *stage = find_stage(int(node_of(pair.key())));
        if (stage->node == embeddings_node()) embeddings = comparable(pair.distance);
        bool is_companion = stage->stage_class == StageClass::accumulator || stage->stage_class == StageClass::scale ||
                            stage->stage_class == StageClass::codes;
        if (!pair.is(Pair::measurable) && pair.relation != Relation::equal) continue;
        if (stage->in_layer && !is_companion) last[layer_of(pair.key())] = &pair;
    }
    for (const auto &[layer, pair] : last) {
        growth.layers.push_back({layer, find_stage(int(node_of(pair->key()))), pair->distance, -1, 0});
    }
    for (const Pair &pair : comparison.pairs) {
        auto at = std::lower_bound(growth.layers.begin(), growth.layers.end(), layer_of(pair.key()),
                                   [](const LayerGrowth &g, int layer) { return g.layer < layer; });
        if (at == growth.layers.end() || at->layer != layer_of(pair.key()) || at->stage->node != node_of(pair.key())) {
            continue;
        }
        if (!pair.is(Pair::measurable) && pair.relation != Relation::equal) continue;
        if (comparable(pair.distance) <= at->worst) continue;
        at->worst = comparable(pair.distance);
        at->worst_position = position_of(pair.key());
    }
    growth.jump = first_jump(growth, embeddings);
    return growth;
}

}  // namespace bitnet::diff
