#include <algorithm>
#include <cmath>

#include "abi/cli/diff/stages.h"
#include "abi/cli/report/html.h"
#include "abi/cli/report/sections.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

const char *status_text(char status) {
    switch (status) {
    case '=': return "equal";
    case 'w': return "within the tolerance";
    case 'u': return "not judged";
    case 'd': return "different";
    default: return "not compared";
    }
}

std::string position_text(const SavedMap &map, int run, int position) {
    return (map.several_runs() ? text_of("run %d, ", run) : "") + text_of("token %d", position);
}

std::string column_name(const SavedMap &map, const MapColumn &column) {
    std::string name =
        map.several_runs() ? text_of("%d:%d", column.run, column.position) : std::to_string(column.position);
    return name;
}

std::string column_text(const SavedMap &map, const MapColumn &column) {
    std::string text = position_text(map, column.run, column.position);
    if (column.run != column.to_run) return text + " to " + position_text(map, column.to_run, column.to_position);
    if (column.position != column.to_position) text += text_of(" to %d", column.to_position);
    return text;
}

std::string row_text(const MapRow &row) { return row.part == "layers" ? "layer " + row.name() : row.name(); }

// Where a stage can stand: embeddings before the layers, final_norm and logits behind them.
bool belongs(const MapRow &row, const std::string &stage_name) {
    const diff::Stage *stage = diff::find_stage(stage_name);
    if (!stage || stage->in_layer) return row.part == "layers";
    return row.part == (stage->node == diff::embeddings_node() ? "embeddings" : "output");
}

// Rows with a cell at least; a trace may have no embeddings.
bool has_cells(const MapRow &row) {
    return row.part == "layers" || row.status.find_first_not_of('.') != std::string::npos;
}

struct Place {
    int64_t layer, run, position;
    std::string stage;
};

std::vector<Place> origins_of(const Saved &document) {
    std::vector<Place> places;
    const auto add = [&](const Saved &at) {
        places.push_back({at.integer("layer"), at.integer("run"), at.integer("seq"), at.text("stage")});
    };
    if (document.has("first")) add(document.at("first"));
    for (const Saved &origin : document.list("origins")) add(origin);
    return places;
}

FigureCell cell_of(char status, double distance, const std::string &where, const std::string &worst_at) {
    FigureCell cell;
    cell.look = status == '.' ? "hx" : distance_class(distance);
    cell.text = status == '.' ? "" : cell_text(distance);
    cell.marked = status == 'd';
    cell.title = where + ": ";
    cell.title += status == '.' ? status_text(status)
                                : "relative L2 " + distance_text(distance) + worst_at + ", " + status_text(status);
    return cell;
}

std::string table_text(char status, double distance) {
    if (status == '.') return "&#183;";
    return distance_text(distance) + (status == 'd' ? " &#8800;" : "");
}

HeatMap stage_map(const SavedMap &map, const std::vector<Place> &origins, Table &table) {
    HeatMap figure;
    figure.row_axis = "layer";
    figure.column_axis = "stage";
    figure.slanted = true;
    figure.legend = distance_legend();
    for (const MapStage &stage : map.stages) figure.columns.push_back(stage.name);
    for (const MapRow &row : map.by_stage) {
        if (!has_cells(row)) continue;
        figure.rows.push_back(row.part == "embeddings" ? "in" : row.part == "output" ? "out" : row.name());
        std::vector<FigureCell> cells(map.stages.size());
        std::vector<std::string> texts = {row_text(row)};
        for (size_t i = 0; i < map.stages.size(); ++i) {
            const std::string &stage = map.stages[i].name;
            const bool here = belongs(row, stage) || row.status[i] != '.';
            texts.push_back(here ? table_text(row.status[i], row.distances[i]) : "");
            if (!here) continue;
            cells[i] =
                cell_of(row.status[i], row.distances[i], (row.part == "layers" ? row_text(row) + ", " : "") + stage,
                        " at " + position_text(map, row.runs[i], row.positions[i]));
            if (row.status[i] == '.' && map.stages[i].in_a != map.stages[i].in_b)
                cells[i].title += map.stages[i].in_a ? ": only A recorded it" : ": only B recorded it";
            cells[i].ringed = std::any_of(origins.begin(), origins.end(), [&](const Place &place) {
                return place.stage == stage && place.layer >= row.layer && place.layer <= row.to_layer;
            });
        }
        figure.cells.push_back(std::move(cells));
        table.add(std::move(texts));
    }
    return figure;
}

