#include "abi/cli/diff/render.h"

#include "abi/cli/diff/map.h"
#include "abi/cli/diff/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace bitnet::diff {

namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinities: the strings the trace format uses. NaN, "not measurable", is null.
Json number(double value) {
    if (std::isnan(value)) return nullptr;
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return value;
}

Json number(const std::optional<double> &value) { return value ? number(*value) : Json(nullptr); }

Json place(Key key) {
    return {{"run", run_of(key)},
            {"seq", position_of(key)},
            {"layer", layer_of(key)},
            {"stage", std::string(find_stage(int(node_of(key)))->name)}};
}

const char *rule_name(Rule rule) {
    switch (rule) {
    case Rule::hashes: return "hashes";
    case Rule::distance: return "distance";
    case Rule::envelope: return "envelope";
    case Rule::logits: break;
    }
    return "logits";
}

const char *inputs_name(Inputs inputs) {
    switch (inputs) {
    case Inputs::equal: return "equal";
    case Inputs::unrecorded: return "unrecorded";
    case Inputs::token: return "token";
    case Inputs::inside: return "inside";
    case Inputs::own: return "own";
    case Inputs::close: break;
    }
    return "close";
}

Json side(const Trace &trace) {
    Json out = {
        {"path", trace.path}, {"files", trace.files}, {"runs", trace.runs.size()}, {"records", trace.n_records}};
    if (trace.runs.empty()) return out;
    const Run &run = trace.runs.front();
    out["engine"] = run.engine;
    out["engine_version"] = run.engine_version;
    out["isa"] = run.isa;
    out["kv_type"] = run.kv_type;
    out["model_path"] = run.model_path;
    out["model_hash"] = run.model_hash;
    out["tokens"] = run.tokens.size();
    return out;
}

// BitNet-rs's records say less: null.
Json record(const Record &r) {
    auto known = [&](Json value) { return r.bare ? Json(nullptr) : value; };
    return {{"line", r.line},
            {"event", known(r.event)},
            {"rms", number(r.rms)},
            {"mean", known(number(r.mean))},
            {"min", known(number(r.min))},
            {"max", known(number(r.max))},
            {"absmax", known(number(r.absmax))},
            {"l2", known(number(r.l2))},
            {"nan", known(r.n_nan)},
            {"inf", known(r.n_inf)},
            {"zeros", known(r.n_zeros)},
            {"num_elements", r.n_elements}};
}

Json origin(const Origin &o) {
    Json out = place(o.pair->key());
    out["inputs"] = inputs_name(o.inputs);
    out["inputs_recorded"] = o.recorded;
    out["inputs_unrecorded"] = o.unrecorded;
    out["relative"] = number(o.pair->distance);
    out["worst_relative"] = number(o.worst_distance);
    out["positions"] = o.n_positions;
    return out;
}

const char *outcome_name(IntegerOutcome outcome) {
    switch (outcome) {
    case IntegerOutcome::rounding: return "rounding";
    case IntegerOutcome::inputs: return "inputs";
    case IntegerOutcome::open: return "open";
    case IntegerOutcome::unknown: return "unknown";
    case IntegerOutcome::wrong: break;
    }
    return "wrong";
}

Json integer_pair(const Comparison &comparison, Key key) {
    const auto at = comparison.integers.find(key);
    if (at == comparison.integers.end()) return nullptr;
    const IntegerPair &pair = at->second;
    return {{"outcome", outcome_name(pair.outcome)},
            {"values", pair.n},
            {"differ", pair.n_differ},
            {"rounding", pair.n_rounding},
            {"inputs", pair.n_inputs},
            {"open", pair.n_open},
            {"unknown", pair.n_unknown},
            {"wrong", pair.n_wrong},
            {"largest", number(pair.largest)},
            {"farthest_tie", number(pair.farthest_tie)},
            {"index", pair.shown.index},
            {"a", number(pair.shown.a)},
            {"b", number(pair.shown.b)},
            {"real_a", number(pair.shown.real_a)},
            {"real_b", number(pair.shown.real_b)}};
}

