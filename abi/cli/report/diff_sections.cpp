#include <cmath>

#include "abi/cli/diff/text.h"
#include "abi/cli/report/html.h"
#include "abi/cli/report/sections.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

constexpr size_t prompt_bytes_max = 300;

std::string place_text(const Saved &at) {
    std::string text = text_of("token %lld", static_cast<long long>(at.integer("seq")));
    if (at.integer("run") > 0) text = text_of("run %lld, ", static_cast<long long>(at.integer("run"))) + text;
    if (at.integer("layer") >= 0) text += text_of(", layer %lld", static_cast<long long>(at.integer("layer")));
    return text;
}

std::string number_of(const Saved &object, const char *key) { return with_commas(object.count(key)); }

std::string list_of(const std::vector<std::string> &names) {
    std::string html;
    for (const std::string &name : names) html += (html.empty() ? "" : ", ") + code(name);
    return html;
}

std::string inputs_html(const Saved &at) {
    if (!at.has("inputs")) return "its inputs differ already";
    const std::string inputs = at.text("inputs");
    const std::string recorded = list_of(at.texts("inputs_recorded")),
                      unrecorded = list_of(at.texts("inputs_unrecorded"));
    if (inputs == "equal") return "the operation is wrong: its inputs are equal (" + recorded + ")";
    if (inputs == "token") return "the operation is wrong: its input, the token id, is equal";
    if (inputs == "unrecorded") return "not recorded: " + unrecorded + "; everything recorded before it is equal";
    if (inputs == "close")
        return "leaps away from inputs that are close" + (recorded.empty() ? "" : " (" + recorded + ")");
    if (inputs == "inside")
        return "leaves every class although its inputs are inside one" +
               (recorded.empty() ? "" : " (" + recorded + ")");
    if (inputs == "own") return "does not follow from what its own engine recorded (" + recorded + ")";
    at.at("inputs").fail("equal, token, unrecorded, close, inside or own");
}

std::string side_row(const Saved &document, const char *side, const char *key) {
    const Saved object = document.at(side);
    if (!object.has(key)) return "<span class=\"none\">not recorded</span>";
    const Saved value = object.at(key);
    const std::string text = value.json().is_string() ? value.as_text() : with_commas(object.count(key));
    return text.empty() ? "<span class=\"none\">not recorded</span>" : code(text);
}

Tile first_tile(const Saved &document) {
    if (!document.has("first"))
        return {"First difference", document.at("counts").count("compared") ? "none" : "unknown", ""};
    const Saved first = document.at("first");
    return {"First difference", escaped(first.text("stage")), escaped(place_text(first))};
}

Tile logits_tile(const Saved &document) {
    if (!document.has("logits")) return {"Logits", "not recorded", ""};
    const Saved logits = document.at("logits");
    std::string top = "top-1 unknown";
    if (logits.has("top1_equal"))
        top = logits.flag("top1_equal")
                  ? "top-1 equal"
                  : text_of("top-1 %lld, not %lld", static_cast<long long>(logits.integer("top1_b")),
                            static_cast<long long>(logits.integer("top1_a")));
    return {"Logits", top,
            "relative L2 " + distance_text(logits.number("relative")) +
                text_of(" at token %lld", static_cast<long long>(logits.integer("seq")))};
}

}  // namespace

Part diff_part(const Saved &document) {
    Part part = {"Traces", exit_of(document), document.text("text"), {}};
    const Saved counts = document.at("counts");
    part.tiles.push_back(first_tile(document));
    part.tiles.push_back({"Records compared", number_of(counts, "compared"),
                          number_of(counts, "equal") + " equal, " + number_of(counts, "different") + " different"});
    part.tiles.push_back(logits_tile(document));
    const double needed = document.number("would_pass");
    const bool compared = counts.count("compared") > 0;
    part.tiles.push_back({"Tolerance that would pass",
                          !compared            ? "unknown"
                          : std::isnan(needed) ? "none"
                                               : diff::rounded_up(needed),
                          "judged by " + escaped(document.text("rule"))});
    size_t n_mismatches = 0, n_facts = 0;
    for (const Saved &fact : document.list("preflight")) {
        ++n_facts;
        n_mismatches += fact.flag("mismatch") ? 1 : 0;
    }
    part.tiles.push_back({"Preflight", n_mismatches ? text_of("does not fit (%zu)", n_mismatches) : "fits together",
                          plural(n_facts, "difference") + " of the run records"});
    return part;
}

