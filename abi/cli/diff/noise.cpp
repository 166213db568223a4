// What an envelope says of a comparison: which classes hold which records.
#include "abi/cli/diff/diff.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace bitnet::diff {

Noise measure_noise(const Comparison &comparison) {
    Noise noise;
    const envelope::Judge &judge = *comparison.envelopes.front();
    for (size_t i = 0; i < judge.n_classes(); ++i) noise.classes.push_back(judge.name(i));
    noise.records.resize(judge.n_classes() + 1);
    std::map<std::pair<int, Node>, StageNoise> stages;
    size_t largest = 0;
    for (const Pair &pair : comparison.pairs) {
        noise.all_equal = noise.all_equal && pair.relation == Relation::equal;
        if (pair.relation == Relation::unjudged) continue;
        const Stage *stage = find_stage(int(node_of(pair.key())));
        const auto allowed = allowed_distance(comparison, pair);
        if (!allowed) continue;  // a companion, equal
        // Layers first: what belongs to no block stands before or behind them.
        const int order = layer_of(pair.key()) >= 0          ? layer_of(pair.key())
                          : stage->node == embeddings_node() ? -1
                                                             : kMaxLayers;
        auto &at = stages.try_emplace({order, stage->node}, StageNoise{layer_of(pair.key()), stage}).first->second;
        const double distance = std::isnan(pair.distance) ? HUGE_VAL : pair.distance;
        if (distance >= at.worst) at.worst = distance, at.allowed = *allowed;
        if (pair.relation == Relation::equal) continue;
        const size_t index = pair.relation == Relation::within ? pair.noise_class : judge.n_classes();
        ++noise.records[index];
        at.noise_class = std::max(at.noise_class, index);
        largest = std::max(largest, index);
    }
    for (const auto &[key, stage] : stages) noise.stages.push_back(stage);
    if (largest < judge.n_classes()) noise.noise_class = largest;
    return noise;
}

}  // namespace bitnet::diff
