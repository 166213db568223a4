#include <algorithm>
#include <cmath>
#include <functional>

#include "abi/cli/diff/text.h"
#include "abi/cli/report/recheck.h"
#include "abi/cli/report/saved_diff.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

using OrderedJson = nlohmann::ordered_json;
using diff::Rule;
using diff::short_number;

struct Verdict {
    int exit_code = 2;
    std::string text;
    std::vector<MapCell> outside;  // cells of the saved map that the new rule does not accept
};

// What no threshold changes; exit code -1: there is nothing of the kind.
Verdict fixed_verdict(const Saved &document) {
    const std::vector<std::string> errors = document.texts("errors");
    // The others are of the rule, or of missing records, which are judged anew.
    const bool of_the_files = !document.has("input_errors") || document.count("input_errors") > 0;
    if (!errors.empty() && of_the_files) return {2, errors.front(), {}};
    for (const Saved &fact : document.list("preflight"))
        if (fact.flag("mismatch")) return {1, document.text("text"), {}};
    if (document.at("counts").count("compared") == 0)
        return {2, "nothing was compared: the traces have no record in common", {}};
    return {-1, "", {}};
}

std::string missing_text(const Saved &document) {
    const Saved counts = document.at("counts");
    const uint64_t a = counts.count("missing_in_a"), b = counts.count("missing_in_b");
    if ((a == 0 && b == 0) || document.flag_or("allow_missing", false)) return "";
    return text_of("A lacks %llu of B's records and B lacks %llu of A's: an incomplete comparison cannot match "
                   "(--allow-missing of bitnet diff accepts it)",
                   static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
}

std::string outside_text(const std::vector<MapCell> &cells) {
    if (cells.empty()) return "";
    const MapCell &first = cells.front();
    const double distance = first.distance;
    return text_of("; %zu places are outside, the first is %s: %s at worst, at token %d", cells.size(),
                   first.name().c_str(), std::isnan(distance) ? "not measurable" : short_number(distance).c_str(),
                   first.position);
}

std::vector<MapCell> outside_cells(const Saved &document, const std::function<bool(const MapCell &)> &is_outside) {
    std::vector<MapCell> cells;
    if (!document.has("map")) return cells;
    for (const MapCell &cell : read_map(document.at("map")).stage_cells())
        if (is_outside(cell)) cells.push_back(cell);
    return cells;
}

Verdict judge_exact(const Saved &document) {
    const Saved counts = document.at("counts");
    const uint64_t compared = counts.count("compared"), equal = counts.count("equal");
    if (equal > compared) counts.at("equal").fail("at most as many as were compared");
    if (equal == compared) return {0, text_of("all %s records are equal, bit for bit", with_commas(equal).c_str()), {}};
    Verdict verdict = {1, "", outside_cells(document, [](const MapCell &cell) { return cell.status != '='; })};
    verdict.text =
        text_of("%s of %s records differ", with_commas(compared - equal).c_str(), with_commas(compared).c_str()) +
        outside_text(verdict.outside);
    return verdict;
}

Verdict judge_distance(const Saved &document, double allowed) {
    const double needed = document.number("would_pass");
    if (needed <= allowed)
        return {0,
                text_of("every record is within %s relative L2, the farthest at %s", short_number(allowed).c_str(),
                        short_number(needed).c_str()),
                {}};
    Verdict verdict = {1, "", outside_cells(document, [&](const MapCell &cell) {
                           return cell.status != '=' && !(cell.distance <= allowed);
                       })};
    verdict.text = std::isnan(needed)
                       ? "no tolerance accepts every record"
                       : text_of("the farthest record is at %.17g, above %s (--tolerance %s would pass)", needed,
                                 short_number(allowed).c_str(), diff::rounded_up(needed).c_str());
    verdict.text += outside_text(verdict.outside);
    return verdict;
}

// Engines that run freely: their logits decide.
Verdict judge_logits(const Saved &document, const Saved &automatic) {
    const uint64_t n_different = automatic.count("different");
    if (n_different > 0) {
        const Saved first = automatic.at("first");
        const int64_t layer = first.integer("layer");
        const std::string place =
            first.text("stage") + (layer < 0 ? "" : text_of(" of layer %lld", static_cast<long long>(layer)));
        return {1,
                text_of("%s records leave the envelope of free-running engines, the first is %s at token %lld",
                        with_commas(n_different).c_str(), printable(place).c_str(),
                        static_cast<long long>(first.integer("seq"))),
                {}};
    }
    const uint64_t n_logits = automatic.count("logits"), n_unjudged = automatic.count("unjudged");
    if (n_unjudged > 0)
        return {2,
                text_of("no verdict: %s of %s logits cannot be judged from what the traces hold",
                        with_commas(n_unjudged).c_str(), with_commas(n_logits).c_str()),
                {}};
    const uint64_t n_unexplained = automatic.has("unexplained") ? automatic.count("unexplained") : 0;
    if (n_unexplained > 0 && !document.flag_or("allow_missing", false))
        return {2,
                text_of("no verdict: %s integers are unexplained because their input was not recorded",
                        with_commas(n_unexplained).c_str()),
                {}};
    const Saved counts = document.at("counts");
    if (n_logits == 0 && automatic.flag_or("rounding", false)) {
        const std::string integers = document.at("integers").text("text");
        return {0,
                (integers.empty() ? "all codes are equal" : integers) +
                    "; what else differs is of last bits or lies behind that",
                {}};
    }
    if (n_logits == 0 && counts.count("equal") < counts.count("compared"))
        return {2,
                "no verdict: the engines differ, so --tolerance auto looks at logits only, and no logits were "
                "recorded on both sides (give --tolerance a number)",
                {}};
    return {0,
            text_of("the logits of %s tokens are inside the envelope of free-running engines",
                    with_commas(n_logits).c_str()),
            {}};
}

// What the comparison noted for a rule that needs more than distances.
Saved automatic_of(const Saved &document, const std::string &asked) {
    if (!document.has("automatic"))
        throw CommandError(document.place() + ": --tolerance " + asked +
                           " cannot be judged: the file does not say what it needs (\"automatic\"); give exact or a number");
    return document.at("automatic");
}

Verdict judge_automatic(const Saved &document) {
    const Saved automatic = automatic_of(document, "auto");
    return automatic.text("rule") == "hashes" ? judge_exact(document) : judge_logits(document, automatic);
}

Verdict judge_by(const Saved &document, const diff::Tolerance &tolerance) {
    const auto rule = tolerance.rule();
    if (!rule) return judge_automatic(document);
    if (rule == Rule::logits) return judge_logits(document, automatic_of(document, tolerance.text));
    return rule == Rule::hashes ? judge_exact(document) : judge_distance(document, tolerance.max_distance());
}

Verdict judge_as_saved(const Saved &document) {
    const std::string rule = document.text("rule");
    if (rule == "hashes") return judge_exact(document);
    if (rule == "distance") return judge_distance(document, document.number("tolerance"));
    if (rule == "logits") return judge_logits(document, automatic_of(document, "auto"));
    throw CommandError(document.place() + ": its rule \"" + printable(rule) +
                       "\" needs more than the file holds: give --tolerance exact, auto or a number");
}

}  // namespace

