// Every distance of a comparison as two maps of bounded size: layers x stages and layers x positions.
#pragma once

#include "abi/cli/diff/diff.h"

#include <vector>

namespace bitnet::diff {

// More layers or positions than this share a row or a column, each of which then covers equally many.
inline constexpr size_t kMapRowsMax = 128;
inline constexpr size_t kMapColumnsMax = 128;

// The worst of what it covers.
struct Cell {
    const Pair *worst = nullptr;          // farthest apart, NaN before everything; NULL: nothing was compared
    Relation relation = Relation::equal;  // of all of them the one that says most: different, unjudged, within, equal
};

// Rows of a map: what comes before the layers, groups of layers, and what comes behind them.
struct MapRow {
    int first_layer = -1, last_layer = -1;  // -1: of no layer
    bool before = false;                    // of those: embeddings, else final_norm and logits
    std::vector<Cell> cells;                // by stage, or by column of positions
};

struct MapStage {
    const Stage *stage;
    bool in_a, in_b;  // some run of that side recorded it
};

struct MapColumn {
    Key first, last;  // positions it covers, ends included; no more than run and position count
};

struct Map {
    std::vector<MapStage> stages;  // in execution order
    std::vector<MapColumn> columns;
    std::vector<MapRow> by_stage, by_position;  // the same rows
    std::vector<Cell> logits;                   // by column
};

// Of every pair. Points into the comparison.
Map map_of(const Comparison &comparison, const Trace &a, const Trace &b);

// What Rule::logits says of the same pairs, whatever rule decided: another tolerance can be judged from it later.
struct FreeRunning {
    uint64_t n_logits = 0, n_unjudged = 0, n_different = 0;  // logits, of them without a verdict; records
    const Pair *first = nullptr;                             // that is different
};
FreeRunning judge_free_running(const Comparison &comparison);

}  // namespace bitnet::diff