HeatMap position_map(const SavedMap &map, const std::vector<Place> &origins, Table &table) {
    HeatMap figure;
    figure.row_axis = "layer";
    figure.column_axis = map.several_runs() ? "run : token" : "token position";
    figure.legend = distance_legend();
    for (const MapColumn &column : map.columns) figure.columns.push_back(column_name(map, column));
    for (const MapRow &row : map.by_position) {
        if (!has_cells(row)) continue;
        figure.rows.push_back(row.part == "embeddings" ? "in" : row.part == "output" ? "out" : row.name());
        std::vector<FigureCell> cells;
        std::vector<std::string> texts = {row_text(row)};
        for (size_t i = 0; i < map.columns.size(); ++i) {
            const MapColumn &column = map.columns[i];
            cells.push_back(cell_of(row.status[i], row.distances[i], column_text(map, column) + ", " + row_text(row),
                                    " at " + row.stages[i]));
            cells[i].ringed = std::any_of(origins.begin(), origins.end(), [&](const Place &place) {
                const auto at = std::pair(place.run, place.position);
                const bool in_part = place.layer >= 0
                                         ? row.part == "layers"
                                         : row.part == (place.stage == "embeddings" ? "embeddings" : "output");
                return in_part && place.layer >= row.layer && place.layer <= row.to_layer &&
                       at >= std::pair<int64_t, int64_t>(column.run, column.position) &&
                       at <= std::pair<int64_t, int64_t>(column.to_run, column.to_position);
            });
            texts.push_back(table_text(row.status[i], row.distances[i]));
        }
        figure.cells.push_back(std::move(cells));
        table.add(std::move(texts));
    }
    return figure;
}

std::vector<Column> table_columns(const HeatMap *, const std::vector<std::string> &names) {
    std::vector<Column> columns = {{"", false}};
    for (const std::string &name : names) columns.push_back({name, true});
    return columns;
}

std::string bounded_text(const SavedMap &map) {
    std::string text;
    if (map.several_positions_a_column()) text += " A column covers several positions and shows the farthest apart.";
    for (const MapRow &row : map.by_stage)
        if (row.layer != row.to_layer) return text + " A row covers several layers and shows the farthest apart.";
    return text;
}

}  // namespace

std::string cell_text(double distance) {
    if (std::isnan(distance)) return "?";
    if (distance == 0) return "=";
    if (std::isinf(distance)) return "inf";
    if (distance >= 1) return distance < 99.95 ? text_of("%.1f", distance) : text_of("%.0e", distance);
    if (distance >= 0.095) return text_of("%.2f", distance);
    std::string text = text_of("%.0e", distance);
    const size_t zero = text.find("-0");
    return zero == std::string::npos ? text : text.erase(zero + 1, 1);
}

