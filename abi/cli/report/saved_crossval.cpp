#include "abi/cli/report/saved_crossval.h"

#include <cfloat>
#include <cmath>
#include <limits>
#include <map>

#include "abi/cli/crossval/limits.h"
#include "abi/cli/crossval/run.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::report {

namespace {

using namespace crossval;

int32_t small_integer(const Saved &value) {
    const int64_t number = value.as_integer();
    if (number < INT32_MIN || number > INT32_MAX) value.fail("a number of 32 bits");
    return int32_t(number);
}

bitnet_logits_limits_t no_limits() {
    bitnet_logits_limits_t limits = {};
    limits.struct_size = sizeof limits;
    check(bitnet_compare_preset("bitnet", &limits));
    limits.judged = 0;
    limits.cosine_min = limits.cosine_warn = -1;
    return limits;
}

bitnet_logits_limits_t read_limits(const Saved &object) {
    bitnet_logits_limits_t limits = no_limits();
    if (!object.json().is_object()) object.fail("an object");
    for (const auto &entry : object.json().items()) {
        const std::string &key = entry.key();
        const Saved value(entry.value(), object.place() + ": " + printable(key));
        const uint32_t metric = metric_of(key);
        if (key == "k") {
            limits.top_k = small_integer(value);
        } else if (key == "cosine_warn") {
            limits.cosine_warn = value.as_number();
        } else if (key == "close") {
            limits.judged |= BITNET_METRIC_CLOSE;
            limits.atol = value.number("atol");
            limits.rtol = value.number("rtol");
        } else if (key == "either") {
            limits.judged |= BITNET_METRIC_EITHER;
            limits.either_cosine_min = value.number("cosine");
            limits.either_max_abs_max = value.number("max_abs");
        } else if (key == "top1") {
            limits.judged |= BITNET_METRIC_TOP1;
            limits.top1_noise = value.json().is_string() ? -1 : value.number("noise");
        } else if (metric == 0 || !set_limit(limits, metric, value.as_number())) {
            throw CommandError(value.place() + ": no limit of that name is known");
        }
    }
    return limits;
}

// A metric that is there was measured. Returns whether it is.
bool read_metric(const Saved &row, const char *key, uint32_t metric, double &value, uint32_t &measured) {
    value = row.number_or_nan(key);
    if (std::isnan(value)) return false;
    measured |= metric;
    return true;
}

void read_metrics(const Saved &object, bitnet_logits_row_t &row) {
    row.measured |= BITNET_METRIC_FINITE;
    read_metric(object, "cosine", BITNET_METRIC_COSINE, row.cosine, row.measured);
    read_metric(object, "l2", BITNET_METRIC_L2, row.l2, row.measured);
    read_metric(object, "max_abs", BITNET_METRIC_MAX_ABS, row.max_abs, row.measured);
    if (read_metric(object, "mse", BITNET_METRIC_MSE, row.mse, row.measured)) row.rms_difference = std::sqrt(row.mse);
    read_metric(object, "nmse", BITNET_METRIC_NMSE, row.nmse, row.measured);
    read_metric(object, "kl", BITNET_METRIC_KL, row.kl, row.measured);
    if (row.measured & BITNET_METRIC_COSINE && row.measured & BITNET_METRIC_MAX_ABS)
        row.measured |= BITNET_METRIC_EITHER;
}

Position read_row(const Saved &object, const bitnet_logits_limits_t &limits) {
    Position p = {small_integer(object.at("position")), small_integer(object.at("token")), {}, {}, {}, {}};
    bitnet_logits_row_t &row = p.row;
    row.struct_size = sizeof row;
    read_metrics(object, row);
    read_metric(object, "top_k", BITNET_METRIC_TOP_K, row.top_k, row.measured);
    row.n_nonfinite = object.count("nonfinite");
    row.n = object.has("elements") ? object.count("elements") : row.measured & BITNET_METRIC_COSINE ? 1 : 0;
    row.top1_a = row.top1_b = -1;
    if (object.has("top1") && object.has("top1_against")) {
        row.top1_a = small_integer(object.at("top1"));
        row.top1_b = small_integer(object.at("top1_against"));
        // The lead decides only where they differ.
        const bool has_lead = read_metric(object, "top1_lead", BITNET_METRIC_TOP1, row.top1_lead, row.measured);
        if (!has_lead && row.top1_a == row.top1_b) row.measured |= BITNET_METRIC_TOP1;
    }
    // Counted for one atol and rtol; of a file that does not name them it says nothing.
    if (object.has("not_close") && limits.judged & BITNET_METRIC_CLOSE) {
        row.n_not_close = object.count("not_close");
        row.measured |= BITNET_METRIC_CLOSE;
    }
    if (object.has("worst")) {
        const Saved worst = object.at("worst");
        row.worst_index = worst.count("index");
        row.worst_a = float(worst.number("ours"));
        row.worst_b = float(worst.number("against"));
    }
    return p;
}

void read_ids(const Saved &object, PromptReport &prompt) {
    for (const Saved &id : object.list("tokens")) prompt.tokens.push_back(small_integer(id));
    const std::string parity = object.text("token_parity");
    if (parity == "equal") prompt.tokens_of_theirs = prompt.tokens;
    if (!object.has("token_difference")) return;
    const Saved difference = object.at("token_difference");
    prompt.difference = {size_t(difference.count("position")), difference.text("ours"), difference.text("against"),
                         difference.text("text")};
    prompt.tokens_of_theirs.emplace();
    for (const Saved &id : object.list("tokens_against")) prompt.tokens_of_theirs->push_back(small_integer(id));
}

// Everything of a prompt but its rows.
PromptReport read_prompt(const Saved &object) {
    PromptReport prompt;
    prompt.index = size_t(object.count("index"));
    prompt.id = object.text("id");
    if (object.has("prompt")) prompt.text = object.text("prompt");
    prompt.error = object.text_or("error", "");
    prompt.n_prompt = size_t(object.count("n_prompt"));
    read_ids(object, prompt);
    prompt.n_missing = size_t(object.count("missing"));
    prompt.missing_allowed = object.flag_or("missing_allowed", false);
    // Files of before it was written down: rows and no error.
    prompt.complete = object.flag_or("complete", prompt.error.empty() && object.count("compared") > 0);
    if (object.has("envelope")) prompt.limits = read_limits(object.at("envelope").at("limits"));
    return prompt;
}

// Thresholds of BitNet-rs; the largest f32, and 0 of topk, are ones that everything passes.
bitnet_logits_limits_t read_thresholds(const Saved &object) {
    bitnet_logits_limits_t limits = no_limits();
    const double mse = object.number("mse"), kl = object.number("kl"), top_k = object.number("topk");
    if (mse < double(FLT_MAX)) set_limit(limits, BITNET_METRIC_MSE, mse);
    if (kl < double(FLT_MAX)) set_limit(limits, BITNET_METRIC_KL, kl);
    if (top_k > 0) set_limit(limits, BITNET_METRIC_TOP_K, top_k);
    return limits;
}

Position read_receipt_row(const Saved &object) {
    Position p = {small_integer(object.at("pos")), -1, {}, {}, {}, {}};
    if (object.has("token")) p.token = small_integer(object.at("token"));
    bitnet_logits_row_t &row = p.row;
    row.struct_size = sizeof row;
    read_metrics(object, row);
    read_metric(object, "topk_agree", BITNET_METRIC_TOP_K, row.top_k, row.measured);
    for (const Saved &id : object.list("top5_rust")) p.top_ours.push_back(small_integer(id));
    for (const Saved &id : object.list("top5_cpp")) p.top_theirs.push_back(small_integer(id));
    row.top1_a = row.top1_b = -1;
    // A receipt has no lead: of different largest ones it does not say whether they are a tie.
    if (!p.top_ours.empty() && !p.top_theirs.empty()) {
        row.top1_a = p.top_ours.front();
        row.top1_b = p.top_theirs.front();
        if (row.top1_a == row.top1_b) row.measured |= BITNET_METRIC_TOP1;
    }
    // Of a trace the L2 distance stands there, which may be larger than what it stands for.
    const bool is_l2 = !(row.measured & BITNET_METRIC_KL) && row.measured & BITNET_METRIC_L2 && row.max_abs == row.l2;
    if (is_l2) row.measured &= ~uint32_t(BITNET_METRIC_MAX_ABS | BITNET_METRIC_EITHER);
    bool nonfinite = !(row.measured & BITNET_METRIC_MSE);  // it is always measured: what is no number was NaN
    if (object.has("failed"))
        for (const std::string &name : object.texts("failed")) nonfinite |= name == "finite";
    row.n = 1;
    row.n_nonfinite = nonfinite ? 1 : 0;
    return p;
}

void judge(Report &report) {
    for (PromptReport &prompt : report.prompts) {
        if (!prompt.complete || prompt.positions.empty()) continue;
        try {
            prompt.error.clear();
            judge_prompt(prompt, report.limits_of(prompt));
        } catch (const CommandError &error) {
            prompt.error = error.what();
        }
    }
}

}  // namespace