Json integer_totals(const IntegerTotals &totals) {
    return {{"rows", totals.rows},
            {"rows_equal", totals.rows_equal},
            {"values", totals.values},
            {"differ", totals.differ},
            {"rounding", totals.rounding},
            {"inputs", totals.inputs},
            {"open", totals.open},
            {"unknown", totals.unknown},
            {"wrong", totals.wrong},
            {"largest", number(totals.largest)},
            {"farthest_tie", number(totals.farthest_tie)}};
}

Json integers(const Integers &all) {
    if (!all.any()) return nullptr;
    const auto at = [](const std::optional<Key> &key) { return key ? place(*key) : Json(nullptr); };
    return {{"text", integers_text(all)},
            {"codes", integer_totals(all.codes)},
            {"scales", integer_totals(all.scales)},
            {"sums", integer_totals(all.sums)},
            {"first_rounding", at(all.first_rounding)},
            {"first_unknown", at(all.first_unknown)},
            {"records_rounding", all.n_rounding},
            {"records_behind", all.n_behind},
            {"records_other", all.n_other},
            {"first_other", at(all.first_other)}};
}

Json first(const Report &report, const Trace &a) {
    if (!report.first) return nullptr;
    const Pair &pair = *report.first;
    Json out = place(pair.key());
    const auto &tokens = a.runs[size_t(run_of(pair.key()))].tokens;
    out["token"] = nullptr;
    for (const auto &[position, id] : tokens) {
        if (position == position_of(pair.key())) out["token"] = id;
    }
    bool leads = !report.origins.empty() && report.origins.front().pair == &pair;
    out["inputs"] = leads ? Json(inputs_name(report.origins.front().inputs)) : Json(nullptr);
    out["inputs_recorded"] = leads ? report.origins.front().recorded : std::vector<std::string>();
    out["inputs_unrecorded"] = leads ? report.origins.front().unrecorded : std::vector<std::string>();
    out["a"] = record(report.first_a);
    out["b"] = record(report.first_b);
    out["top"] = nullptr;
    if (auto top = first_top_difference(report.first_a, report.first_b)) {
        auto value = [](const std::optional<float> &v) { return v ? number(double(*v)) : Json(nullptr); };
        out["top"] = {{"index", top->index}, {"a", value(top->a)}, {"b", value(top->b)}};
    }
    out["relative"] = number(pair.distance);
    out["relative_at_least"] = pair.is(Pair::measurable) ? Json(nullptr) : number(pair.at_least);
    out["allowed"] = number(allowed_distance(report.comparison, pair));
    out["integers"] = integer_pair(report.comparison, pair.key());
    out["hints"] = hints(report.first_a, report.first_b);
    out["select"] = selection_to_explain(pair.key());
    return out;
}

Json growth(const Growth &curve) {
    Json layers = Json::array();
    for (const LayerGrowth &g : curve.layers) {
        layers.push_back({{"layer", g.layer},
                          {"stage", std::string(g.stage->name)},
                          {"relative", number(g.distance)},
                          {"worst", number(g.worst)},
                          {"worst_seq", g.worst_position}});
    }
    return layers;
}

Json jump(const Growth &curve) {
    if (!curve.jump) return nullptr;
    const LayerGrowth &at = curve.layers[*curve.jump];
    return {{"run", curve.run}, {"seq", curve.position}, {"layer", at.layer}, {"relative", number(at.distance)}};
}

