// What a saved comparison of traces says of every place.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/report/saved.h"

namespace bitnet::report {

// Rows of the maps: layers, or what is of no layer.
struct MapRow {
    std::string part;  // "embeddings", "layers", "output"
    int layer = -1, to_layer = -1;
    std::string status;  // a letter for each cell: = equal, w within, u not judged, d different, . not compared
    std::vector<double> distances;
    std::vector<int> runs, positions;  // of the worst; of the map by stage
    std::vector<std::string> stages;   // of the worst, of the map by position

    std::string name() const;  // "3", "4-7", "embeddings", "output"
};

struct MapStage {
    std::string name;
    bool in_a, in_b;
};

struct MapColumn {
    int run, position, to_run, to_position;
};

struct LogitsAt {
    bool compared = false;
    int run = 0, position = 0;
    char status = '.';
    double distance = 0;
    int64_t top1_a = -1, top1_b = -1;  // -1: unknown
};

struct MapCell {
    int layer, to_layer;
    std::string part, stage;
    char status;
    double distance;
    int run, position;

    std::string name() const;  // "layer 2, ffn_act", "logits"
};

struct SavedMap {
    std::vector<MapStage> stages;
    std::vector<MapColumn> columns;
    std::vector<MapRow> by_stage, by_position;
    std::vector<LogitsAt> logits;  // by column

    bool several_runs() const;
    bool several_positions_a_column() const;
    std::vector<MapCell> stage_cells() const;  // that were compared, layer by layer
};

// Throws CommandError when it is damaged, or larger than diff writes it.
SavedMap read_map(const Saved &map);

}  // namespace bitnet::report
