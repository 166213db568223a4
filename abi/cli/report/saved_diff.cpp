#include "abi/cli/report/saved_diff.h"

#include <cmath>
#include <limits>

#include "abi/cli/diff/map.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

int int_of(const Saved &value) {
    const int64_t number = value.as_integer();
    if (number < -1 || number > std::numeric_limits<int32_t>::max()) value.fail("a number of 31 bits, or -1");
    return int(number);
}

int int_at(const Saved &object, const char *key) { return int_of(object.at(key)); }

std::vector<Saved> list_of(const Saved &object, const char *key, size_t n) {
    std::vector<Saved> items = object.list(key);
    if (items.size() != n)
        throw CommandError(object.place() + ": " + key + text_of(": found %zu items, expected %zu", items.size(), n));
    return items;
}

MapRow read_row(const Saved &object, size_t n_cells, bool by_stage) {
    MapRow row;
    row.part = object.text("part");
    if (row.part != "layers" && row.part != "embeddings" && row.part != "output")
        object.at("part").fail("embeddings, layers or output");
    row.layer = int_at(object, "layer");
    row.to_layer = int_at(object, "to_layer");
    row.status = object.text("status");
    if (row.status.size() != n_cells || row.status.find_first_not_of("=wud.") != std::string::npos)
        object.at("status").fail(text_of("%zu letters of =wud.", n_cells));
    const auto compared = [&](size_t i) { return row.status[i] != '.'; };
    for (const Saved &value : list_of(object, "relative", n_cells)) row.distances.push_back(value.as_number());
    if (by_stage) {
        const std::vector<Saved> runs = list_of(object, "run", n_cells), seqs = list_of(object, "seq", n_cells);
        for (size_t i = 0; i < n_cells; ++i) {
            row.runs.push_back(compared(i) ? int_of(runs[i]) : -1);
            row.positions.push_back(compared(i) ? int_of(seqs[i]) : -1);
        }
    } else {
        const std::vector<Saved> stages = list_of(object, "stage", n_cells);
        for (size_t i = 0; i < n_cells; ++i) row.stages.push_back(compared(i) ? stages[i].as_text() : "");
    }
    return row;
}

std::vector<MapRow> read_rows(const Saved &map, const char *key, size_t n_cells, bool by_stage) {
    const std::vector<Saved> objects = map.list(key);
    // Before and behind the layers stand one row each.
    if (objects.size() > diff::kMapRowsMax + 2)
        throw CommandError(map.place() + ": " + key +
                           text_of(": found %zu rows, expected at most %zu", objects.size(), diff::kMapRowsMax + 2));
    std::vector<MapRow> rows;
    for (const Saved &object : objects) rows.push_back(read_row(object, n_cells, by_stage));
    return rows;
}

LogitsAt read_logits(const Saved &object) {
    LogitsAt logits;
    if (object.is_null()) return logits;
    logits.compared = true;
    logits.run = int_at(object, "run");
    logits.position = int_at(object, "seq");
    const std::string status = object.text("status");
    if (status.size() != 1 || status.find_first_of("=wud") != 0) object.at("status").fail("one letter of =wud");
    logits.status = status[0];
    logits.distance = object.number("relative");
    if (object.has("top1_a")) logits.top1_a = object.integer("top1_a");
    if (object.has("top1_b")) logits.top1_b = object.integer("top1_b");
    return logits;
}

}  // namespace

std::string MapRow::name() const {
    if (part != "layers") return part;
    return layer == to_layer ? std::to_string(layer) : text_of("%d-%d", layer, to_layer);
}

std::string MapCell::name() const {
    if (part != "layers") return stage;
    return (layer == to_layer ? text_of("layer %d, ", layer) : text_of("layers %d-%d, ", layer, to_layer)) + stage;
}

bool SavedMap::several_runs() const { return !columns.empty() && columns.back().to_run > 0; }

bool SavedMap::several_positions_a_column() const {
    for (const MapColumn &column : columns)
        if (column.run != column.to_run || column.position != column.to_position) return true;
    return false;
}

std::vector<MapCell> SavedMap::stage_cells() const {
    std::vector<MapCell> cells;
    for (const MapRow &row : by_stage)
        for (size_t i = 0; i < stages.size(); ++i)
            if (row.status[i] != '.')
                cells.push_back({row.layer, row.to_layer, row.part, stages[i].name, row.status[i], row.distances[i],
                                 row.runs[i], row.positions[i]});
    return cells;
}

SavedMap read_map(const Saved &object) {
    SavedMap map;
    for (const Saved &stage : object.list("stages"))
        map.stages.push_back({stage.text("name"), stage.flag("in_a"), stage.flag("in_b")});
    if (map.stages.size() > size_t(diff::kNodeLimit)) object.at("stages").fail("at most 128 stages");
    for (const Saved &column : object.list("columns"))
        map.columns.push_back(
            {int_at(column, "run"), int_at(column, "seq"), int_at(column, "to_run"), int_at(column, "to_seq")});
    if (map.columns.size() > diff::kMapColumnsMax) object.at("columns").fail("at most 128 columns");
    map.by_stage = read_rows(object, "by_stage", map.stages.size(), true);
    map.by_position = read_rows(object, "by_position", map.columns.size(), false);
    for (const Saved &logits : list_of(object, "logits", map.columns.size())) map.logits.push_back(read_logits(logits));
    return map;
}

}  // namespace bitnet::report