Section diff_growth(const Saved &document) {
    Section section;
    const std::vector<Saved> layers = document.list("growth");
    if (layers.empty()) {
        const Saved counts = document.at("counts");
        section.html = absent("Growth over the layers", counts.count("compared") == 0 ? "nothing was compared"
                                                        : counts.count("different") == 0
                                                            ? "no record differs, so there is nothing that grows"
                                                            : "no layer was compared at the first difference");
        return section;
    }
    Chart chart;
    chart.lines.resize(2);
    int64_t position = -1;
    if (document.has("first")) position = document.at("first").integer("seq");
    const std::string here =
        position < 0 ? "where it first differs" : text_of("at token %lld", static_cast<long long>(position));
    chart.lines[0].name = here;
    chart.lines[1].name = "worst of all positions";
    const int64_t jump = document.has("jump") ? document.at("jump").integer("layer") : -1;
    Table table("Relative L2 distance behind each layer",
                {{"layer", false}, {"stage", false}, {here, true}, {"worst", true}, {"at token", true}});
    for (const Saved &at : layers) {
        const int64_t layer = at.integer("layer");
        const double distance = at.number("relative"), worst = at.number("worst");
        const std::string name = text_of("layer %lld", static_cast<long long>(layer));
        const std::string worst_at = text_of("%lld", static_cast<long long>(at.integer("worst_seq")));
        chart.lines[0].points.push_back(
            {double(layer), distance,
             name + " " + here + ": " + distance_text(distance) + (layer == jump ? ", the first jump" : ""),
             layer == jump});
        chart.lines[1].points.push_back(
            {double(layer), worst, name + ": " + distance_text(worst) + " at worst, at token " + worst_at, false});
        table.add({name, code(at.text("stage")), distance_text(distance), distance_text(worst), worst_at},
                  layer == jump ? "bad" : "");
    }
    chart.title = "Growth over the layers";
    chart.description = "Relative L2 distance behind each layer. The same values stand in the table below it.";
    chart.x_axis = "layer";
    chart.y_axis = "relative L2, log scale";
    std::string lead = "Distance of the residual stream behind each layer.";
    if (jump >= 0)
        lead +=
            text_of(" The cross is the first jump: layer %lld is more than 100 times as far apart as what enters it.",
                    static_cast<long long>(jump));
    section.html = heading(chart.title, lead);
    section.add(draw(chart), "");
    section.html += details("Values as a table", table.html());
    return section;
}

Section diff_first(const Saved &document) {
    Section section;
    section.html = heading("The first difference", "");
    if (!document.has("first")) {
        section.html += document.at("counts").count("compared")
                            ? "<p>No record is judged different.</p>\n"
                            : "<p class=\"none\">Not recorded: nothing was compared.</p>\n";
        return section;
    }
    const Saved first = document.at("first"), a = first.at("a"), b = first.at("b");
    std::string where = code(first.text("stage")) + " at " + escaped(place_text(first));
    if (first.has("token")) where += text_of(" (id %lld)", static_cast<long long>(first.integer("token")));
    section.html += "<p>" + where + ": " + inputs_html(first) + ". Relative L2 " +
                    distance_text(first.number("relative")) +
                    (first.has("allowed") ? ", allowed " + distance_text(first.number("allowed")) : "") + ".</p>\n";
    std::string lines;
    for (const std::string &hint : first.texts("hints")) lines += "<li>" + escaped(hint) + "</li>\n";
    for (const std::string &cause : document.texts("causes"))
        lines += "<li>Likely cause: " + escaped(cause) + "</li>\n";
    if (first.has("top")) {
        const Saved top = first.at("top");
        lines += "<li>" + text_of("Element %lld: ", static_cast<long long>(top.integer("index"))) +
                 (top.has("a") ? value_text(top.number("a")) : "not listed") + " in A, " +
                 (top.has("b") ? value_text(top.number("b")) : "not listed") + " in B</li>\n";
    }
    if (!lines.empty()) section.html += "<ul class=\"lines\">\n" + lines + "</ul>\n";
    Table table("Both records", {{"", false}, {"A", true}, {"B", true}});
    for (const char *key : {"rms", "mean", "min", "max", "absmax", "l2"})
        table.add({key, value_text(a.number(key)), value_text(b.number(key))});
    for (const char *key : {"nan", "inf", "zeros", "num_elements", "line"})
        table.add({key, number_of(a, key), number_of(b, key)});
    table.be_narrow();
    section.html += table.html();

    const std::vector<Saved> listed = document.list("origins");
    const uint64_t n_origins = document.count("origins_total");
    Table origins("Where differences arise: " + plural(n_origins, "place") +
                      (listed.size() < n_origins ? text_of(", the first %zu", listed.size()) : ""),
                  {{"stage", false},
                   {"first at", false},
                   {"why", false},
                   {"relative L2", true},
                   {"worst", true},
                   {"positions", true}});
    for (const Saved &origin : listed)
        origins.add({code(origin.text("stage")), escaped(place_text(origin)), inputs_html(origin),
                     distance_text(origin.number("relative")), distance_text(origin.number("worst_relative")),
                     number_of(origin, "positions")});
    if (!origins.empty()) section.html += origins.html();
    return section;
}

