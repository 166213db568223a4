// The report and the receipt as JSON.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include <nlohmann/json.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/crossval/limits.h"
#include "abi/cli/crossval/report.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

using json = nlohmann::ordered_json;

constexpr int receipt_version = 1;

std::string dump(const json &value) { return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n"; }

// JSON has no NaN: what was not measured is null; infinity is a string.
json number(double value) {
    if (std::isnan(value)) return nullptr;
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return value;
}

json metric(const bitnet_logits_row_t &row, uint32_t bit) { return number(metric_value(row, bit)); }

json class_name(const PromptReport &prompt, const Position &p) {
    return is_outside(prompt, p) ? json(nullptr) : json(prompt.envelope->name(*p.noise_class));
}

json row_object(const PromptReport &prompt, const Position &p, const bitnet_logits_limits_t &limits) {
    const bitnet_logits_row_t &row = p.row;
    const bool has_top1 = (row.measured & BITNET_METRIC_TOP1) != 0;
    json out = {
        {"position", p.position},
        {"token", p.token},
        {"verdict", row.failed   ? "diverged"
                    : row.warned ? "warning"
                                 : "ok"},
        {"failed", metric_names(row.failed)},
        {"cosine", metric(row, BITNET_METRIC_COSINE)},
        {"l2", metric(row, BITNET_METRIC_L2)},
        {"max_abs", metric(row, BITNET_METRIC_MAX_ABS)},
        {"mse", metric(row, BITNET_METRIC_MSE)},
        {"nmse", metric(row, BITNET_METRIC_NMSE)},
        {"kl", metric(row, BITNET_METRIC_KL)},
        {"top_k", metric(row, BITNET_METRIC_TOP_K)},
        {"top1", has_top1 ? json(row.top1_a) : json(nullptr)},
        {"top1_against", has_top1 ? json(row.top1_b) : json(nullptr)},
        {"top1_lead", has_top1 ? number(row.top1_lead) : json(nullptr)},
        {"not_close", row.measured & limits.judged & BITNET_METRIC_CLOSE ? json(row.n_not_close) : json(nullptr)},
        {"elements", row.n},
        {"nonfinite", row.n_nonfinite},
        {"worst", nullptr}};
    if (prompt.envelope) out["class"] = class_name(prompt, p);
    if (row.measured & BITNET_METRIC_MAX_ABS)
        out["worst"] = {{"index", row.worst_index},
                        {"ours", number(double(row.worst_a))},
                        {"against", number(double(row.worst_b))}};
    return out;
}

json summary_object(const bitnet_logits_summary_t &s) {
    return {{"positions", s.n_rows},
            {"diverged", s.n_failed},
            {"warned", s.n_warned},
            {"top1_equal", s.n_top1_equal},
            {"cosine_least", number(s.cosine_least)},
            {"l2_largest", number(s.l2_largest)},
            {"max_abs_largest", number(s.max_abs_largest)},
            {"mse_mean", number(s.mse_mean)},
            {"nmse_largest", number(s.nmse_largest)},
            {"kl_mean", number(s.kl_mean)},
            {"kl_largest", number(s.kl_largest)},
            {"top_k_mean", number(s.top_k_mean)},
            {"failed", metric_names(s.failed)},
            {"unmeasured", metric_names(s.unmeasured)}};
}

json envelope_object(const PromptReport &prompt);

json prompt_object(const PromptReport &prompt, const bitnet_logits_limits_t &limits) {
    json out = {{"index", prompt.index}, {"id", prompt.id}};
    out["prompt"] = prompt.text ? json(*prompt.text) : json(nullptr);
    out["verdict"] = verdict_name(prompt.exit_code());
    out["error"] = prompt.error.empty() ? json(nullptr) : json(prompt.error);
    out["tokens"] = prompt.tokens;
    out["n_prompt"] = prompt.n_prompt;
    out["token_parity"] = prompt.difference ? "different" : prompt.tokens_of_theirs ? "equal" : "unknown";
    out["token_difference"] = nullptr;
    if (prompt.difference) {
        out["token_difference"] = {{"position", prompt.difference->position},
                                   {"ours", prompt.difference->ours},
                                   {"against", prompt.difference->theirs},
                                   {"text", prompt.difference->text}};
        out["tokens_against"] = *prompt.tokens_of_theirs;
    }
    const Position *first = prompt.first_divergence();
    out["first_divergence"] = first ? json(first->position) : json(nullptr);
    out["compared"] = prompt.positions.size();
    out["missing"] = prompt.n_missing;
    out["missing_allowed"] = prompt.missing_allowed;
    out["complete"] = prompt.complete;
    out["summary"] = prompt.positions.empty() ? json(nullptr) : summary_object(prompt.summary);
    if (prompt.envelope) out["envelope"] = envelope_object(prompt);
    out["rows"] = json::array();
    for (const Position &p : prompt.positions) out["rows"].push_back(row_object(prompt, p, limits));
    return out;
}

// Every limit that counts, by the name of its metric.
json limits_object(const bitnet_logits_limits_t &limits) {
    json out = json::object();
    for (const uint32_t bit : metric_bits(limits.judged)) {
        if (bit == BITNET_METRIC_CLOSE) {
            out["close"] = {{"atol", limits.atol}, {"rtol", limits.rtol}};
        } else if (bit == BITNET_METRIC_TOP1) {
            out["top1"] = limits.top1_noise < 0 ? json("exact") : json({{"noise", limits.top1_noise}});
        } else if (bit == BITNET_METRIC_EITHER) {
            out["either"] = {{"cosine", limits.either_cosine_min}, {"max_abs", limits.either_max_abs_max}};
        } else {
            out[metric_name(bit)] = number(limit_value(limits, bit));
        }
    }
    if (limits.judged & BITNET_METRIC_COSINE && limits.cosine_warn > limits.cosine_min)
        out["cosine_warn"] = limits.cosine_warn;
    if (limits.judged & BITNET_METRIC_TOP_K) out["k"] = limits.top_k;
    return out;
}

json name_or_null(const std::string &name) { return name.empty() ? json(nullptr) : json(name); }

json envelope_object(const PromptReport &prompt) {
    const envelope::Judge &judge = *prompt.envelope;
    json out = {{"class", name_or_null(prompt.noise_class())}, {"classes", json::array()}};
    for (size_t i = 0; i < judge.n_classes(); i++)
        out["classes"].push_back({{"name", judge.name(i)}, {"limits", limits_object(judge.limits(i))}});
    out["limits"] = limits_object(*prompt.limits);
    return out;
}

std::vector<const Position *> all_positions(const Report &report) {
    std::vector<const Position *> all;
    for (const PromptReport &prompt : report.prompts)
        for (const Position &p : prompt.positions) all.push_back(&p);
    return all;
}

// The keys that users of BitNet-rs's crossval-per-token read. Arrays run over the positions of all prompts.
void add_known_keys(const Report &report, json &out) {
    const std::vector<const Position *> all = all_positions(report);
    const auto first = std::find_if(all.begin(), all.end(), [](const Position *p) { return p->row.failed != 0; });
    json cosines = json::array(), distances = json::array();
    double largest = NAN;
    for (const Position *p : all) {
        cosines.push_back(metric(p->row, BITNET_METRIC_COSINE));
        distances.push_back(metric(p->row, BITNET_METRIC_L2));
        largest = std::fmax(largest, metric_value(p->row, BITNET_METRIC_MAX_ABS));
    }
    const int code = report.exit_code();
    // With one prompt the token's position, else an index into the arrays.
    out["first_divergence_token"] = nullptr;
    if (first != all.end())
        out["first_divergence_token"] = report.prompts.size() == 1 ? (*first)->position : first - all.begin();
    out["per_token_cosine_sim"] = cosines;
    out["per_token_l2_dist"] = distances;
    out["max_absolute_diff"] = number(largest);
    out["threshold"] = number(limit_value(report.limits, BITNET_METRIC_COSINE));
    out["status"] = code == exit_good ? "ok" : code == exit_divergence ? "diverged" : "error";
}

// A limit that is off is one that everything passes: readers of the receipt expect numbers.
json thresholds_object(const bitnet_logits_limits_t &limits) {
    const auto limit = [&](uint32_t bit, double off) {
        const double value = limit_value(limits, bit);
        return std::isnan(value) ? off : value;
    };
    return {{"mse", limit(BITNET_METRIC_MSE, double(FLT_MAX))},
            {"kl", limit(BITNET_METRIC_KL, double(FLT_MAX))},
            {"topk", limit(BITNET_METRIC_TOP_K, 0)}};
}

json receipt_row(const PromptReport &prompt, const Position &p) {
    const bitnet_logits_row_t &row = p.row;
    const bool has_max_abs = (row.measured & BITNET_METRIC_MAX_ABS) != 0;
    json out = {{"pos", p.position}, {"mse", row.mse}, {"max_abs", has_max_abs ? row.max_abs : row.l2}};
    if (row.measured & BITNET_METRIC_KL) out["kl"] = row.kl;
    if (row.measured & BITNET_METRIC_TOP_K) out["topk_agree"] = row.top_k;
    out["top5_rust"] = p.top_ours;
    out["top5_cpp"] = p.top_theirs;
    out["prompt"] = prompt.id;
    out["token"] = p.token;
    out["cosine"] = metric(row, BITNET_METRIC_COSINE);
    out["l2"] = metric(row, BITNET_METRIC_L2);
    out["nmse"] = metric(row, BITNET_METRIC_NMSE);
    out["failed"] = metric_names(row.failed);
    return out;
}

}  // namespace