Rechecked recheck_diff(const Saved &document, const diff::Tolerance &tolerance, bool as_saved) {
    const std::string saved_rule = document.text("rule"), saved_verdict = document.text("verdict");
    Verdict verdict = fixed_verdict(document);
    if (verdict.exit_code < 0) {
        verdict = as_saved ? judge_as_saved(document) : judge_by(document, tolerance);
        const std::string missing = missing_text(document);
        if (verdict.exit_code == 0 && !missing.empty()) verdict = {2, missing, {}};
    }
    Rechecked out;
    out.exit_code = verdict.exit_code;
    const std::string name = crossval::verdict_name(verdict.exit_code), asked = as_saved ? "as saved" : tolerance.text;
    std::string upper = name;
    for (char &c : upper) c = char(c - 'a' + 'A');
    out.text = bold(upper) + ": " + printable(verdict.text) + "\n\n";
    out.text += "  tolerance " + printable(asked) + "\n  saved     " + printable(saved_verdict) + ", by " +
                printable(saved_rule) + ": " + printable(document.text("text")) + "\n";
    OrderedJson object = {
        {"verdict", name},
        {"exit", verdict.exit_code},
        {"text", verdict.text},
        {"errors", OrderedJson::array()},
        {"tolerance", asked},
        {"saved", {{"verdict", saved_verdict}, {"rule", saved_rule}, {"text", document.text("text")}}},
        {"would_pass", document.json()["would_pass"]},
        {"outside", OrderedJson::array()}};
    if (verdict.exit_code == 2) {
        out.errors.push_back(verdict.text);
        object["errors"].push_back(verdict.text);
    }
    for (const MapCell &cell : verdict.outside)
        object["outside"].push_back(
            {{"layer", cell.layer},
             {"to_layer", cell.to_layer},
             {"stage", cell.stage},
             {"relative", std::isfinite(cell.distance) ? OrderedJson(cell.distance) : OrderedJson(nullptr)},
             {"run", cell.run},
             {"seq", cell.position}});
    out.json = object.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
    return out;
}

}  // namespace bitnet::report