Json logits(const Report &report) {
    if (!report.logits) return nullptr;
    const Pair &pair = *report.logits;
    const LogitsPair &l = report.comparison.logits[pair.logits];
    auto index = [](const std::optional<uint32_t> &i) { return i ? Json(*i) : Json(nullptr); };
    return {{"compared", report.comparison.n_logits},
            {"run", run_of(pair.key())},
            {"seq", position_of(pair.key())},
            {"relative", number(pair.distance)},
            {"unjudged", report.comparison.n_logits_unjudged},
            {"allowed", number(allowed_distance(report.comparison, pair))},
            {"top1_a", index(l.top_a)},
            {"top1_b", index(l.top_b)},
            {"top1_equal", l.top_a && l.top_b ? Json(*l.top_a == *l.top_b) : Json(nullptr)},
            {"top1_inside_noise", l.top_inside_noise},
            {"top_common", l.n_common},
            {"top_listed", l.n_listed},
            {"worst_relative", number(report.logits_worst->distance)},
            {"worst_seq", position_of(report.logits_worst->key())}};
}

Json noise_class(const Noise &noise, size_t index) {
    return index < noise.classes.size() ? Json(noise.classes[index]) : Json(nullptr);
}

Json noise(const Report &report) {
    if (!report.noise) return nullptr;
    const Noise &noise = *report.noise;
    Json records = Json::object();
    for (size_t i = 0; i < noise.classes.size(); ++i) records[noise.classes[i]] = noise.records[i];
    records["outside"] = noise.records.back();
    Json stages = Json::array();
    for (const StageNoise &s : noise.stages) {
        stages.push_back({{"layer", s.layer},
                          {"stage", std::string(s.stage->name)},
                          {"class", noise_class(noise, s.noise_class)},
                          {"worst_relative", number(s.worst)},
                          {"allowed", number(s.allowed)}});
    }
    return {{"class", noise.all_equal     ? Json("equal")
                      : noise.noise_class ? noise_class(noise, *noise.noise_class)
                                          : Json(nullptr)},
            {"classes", noise.classes},
            {"margin", envelope::margin},
            {"records", records},
            {"stages", stages}};
}

Json counts(const Counts &c) {
    return {{"compared", c.compared},
            {"equal", c.equal},
            {"within", c.within},
            {"unjudged", c.unjudged},
            {"different", c.different},
            {"missing_in_a", c.missing_in_a},
            {"missing_in_b", c.missing_in_b},
            {"unparsable", c.unparsable_a + c.unparsable_b},
            {"duplicate", c.duplicate_a + c.duplicate_b}};
}

// One letter for each cell: a map of many cells stays short.
char letter(const Cell &cell) {
    if (!cell.worst) return '.';
    switch (cell.relation) {
    case Relation::equal: return '=';
    case Relation::within: return 'w';
    case Relation::unjudged: return 'u';
    case Relation::different: break;
    }
    return 'd';
}

Json cell_values(const std::vector<Cell> &cells, Json (*value)(const Pair &)) {
    Json list = Json::array();
    for (const Cell &cell : cells) list.push_back(cell.worst ? value(*cell.worst) : Json(nullptr));
    return list;
}

Json map_row(const MapRow &row, bool by_stage) {
    std::string status;
    for (const Cell &cell : row.cells) status += letter(cell);
    const bool in_layer = row.first_layer >= 0;
    Json out = {{"part", in_layer     ? "layers"
                         : row.before ? "embeddings"
                                      : "output"},
                {"layer", row.first_layer},
                {"to_layer", row.last_layer},
                {"status", status},
                {"relative", cell_values(row.cells, [](const Pair &pair) { return number(pair.distance); })}};
    if (by_stage) {
        out["run"] = cell_values(row.cells, [](const Pair &pair) { return Json(run_of(pair.key())); });
        out["seq"] = cell_values(row.cells, [](const Pair &pair) { return Json(position_of(pair.key())); });
    } else {
        out["stage"] = cell_values(
            row.cells, [](const Pair &pair) { return Json(std::string(find_stage(int(node_of(pair.key())))->name)); });
    }
    return out;
}