Section diff_preflight(const Saved &document) {
    Section section;
    section.html = heading("Preflight", "What the run records say before any number.");
    Table sides("Both sides", {{"", false}, {"A, the reference", false}, {"B", false}});
    for (const auto &[key, name] : {std::pair("path", "trace"),
                                    {"engine", "engine"},
                                    {"engine_version", "version"},
                                    {"isa", "instruction set"},
                                    {"kv_type", "KV cache"},
                                    {"model_path", "model"},
                                    {"model_hash", "model hash"},
                                    {"tokens", "tokens"},
                                    {"runs", "runs"},
                                    {"records", "records"}})
        sides.add({name, side_row(document, "a", key), side_row(document, "b", key)});
    section.html += sides.html();
    Table facts("Differences", {{"key", false}, {"A", false}, {"B", false}, {"what it means", false}, {"", false}});
    for (const Saved &fact : document.list("preflight")) {
        const bool mismatch = fact.flag("mismatch");
        const auto value = [&](const char *key) { return escaped_cut(fact.text(key), prompt_bytes_max); };
        facts.add({code(fact.text("key")), value("a"), value("b"), value("text"),
                   mismatch               ? "<b>mismatch</b>"
                   : fact.flag("ignored") ? "ignored"
                                          : "fact"},
                  mismatch ? "bad" : "");
    }
    section.html += facts.empty() ? "<p>The run records do not differ.</p>\n" : facts.html();
    return section;
}

Section diff_envelope(const Saved &document) {
    Section section;
    if (!document.has("envelope")) return section;
    const Saved envelope = document.at("envelope"), records = envelope.at("records");
    std::string lead = "What legal variations of our engine do to the same model and tokens.";
    for (const std::string &name : envelope.texts("classes"))
        lead += " Inside " + code(name) + ": " + number_of(records, name.c_str()) + ".";
    section.html = heading("Noise classes", lead + " Outside every class: " + number_of(records, "outside") + ".");
    Table table("The smallest class that holds every position",
                {{"layer", true}, {"stage", false}, {"noise class", false}, {"worst", true}, {"allowed", true}});
    for (const Saved &at : envelope.list("stages")) {
        const bool is_outside = !at.has("class");
        const int64_t layer = at.integer("layer");
        table.add({layer < 0 ? "-" : std::to_string(layer), code(at.text("stage")),
                   is_outside ? "outside" : escaped(at.text("class")), distance_text(at.number("worst_relative")),
                   distance_text(at.number("allowed"))},
                  is_outside ? "bad" : "");
    }
    section.html += details("Every stage as a table", table.html());
    return section;
}

// Codes, scales and sums whose raw values are on both sides.
std::string integers_html(const Saved &integers) {
    Table table("What explains those that differ", {{"", false},
                             {"values", true},
                             {"differ", true},
                             {"at rounding ties, last bits", true},
                             {"by inputs that differ", true},
                             {"not judged", true},
                             {"input not recorded", true},
                             {"wrong", true}});
    for (const char *kind : {"codes", "scales", "sums"}) {
        const Saved of = integers.at(kind);
        std::vector<std::string> cells = {kind};
        for (const char *key : {"values", "differ", "rounding", "inputs", "open", "unknown", "wrong"})
            cells.push_back(number_of(of, key));
        table.add(cells, of.count("wrong") ? "bad" : "");
    }
    const std::string text = integers.text("text");
    return "<h3>Integers</h3>\n<p>" + (text.empty() ? "All codes, scales and sums are equal" : escaped(text)) + ".</p>\n" +
           table.html();
}

Section diff_counts(const Saved &document) {
    Section section;
    section.html = heading("Counts", "");
    const Saved counts = document.at("counts");
    Table table("Records", {{"", false}, {"records", true}});
    for (const auto &[key, name] : {std::pair("compared", "compared"),
                                    {"equal", "equal, bit for bit"},
                                    {"within", "within the tolerance"},
                                    {"unjudged", "not judged"},
                                    {"different", "different"},
                                    {"missing_in_a", "missing in A"},
                                    {"missing_in_b", "missing in B"},
                                    {"unparsable", "lines that could not be read"},
                                    {"duplicate", "duplicates"}})
        table.add({name, number_of(counts, key)});
    std::string lines;
    for (const std::string &error : document.texts("errors")) lines += "<li>" + escaped(error) + "</li>\n";
    if (!lines.empty()) section.html += "<h3>Errors</h3>\n<ul class=\"lines\">\n" + lines + "</ul>\n";
    table.be_narrow();
    section.html += table.html();
    if (document.has("integers")) section.html += integers_html(document.at("integers"));
    return section;
}

}  // namespace bitnet::report