Report read_crossval(const Saved &document) {
    Report report;
    const Saved ours = document.at("ours"), against = document.at("against");
    report.engine = ours.text("engine");
    report.model_path = ours.text("model_path");
    report.model_hash = ours.text("model_hash");
    report.semantics = ours.text("semantics");
    report.isa = ours.text("isa");
    report.kv_type = ours.text("kv_type");
    report.against = against.text("name");
    report.limitation = against.text_or("limitation", "");
    report.preset = document.text("preset");
    report.ladder = document.text("ladder");
    report.limits = read_limits(document.at("limits"));
    if (document.has("top_k")) report.limits.top_k = small_integer(document.at("top_k"));
    for (const Saved &object : document.list("prompts")) {
        report.prompts.push_back(read_prompt(object));
        for (const Saved &row : object.list("rows"))
            report.prompts.back().positions.push_back(read_row(row, report.limits));
    }
    judge(report);
    return report;
}

std::vector<std::string> classes_of(const Saved &document) {
    std::vector<std::string> classes;
    if (!document.has("prompts")) return classes;
    bool has_envelope = false;
    for (const Saved &prompt : document.list("prompts")) {
        has_envelope |= prompt.has("envelope");
        const bool measured = prompt.has("envelope") && prompt.count("compared") > 0;
        classes.push_back(measured ? prompt.at("envelope").text_or("class", "outside") : "-");
    }
    if (!has_envelope) classes.clear();
    return classes;
}

