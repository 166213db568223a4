#include <cmath>
#include <map>

#include <nlohmann/json.hpp>

#include "abi/cli/explain/explain.h"
#include "abi/cli/terminal.h"

namespace bitnet::explain {

namespace {

constexpr size_t places_shown = 8, uncompared_shown = 5, others_shown = 4;

std::string short_number(double value) { return text_of("%.2g", value); }

std::string layers_text(const std::vector<int32_t> &layers) {
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

std::string place_text(const Finding &finding) {
    const std::string name = bitnet_stage_name(finding.stage);
    return finding.layer < 0 ? name : name + text_of(" of layer %d", finding.layer);
}

class Screen {
public:
    explicit Screen(const Report &report) : report_(report) {}

    std::string draw() {
        std::string head = report_.verdict;
        for (char &c : head) c = char(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
        out_ = bold(head) + ": " + report_.text + "\n\n";
        line("trace", printable(report_.path) + engine_text());
        line("model", printable(report_.model) + text_of(", hash %.16s", report_.model_hash.c_str()));
        line("equal if", report_.exact ? "bits are equal: the recording is of this engine"
                                       : "inside the tolerances for one operation at equal input");
        for (const std::string &fact : report_.facts) line("fact", fact);
        for (const Group &group : report_.groups) draw_group(group);
        uncompared();
        counts();
        return std::move(out_);
    }

private:
    void line(const char *name, const std::string &text) { out_ += text_of("  %-9s ", name) + text + "\n"; }

    std::string engine_text() const {
        if (report_.engine.empty()) return "";
        return ", by " + printable(report_.engine) + " " + printable(report_.engine_version);
    }

    void draw_group(const Group &group) {
        const bool legal = group.outcome == Outcome::legal;
        const Finding &first = *group.findings[0];
        line(legal ? "legal" : "wrong", places_text(group));
        if (group.cause.semantics.empty()) {
            line("", "cause not found: no alternative reproduces it");
        } else {
            line("", text_of("%s (%s) reproduces %s to %s", group.cause.text.c_str(), group.cause.semantics.c_str(),
                             group.findings.size() > 1 ? "them" : "it",
                             group.cause.distance == 0 ? "the bit" : short_number(group.cause.distance).c_str()));
        }
        std::string others;
        for (size_t i = 1; i < first.causes.size() && i <= others_shown; ++i)
            others += (others.empty() ? "" : "; ") + first.causes[i].semantics;
        if (!others.empty()) line("", "so would, for the first: " + others);
        const Fit &fit = first.fit;
        const std::string place = place_text(first) + text_of(", position %d: ", fit.position);
        if (fit.shape.empty())
            line("", place + text_of("off by %s, allowed %s; element %zu is %.9g, expected %.9g",
                                     short_number(fit.distance).c_str(), short_number(fit.allowed).c_str(), fit.index,
                                     fit.recorded, fit.ours));
        else
            line("", place + fit.shape);
        if (!fit.through.empty()) line("", fit.through + " was not recorded: computed on the way");
    }

    void uncompared() {
        size_t n = 0;
        for (const Finding &finding : report_.findings) {
            if (finding.outcome != Outcome::uncompared) continue;
            if (n++ < uncompared_shown) line("no word", place_text(finding) + ": " + finding.fit.why_not);
        }
        if (n > uncompared_shown) line("", text_of("and %zu more (see --format json)", n - uncompared_shown));
    }

    void counts() {
        std::string text =
            text_of("%zu reproduced (a fault before them is inherited), %zu legal, %zu wrong, %zu not compared",
                    report_.n_reproduced, report_.n_legal, report_.n_wrong, report_.n_uncompared);
        line("counts", text);
        text = text_of("%zu rows", report_.n_rows);
        if (report_.n_flips) text += text_of(", %zu activation codes flipped at rounding ties", report_.n_flips);
        if (report_.n_unrecorded) text += text_of("; %zu operations were not recorded", report_.n_unrecorded);
        line("", text);
    }

    const Report &report_;
    std::string out_;
};

const char *name_of(Outcome outcome) {
    static const char *const names[] = {"reproduced", "legal", "wrong", "uncompared"};
    return names[int(outcome)];
}

nlohmann::ordered_json number(double value) {
    if (std::isnan(value)) return nullptr;
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return value;
}

nlohmann::ordered_json finding_json(const Finding &finding) {
    nlohmann::ordered_json json;
    json["layer"] = finding.layer;
    json["stage"] = bitnet_stage_name(finding.stage);
    json["outcome"] = name_of(finding.outcome);
    if (!finding.fit.compared) {
        json["why_not"] = finding.fit.why_not;
        return json;
    }
    json["equal"] = finding.fit.equal;
    json["distance"] = number(finding.fit.distance);
    json["allowed"] = finding.fit.allowed;
    json["rows"] = finding.fit.n_rows;
    json["position"] = finding.fit.position;
    json["index"] = finding.fit.index;
    json["recorded"] = number(finding.fit.recorded);
    json["ours"] = number(finding.fit.ours);
    json["flips"] = finding.fit.n_flips;
    if (!finding.fit.through.empty()) json["through"] = finding.fit.through;
    json["causes"] = nlohmann::ordered_json::array();
    for (const Alternative &cause : finding.causes)
        json["causes"].push_back({{"semantics", cause.semantics},
                                  {"text", cause.text},
                                  {"legal", cause.legal},
                                  {"distance", number(cause.distance)}});
    return json;
}

}  // namespace

std::string places_text(const Group &group) {
    std::map<int32_t, std::vector<int32_t>> layers;
    std::vector<int32_t> stages;  // in execution order
    for (const Finding *finding : group.findings) {
        if (!layers.count(finding->stage)) stages.push_back(finding->stage);
        layers[finding->stage].push_back(finding->layer);
    }
    std::string text;
    for (size_t i = 0; i < stages.size(); ++i) {
        if (i == places_shown) return text + text_of(", and %zu more stages", stages.size() - places_shown);
        const std::vector<int32_t> &of = layers[stages[i]];
        text += (i ? "; " : "") + std::string(bitnet_stage_name(stages[i]));
        if (of[0] >= 0) text += (of.size() > 1 ? " of layers " : " of layer ") + layers_text(of);
    }
    return text;
}

std::string render_text(const Report &report) { return Screen(report).draw(); }

std::string render_json(const Report &report) {
    nlohmann::ordered_json json;
    json["verdict"] = report.verdict;
    json["exit"] = report.exit_code;
    json["text"] = report.text;
    json["errors"] = report.errors;
    json["trace"] = {{"path", report.path}, {"engine", report.engine}, {"engine_version", report.engine_version}};
    json["model"] = {{"path", report.model}, {"hash", report.model_hash}, {"semantics", report.semantics}};
    json["rule"] = report.exact ? "bits" : "tolerances";
    json["facts"] = report.facts;
    json["counts"] = {{"reproduced", report.n_reproduced},
                      {"legal", report.n_legal},
                      {"wrong", report.n_wrong},
                      {"uncompared", report.n_uncompared},
                      {"unrecorded", report.n_unrecorded},
                      {"rows", report.n_rows},
                      {"flips", report.n_flips}};
    json["groups"] = nlohmann::ordered_json::array();
    for (const Group &group : report.groups) {
        nlohmann::ordered_json places = nlohmann::ordered_json::array();
        for (const Finding *finding : group.findings)
            places.push_back({{"layer", finding->layer}, {"stage", bitnet_stage_name(finding->stage)}});
        json["groups"].push_back({{"outcome", name_of(group.outcome)},
                                  {"semantics", group.cause.semantics},
                                  {"text", group.cause.text},
                                  {"distance", number(group.cause.distance)},
                                  {"operations", places}});
    }
    json["operations"] = nlohmann::ordered_json::array();
    for (const Finding &finding : report.findings) json["operations"].push_back(finding_json(finding));
    return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace bitnet::explain