Json logits_of(const Cell &cell, const Comparison &comparison) {
    if (!cell.worst) return nullptr;
    const LogitsPair &logits = comparison.logits[cell.worst->logits];
    auto index = [](const std::optional<uint32_t> &i) { return i ? Json(*i) : Json(nullptr); };
    return {{"run", run_of(cell.worst->key())},       {"seq", position_of(cell.worst->key())},
            {"status", std::string(1, letter(cell))}, {"relative", number(cell.worst->distance)},
            {"top1_a", index(logits.top_a)},          {"top1_b", index(logits.top_b)}};
}

Json map_object(const Report &report, const Trace &a, const Trace &b) {
    if (!report.judged || report.comparison.pairs.empty()) return nullptr;
    const Map map = map_of(report.comparison, a, b);
    Json stages = Json::array(), columns = Json::array(), by_stage = Json::array(), by_position = Json::array(),
         logits = Json::array();
    for (const MapStage &s : map.stages)
        stages.push_back({{"name", std::string(s.stage->name)}, {"in_a", s.in_a}, {"in_b", s.in_b}});
    for (const MapColumn &c : map.columns)
        columns.push_back({{"run", run_of(c.first)},
                           {"seq", position_of(c.first)},
                           {"to_run", run_of(c.last)},
                           {"to_seq", position_of(c.last)}});
    for (const MapRow &row : map.by_stage) by_stage.push_back(map_row(row, true));
    for (const MapRow &row : map.by_position) by_position.push_back(map_row(row, false));
    for (const Cell &cell : map.logits) logits.push_back(logits_of(cell, report.comparison));
    return {{"stages", stages},
            {"columns", columns},
            {"by_stage", by_stage},
            {"by_position", by_position},
            {"logits", logits}};
}

Json automatic(const Report &report) {
    const Comparison &comparison = report.comparison;
    const FreeRunning judged = judge_free_running(comparison);
    return {{"rule", rule_name(comparison.automatic_rule)},
            {"logits", judged.n_logits},
            {"unjudged", judged.n_unjudged},
            {"different", judged.n_different},
            {"unexplained", report.integers.n_unknown()},
            {"rounding", report.integers.explain_all()},
            {"first", judged.first ? place(judged.first->key()) : Json(nullptr)}};
}

}  // namespace

std::string render_json(const Report &report, const Trace &a, const Trace &b, const Options &options) {
    static const char *const kVerdicts[] = {"match", "divergence", "error"};
    const Comparison &comparison = report.comparison;
    Json out = {{"verdict", kVerdicts[int(report.verdict)]},
                {"exit", int(report.verdict)},
                {"text", report.sentence},
                {"errors", report.errors},
                {"a", side(a)},
                {"b", side(b)},
                {"rule", rule_name(comparison.rule)},
                {"tolerance", comparison.rule == Rule::distance ? Json(comparison.max_distance) : Json(nullptr)},
                {"would_pass", number(comparison.would_pass)}};
    out["preflight"] = Json::array();
    for (const Fact &fact : report.facts) {
        out["preflight"].push_back({{"key", fact.key},
                                    {"a", fact.a},
                                    {"b", fact.b},
                                    {"text", fact.text},
                                    {"mismatch", fact.mismatch},
                                    {"ignored", fact.ignored}});
    }
    out["counts"] = counts(comparison.counts);
    out["first"] = first(report, a);
    out["causes"] = report.causes;
    out["origins"] = Json::array();
    for (size_t i = 0; i < std::min(report.origins.size(), options.max_origins); ++i) {
        out["origins"].push_back(origin(report.origins[i]));
    }
    out["origins_total"] = report.origins.size();
    out["growth"] = growth(report.growth);
    out["jump"] = jump(report.growth);
    out["logits"] = logits(report);
    out["envelope"] = noise(report);
    out["integers"] = integers(report.integers);
    out["input_errors"] = report.n_input_errors;
    out["allow_missing"] = options.allow_missing;
    out["automatic"] = automatic(report);
    out["map"] = map_object(report, a, b);
    // Paths may hold any bytes; the output is UTF-8.
    return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace bitnet::diff