Report read_receipt(const Saved &document) {
    Report report;
    if (document.integer("version") != 1) document.at("version").fail("1");
    report.model_path = document.text("model");
    report.against = document.text("backend");
    report.engine = document.text_or("engine", "");
    report.model_hash = document.text_or("model_hash", "");
    report.semantics = document.text_or("semantics", "");
    report.preset = document.text_or("preset", "thresholds");
    report.ladder = "positions";
    report.limitation = "read from a receipt: top-1 is known where it is equal, and nothing of the single logits";
    report.limits =
        document.has("limits") ? read_limits(document.at("limits")) : read_thresholds(document.at("thresholds"));
    std::map<std::string, size_t> index_of;
    if (document.has("prompts")) {
        for (const Saved &object : document.list("prompts")) {
            index_of[object.text("id")] = report.prompts.size();
            report.prompts.push_back(read_prompt(object));
        }
    } else {
        report.prompts.emplace_back();
        report.prompts[0].id = "0";
        report.prompts[0].text = document.text("prompt");
        report.prompts[0].complete = true;
        report.prompts[0].missing_allowed = true;
    }
    for (const Saved &row : document.list("rows")) {
        size_t at = 0;
        if (!index_of.empty()) {
            const auto found = index_of.find(row.text("prompt"));
            if (found == index_of.end()) row.at("prompt").fail("the id of one of the prompts");
            at = found->second;
        }
        report.prompts[at].positions.push_back(read_receipt_row(row));
    }
    PromptReport &only = report.prompts.front();
    if (index_of.empty() && only.positions.empty()) only.error = "nothing was compared: the receipt has no rows";
    judge(report);
    return report;
}

}  // namespace bitnet::report
