#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "abi/cli/commands.h"
#include "abi/cli/diff/stages.h"
#include "abi/cli/report/html.h"
#include "abi/cli/report/sections.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

constexpr size_t others_shown = 5, places_shown = 12, causes_said = 3, layers_max = 4096;

using Operation = std::pair<int64_t, std::string>;  // layer, stage

struct Outcome {
    const char *name, *look, *text, *meaning;
};
constexpr Outcome outcomes[] = {
    {"reproduced", "h0", "ok", "reproduced: right, or a fault is inherited"},
    {"legal", "h3", "~", "legal: another engine's right"},
    {"wrong", "h7", "x", "wrong by itself"},
    {"uncompared", "hx", "-", "no word: an input was not recorded"},
};

const Outcome &outcome_of(const Saved &object) {
    const std::string name = object.text("outcome");
    for (const Outcome &outcome : outcomes)
        if (name == outcome.name) return outcome;
    object.at("outcome").fail("reproduced, legal, wrong or uncompared");
}

Operation operation_of(const Saved &object) { return {object.integer("layer"), object.text("stage")}; }

std::string ranges(const std::vector<int64_t> &layers) {
    std::string text;
    for (size_t first = 0; first < layers.size();) {
        size_t last = first;
        while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
        text += (text.empty() ? "" : ", ") + std::to_string(layers[first]);
        if (last > first) text += "-" + std::to_string(layers[last]);
        first = last + 1;
    }
    return text;
}

// "ffn_act of layers 0-2", one stage after the other. `show`: how a name is written.
std::string places_of(const Saved &group, const char *separator, std::string (*show)(std::string_view)) {
    std::vector<std::string> stages;
    std::map<std::string, std::vector<int64_t>> layers;
    for (const Saved &at : group.list("operations")) {
        const auto [layer, stage] = operation_of(at);
        if (!layers.count(stage)) stages.push_back(stage);
        layers[stage].push_back(layer);
    }
    std::string html;
    for (size_t i = 0; i < stages.size(); ++i) {
        if (i == places_shown) return html + separator + text_of("and %zu more stages", stages.size() - places_shown);
        std::vector<int64_t> &of = layers[stages[i]];
        std::sort(of.begin(), of.end());
        html += (i ? separator : "") + show(stages[i]);
        if (of[0] >= 0) html += (of.size() > 1 ? " of layers " : " of layer ") + ranges(of);
    }
    return html;
}

std::string places_html(const Saved &group) { return places_of(group, "<br/>", code); }

// ": ffn_act of layers 0-2: SiLU (activation=silu)", of the groups that the verdict is about.
std::string causes_text(const Saved &document, const std::string &outcome) {
    std::string text;
    size_t n = 0;
    for (const Saved &group : document.list("groups")) {
        if (group.text("outcome") != outcome) continue;
        if (n == causes_said) return text + "; and others";
        const std::string semantics = group.text("semantics");
        text += (n++ ? "; " : ": ") + places_of(group, ", ", [](std::string_view name) { return std::string(name); }) +
                ": ";
        text += semantics.empty() ? "cause not found" : group.text("text") + " (" + semantics + ")";
    }
    return text;
}

// What the operation farthest off says, and which other alternatives would do.
std::string evidence_html(const Saved *operation) {
    if (!operation || operation->text("outcome") == "uncompared") return "";
    std::string html = text_of(
        "position %lld: off by %s, allowed %s", static_cast<long long>(operation->integer("position")),
        distance_text(operation->number("distance")).c_str(), distance_text(operation->number("allowed")).c_str());
    html += text_of("<br/>element %lld is %s, expected %s", static_cast<long long>(operation->integer("index")),
                    value_text(operation->number("recorded")).c_str(), value_text(operation->number("ours")).c_str());
    std::string others;
    size_t n = 0;
    for (const Saved &cause : operation->list("causes"))
        if (n++ > 0 && n <= others_shown + 1) others += (others.empty() ? "" : ", ") + code(cause.text("semantics"));
    if (!others.empty()) html += "<br/><small>so would " + others + "</small>";
    return html;
}

std::string exactness(double distance) { return distance == 0 ? "to the bit" : "to " + distance_text(distance); }

// Stages in execution order; what is not known here at the end.
std::vector<std::string> ordered_stages(const std::set<std::string> &present) {
    std::vector<std::string> stages;
    for (const diff::Stage &stage : diff::stages())
        if (present.count(std::string(stage.name))) stages.push_back(std::string(stage.name));
    for (const std::string &name : present)
        if (!diff::find_stage(name)) stages.push_back(name);
    return stages;
}

FigureCell cell_of(const Saved &operation) {
    const Outcome &outcome = outcome_of(operation);
    FigureCell cell;
    cell.look = outcome.look;
    cell.text = outcome.text;
    cell.marked = outcome.look == std::string("h7");
    const int64_t layer = operation.integer("layer");
    cell.title = (layer >= 0 ? text_of("layer %lld, ", static_cast<long long>(layer)) : "") + operation.text("stage") +
                 ": " + outcome.name;
    if (operation.has("why_not"))
        cell.title += ", " + operation.text("why_not");
    else
        cell.title += text_of(", off by %s, allowed %s", distance_text(operation.number("distance")).c_str(),
                              distance_text(operation.number("allowed")).c_str());
    return cell;
}

}  // namespace

