#include "abi/cli/diff/map.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>

namespace bitnet::diff {

namespace {

// The same for every record of a position, ascending.
Key position_key(Key key) { return next_position(key) - next_position(0); }

// Whether the first says more of an engine at fault. Relations are in that order.
bool is_worse(const Pair &pair, const Pair *than) {
    if (!than) return true;
    if (std::isnan(pair.distance) || std::isnan(than->distance))
        return std::isnan(pair.distance) && !std::isnan(than->distance);
    if (pair.distance != than->distance) return pair.distance > than->distance;
    return pair.relation > than->relation;
}

void add(Cell &cell, const Pair &pair) {
    cell.relation = std::max(cell.relation, pair.relation);
    if (is_worse(pair, cell.worst)) cell.worst = &pair;
}

std::vector<MapStage> recorded_stages(const Trace &a, const Trace &b) {
    std::bitset<kNodeLimit> in_a, in_b;
    for (const Run &run : a.runs) in_a |= run.nodes;
    for (const Run &run : b.runs) in_b |= run.nodes;
    std::vector<MapStage> list;
    for (const Stage &stage : stages())
        if (in_a[stage.node] || in_b[stage.node]) list.push_back({&stage, in_a[stage.node], in_b[stage.node]});
    return list;
}

// Distinct positions, ascending, in groups of equal size.
std::vector<MapColumn> position_columns(const std::vector<Pair> &pairs) {
    size_t n = 0;
    const Pair *last = nullptr;
    for (const Pair &pair : pairs) {
        n += !last || position_key(pair.key()) != position_key(last->key()) ? 1 : 0;
        last = &pair;
    }
    const size_t per_column = (n + kMapColumnsMax - 1) / kMapColumnsMax;
    std::vector<MapColumn> columns;
    size_t seen = 0;
    for (const Pair &pair : pairs) {
        const Key position = position_key(pair.key());
        if (seen > 0 && columns.back().last == position) continue;
        if (seen++ % per_column == 0) columns.push_back({position, position});
        columns.back().last = position;
    }
    return columns;
}

std::vector<MapRow> layer_rows(int n_layers, size_t n_cells) {
    const int per_row = (n_layers + int(kMapRowsMax) - 1) / int(kMapRowsMax);
    std::vector<MapRow> rows;
    rows.push_back({-1, -1, true, std::vector<Cell>(n_cells)});
    for (int first = 0; first < n_layers; first += per_row)
        rows.push_back({first, std::min(first + per_row, n_layers) - 1, false, std::vector<Cell>(n_cells)});
    rows.push_back({-1, -1, false, std::vector<Cell>(n_cells)});
    return rows;
}

}  // namespace

Map map_of(const Comparison &comparison, const Trace &a, const Trace &b) {
    Map map;
    map.stages = recorded_stages(a, b);
    map.columns = position_columns(comparison.pairs);
    int n_layers = 0;
    for (const Pair &pair : comparison.pairs) n_layers = std::max(n_layers, layer_of(pair.key()) + 1);
    map.by_stage = layer_rows(n_layers, map.stages.size());
    map.by_position = layer_rows(n_layers, map.columns.size());
    map.logits.resize(map.columns.size());
    const int per_row = n_layers ? map.by_stage[1].last_layer + 1 : 1;

    std::array<size_t, kNodeLimit> stage_index{};
    for (size_t i = 0; i < map.stages.size(); ++i) stage_index[map.stages[i].stage->node] = i;
    size_t column = 0;
    for (const Pair &pair : comparison.pairs) {
        if (position_key(pair.key()) > map.columns[column].last) ++column;
        const int layer = layer_of(pair.key());
        const bool before = node_of(pair.key()) == embeddings_node();
        const size_t row = before ? 0 : layer < 0 ? map.by_stage.size() - 1 : size_t(layer / per_row) + 1;
        add(map.by_stage[row].cells[stage_index[node_of(pair.key())]], pair);
        add(map.by_position[row].cells[column], pair);
        if (node_of(pair.key()) == logits_node()) add(map.logits[column], pair);
    }
    return map;
}

FreeRunning judge_free_running(const Comparison &comparison) {
    FreeRunning out;
    for (const Pair &pair : comparison.pairs) {
        const LogitsPair *logits = pair.logits == Pair::kNoLogits ? nullptr : &comparison.logits[pair.logits];
        const Relation relation =
            judge_integers(comparison.integers, pair.key(), Rule::logits, judge(pair, logits, Rule::logits, 0));
        out.n_logits += logits ? 1 : 0;
        out.n_unjudged += logits && relation == Relation::unjudged ? 1 : 0;
        if (relation != Relation::different) continue;
        if (out.n_different++ == 0) out.first = &pair;
    }
    return out;
}

}  // namespace bitnet::diff