std::string render_json(const Report &report) {
    json out;
    const int code = report.exit_code();
    out["verdict"] = verdict_name(code);
    out["exit"] = code;
    out["text"] = report.sentence();
    add_known_keys(report, out);
    out["errors"] = report.errors();
    out["ours"] = {{"engine", report.engine},
                   {"model_path", report.model_path},
                   {"model_hash", report.model_hash},
                   {"semantics", report.semantics},
                   {"isa", report.isa},
                   {"kv_type", report.kv_type}};
    out["against"] = {{"name", report.against},
                      {"limitation", report.limitation.empty() ? json(nullptr) : json(report.limitation)}};
    out["preset"] = report.preset;
    out["limits"] = limits_object(report.limits);
    out["top_k"] = report.limits.top_k;
    out["envelope"] = nullptr;
    if (report.has_envelope)
        out["envelope"] = {{"class", name_or_null(report.noise_class())}, {"margin", envelope::margin}};
    out["ladder"] = report.ladder;
    out["compared"] = report.n_compared();
    out["prompts"] = json::array();
    for (const PromptReport &prompt : report.prompts)
        out["prompts"].push_back(prompt_object(prompt, report.limits_of(prompt)));
    return dump(out);
}

std::string render_receipt(const Report &report, const std::string &timestamp) {
    json out;
    const bool one = report.prompts.size() == 1;
    const std::string text =
        one && report.prompts[0].text ? *report.prompts[0].text : text_of("%zu prompts", report.prompts.size());
    out["version"] = receipt_version;
    out["timestamp"] = timestamp;
    out["model"] = report.model_path;
    out["backend"] = report.against;
    out["prompt"] = text;
    out["positions"] = report.n_compared();
    out["thresholds"] = thresholds_object(report.limits);
    out["rows"] = json::array();
    double mse = 0, kl = 0;
    size_t n_kl = 0;
    for (const PromptReport &prompt : report.prompts) {
        for (const Position &p : prompt.positions) {
            out["rows"].push_back(receipt_row(prompt, p));
            mse += p.row.mse;
            kl += p.row.kl;
            n_kl += p.row.measured & BITNET_METRIC_KL ? 1 : 0;
        }
    }
    const size_t n = report.n_compared();
    json summary = {{"all_passed", report.exit_code() == exit_good}};
    const std::vector<const Position *> all = all_positions(report);
    const auto first = std::find_if(all.begin(), all.end(), [](const Position *p) { return p->row.failed != 0; });
    if (first != all.end()) summary["first_divergence"] = first - all.begin();
    summary["mean_mse"] = n ? mse / double(n) : 0;
    if (n > 0 && n_kl == n) summary["mean_kl"] = kl / double(n);
    out["summary"] = summary;
    out["verdict"] = verdict_name(report.exit_code());
    out["text"] = report.sentence();
    out["preset"] = report.preset;
    out["limits"] = limits_object(report.limits);
    out["engine"] = report.engine;
    out["model_hash"] = report.model_hash;
    out["semantics"] = report.semantics;
    out["prompts"] = json::array();
    for (const PromptReport &prompt : report.prompts) {
        json object = prompt_object(prompt, report.limits_of(prompt));
        object.erase("rows");
        out["prompts"].push_back(object);
    }
    return dump(out);
}

}  // namespace bitnet::crossval