Part explain_part(const Saved &document) {
    Part part = {"Operations", exit_of(document), document.text("text"), {}};
    if (part.exit_code != exit_error)
        part.sentence += causes_text(document, part.exit_code == exit_good ? "legal" : "wrong");
    const Saved counts = document.at("counts");
    Tile cause = {"Cause", "none", ""};
    for (const Saved &group : document.list("groups")) {
        const bool legal = group.text("outcome") == "legal";
        const std::string semantics = group.text("semantics");
        cause = {legal ? "Class" : "Cause", semantics.empty() ? "not found" : code(semantics), places_html(group)};
        break;
    }
    part.tiles.push_back(cause);
    part.tiles.push_back({"Operations replayed", with_commas(counts.count("reproduced")) + " reproduced",
                          with_commas(counts.count("legal")) + " legal, " + with_commas(counts.count("wrong")) +
                              " wrong, " + with_commas(counts.count("uncompared")) + " without a word"});
    return part;
}

Section explain_causes(const Saved &document) {
    Section section;
    const Saved trace = document.at("trace"), model = document.at("model");
    const std::string engine = trace.text("engine");
    section.html =
        heading(exit_of(document) == exit_divergence ? "What is wrong, and why" : "Replay of the operations",
                "Every recorded operation of " + (engine.empty() ? "the engine" : code(engine)) +
                    ", computed again from that engine's own recorded inputs with the arithmetic of " +
                    code(model.text("path")) + ". What does not follow is computed under every alternative.");
    std::map<Operation, Saved> operations;
    for (const Saved &operation : document.list("operations")) operations.emplace(operation_of(operation), operation);
    Table table("Hypotheses that reproduce what was recorded", {{"", false},
                                                                {"operations", false},
                                                                {"what it does instead", false},
                                                                {"reproduces it", false},
                                                                {"evidence, of the first", false}});
    for (const Saved &group : document.list("groups")) {
        const std::vector<Saved> places = group.list("operations");
        const auto first = places.empty() ? operations.end() : operations.find(operation_of(places.front()));
        const std::string semantics = group.text("semantics");
        const bool legal = group.text("outcome") == "legal";
        table.add({legal ? "legal" : "wrong", places_html(group),
                   semantics.empty() ? "no alternative that is known"
                                     : escaped(group.text("text")) + "<br/>" + code(semantics),
                   semantics.empty() ? "" : exactness(group.number("distance")),
                   evidence_html(first == operations.end() ? nullptr : &first->second)},
                  legal ? "" : "bad");
    }
    section.html +=
        table.empty() ? "<p>Every operation that could be compared follows from its inputs.</p>\n" : table.html();
    section.html += details("Semantics of our arithmetic", "<p>" + code(model.text("semantics")) + "</p>\n");
    std::string lines;
    for (const char *key : {"errors", "facts"})
        for (const std::string &line : document.texts(key)) lines += "<li>" + escaped(line) + "</li>\n";
    if (!lines.empty()) section.html += "<ul class=\"lines\">\n" + lines + "</ul>\n";
    return section;
}

Section explain_map(const Saved &document) {
    Section section;
    std::map<Operation, Saved> operations;
    std::set<std::string> present;
    std::set<int64_t> layers;
    for (const Saved &operation : document.list("operations")) {
        operations.emplace(operation_of(operation), operation);
        present.insert(operation.text("stage"));
        layers.insert(operation.integer("layer"));
    }
    if (operations.empty()) {
        section.html = absent("Operations", "no operation was recorded");
        return section;
    }
    if (layers.size() > layers_max || present.size() > size_t(diff::kNodeLimit))
        document.at("operations").fail("operations of at most 4096 layers and 128 stages");
    HeatMap map;
    map.title = "Operations: which follow from their own inputs";
    map.description = "One cell for each layer and operation. The same stands in the table below it.";
    map.row_axis = "layer";
    map.column_axis = "operation";
    map.slanted = true;
    map.columns = ordered_stages(present);
    Table table("Operations in execution order", {{"operation", false},
                                                  {"layer", false},
                                                  {"outcome", false},
                                                  {"off by", true},
                                                  {"allowed", true},
                                                  {"causes", false}});
    for (const int64_t layer : layers) {
        map.rows.push_back(layer < 0 ? "model" : std::to_string(layer));
        map.cells.emplace_back(map.columns.size());
        for (size_t i = 0; i < map.columns.size(); ++i) {
            const auto found = operations.find({layer, map.columns[i]});
            if (found != operations.end()) map.cells.back()[i] = cell_of(found->second);
        }
    }
    for (const Saved &operation : document.list("operations")) {
        const bool compared = !operation.has("why_not");
        std::string causes;
        if (compared)
            for (const Saved &cause : operation.list("causes"))
                causes += (causes.empty() ? "" : ", ") + code(cause.text("semantics"));
        else
            causes = escaped(operation.text("why_not"));
        const int64_t layer = operation.integer("layer");
        table.add({code(operation.text("stage")), layer < 0 ? "model" : std::to_string(layer),
                   outcome_of(operation).name, compared ? distance_text(operation.number("distance")) : "",
                   compared ? distance_text(operation.number("allowed")) : "", causes},
                  operation.text("outcome") == "wrong" ? "bad" : "");
    }
    for (const Outcome &outcome : outcomes) {
        const bool wrong = outcome.look == std::string("h7");
        map.legend.push_back({outcome.look, outcome.meaning, wrong, false});
    }
    section.html = heading("Operations", "Layers and operations: which follow from their own recorded inputs.");
    section.add(draw(map), "");
    section.html += details("Values as a table", table.html());
    return section;
}

}  // namespace bitnet::report