Section diff_maps(const Saved &document) {
    Section section;
    if (!document.has("map")) {
        const char *why = document.json().contains("map")
                              ? "nothing was compared, or the traces are of different things"
                              : "the file was saved by a bitnet diff that did not write maps yet";
        section.html = absent("Layers and stages", why);
        return section;
    }
    const SavedMap map = read_map(document.at("map"));
    const std::vector<Place> origins = origins_of(document);
    const std::string legend = "&#8800; judged different, &#183; not compared";
    std::vector<std::string> stage_names, column_names;
    for (const MapStage &stage : map.stages) stage_names.push_back(stage.name);
    for (const MapColumn &column : map.columns) column_names.push_back(column_text(map, column));

    Table stage_table("Relative L2 distance, worst over all positions; " + legend, table_columns(nullptr, stage_names));
    HeatMap stages = stage_map(map, origins, stage_table);
    stages.title = "Layers and stages: relative L2 distance, the worst of all positions";
    stages.description = "One cell for each layer and stage. The same values stand in the table below it.";
    section.html = heading("Layers and stages",
                           "Relative L2 distance of B from A, the worst of all positions, in execution order from left "
                           "to right." +
                               bounded_text(map));
    section.add(draw(stages), "");
    section.html += details("Values as a table", stage_table.html());

    Table position_table("Relative L2 distance, worst over all stages; " + legend,
                         table_columns(nullptr, column_names));
    HeatMap positions = position_map(map, origins, position_table);
    positions.title = "Layers and positions: relative L2 distance, the worst of all stages";
    positions.description = "One cell for each layer and token position. The same values stand in the table below it.";
    section.html +=
        heading("Layers and positions", "The same, the worst of all stages of a layer." + bounded_text(map));
    section.add(draw(positions), "");
    section.html += details("Values as a table", position_table.html());
    return section;
}

Section diff_logits(const Saved &document) {
    Section section;
    const std::string title = "Logits by position";
    if (!document.has("map")) {
        section.html = absent(title, "no map of positions was saved");
        return section;
    }
    const SavedMap map = read_map(document.at("map"));
    ChartLine line;
    Table table(
        "Logits of each position; where a column covers several, the farthest apart",
        {{"position", false}, {"relative L2", true}, {"judged", false}, {"top-1 of A", true}, {"top-1 of B", true}});
    size_t n_top = 0, n_top_equal = 0;
    for (size_t i = 0; i < map.logits.size(); ++i) {
        const LogitsAt &at = map.logits[i];
        if (!at.compared) continue;
        const std::string where = position_text(map, at.run, at.position);
        const bool has_top = at.top1_a >= 0 && at.top1_b >= 0, top_differs = has_top && at.top1_a != at.top1_b;
        n_top += has_top ? 1 : 0;
        n_top_equal += has_top && !top_differs ? 1 : 0;
        const auto id = [](int64_t top) { return top < 0 ? std::string("?") : std::to_string(top); };
        line.points.push_back({map.several_runs() ? double(i) : double(at.position), at.distance,
                               where + ": relative L2 " + distance_text(at.distance) + ", " + status_text(at.status) +
                                   ", top-1 " + id(at.top1_a) + " against " + id(at.top1_b),
                               at.status == 'd' || top_differs});
        table.add({where, distance_text(at.distance), status_text(at.status), id(at.top1_a), id(at.top1_b)},
                  at.status == 'd' || top_differs ? "bad" : "");
    }
    if (line.points.empty()) {
        section.html = absent(title, "no logits are in both traces");
        return section;
    }
    line.name = "relative L2 distance of the logits";
    Chart chart;
    chart.title = title;
    chart.description = "The distance of the logits at each position. The same values stand in the table below it.";
    chart.x_axis = map.several_runs() ? "column of the map above" : "token position";
    chart.y_axis = "relative L2, log scale";
    chart.lines.push_back(std::move(line));
    if (document.has("logits") && document.at("logits").has("allowed"))
        chart.limits.push_back({"allowed", document.at("logits").number("allowed")});
    std::string lead =
        n_top ? text_of("The largest logit is the same at %zu of %zu positions. ", n_top_equal, n_top) : "";
    section.html = heading(title, lead + "A cross: judged different, or another largest logit.");
    section.add(draw(chart), "");
    section.html += details("Values as a table", table.html());
    return section;
}

}  // namespace bitnet::report
