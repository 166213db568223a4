// The report for what shows test results: JUnit XML and SARIF 2.1.0.
#include <nlohmann/json.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/crossval/limits.h"
#include "abi/cli/crossval/report.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

using json = nlohmann::ordered_json;

std::string escaped(const std::string &text) {
    std::string out;
    for (const char c : printable(text)) {  // no control bytes and only valid UTF-8: what XML can hold
        switch (c) {
        case '&': out += "&amp;"; break;
        case '<': out += "&lt;"; break;
        case '>': out += "&gt;"; break;
        case '"': out += "&quot;"; break;
        default: out += c;
        }
    }
    return out;
}

struct Case {
    std::string name, message, kind;  // kind: "" passed, "failure", "error"
};

std::string row_message(const PromptReport &prompt, const Position &p, const bitnet_logits_limits_t &limits) {
    std::string text = is_outside(prompt, p) && p.row.failed ? "outside every class of legal variations: " : "";
    bool is_first = true;
    for (const uint32_t metric : metric_bits(p.row.failed)) {
        text += (is_first ? "" : "; ") + failure_text(p.row, metric, limits);
        is_first = false;
    }
    return text;
}

// One for the ids, one for each position, one for what belongs to the prompt as a whole.
std::vector<Case> cases_of(const PromptReport &prompt, const bitnet_logits_limits_t &limits) {
    std::vector<Case> cases;
    if (prompt.difference) {
        cases.push_back({"token ids", prompt.difference->text, "failure"});
    } else if (prompt.tokens_of_theirs) {
        cases.push_back({"token ids", "", ""});
    }
    for (const Position &p : prompt.positions)
        cases.push_back(
            {text_of("position %d", p.position), row_message(prompt, p, limits), p.row.failed ? "failure" : ""});
    if (!prompt.positions.empty() && (limits.judged & BITNET_METRIC_MEAN_KL)) {
        const bool bad = (prompt.summary.failed & BITNET_METRIC_MEAN_KL) != 0;
        cases.push_back({"mean KL", bad ? mean_kl_text(prompt.summary, limits) : "", bad ? "failure" : ""});
    }
    if (!prompt.error.empty()) cases.push_back({"comparison", prompt.error, "error"});
    return cases;
}

std::string suite_of(const PromptReport &prompt, const bitnet_logits_limits_t &limits) {
    const std::vector<Case> cases = cases_of(prompt, limits);
    size_t n_failures = 0, n_errors = 0;
    std::string body;
    if (prompt.envelope && !prompt.positions.empty()) {
        const std::string noise = prompt.noise_class();
        body = "    <properties>\n      <property name=\"envelope\" value=\"" +
               (noise.empty() ? "outside every class" : escaped(noise)) + "\"/>\n    </properties>\n";
    }
    for (const Case &c : cases) {
        n_failures += c.kind == "failure" ? 1 : 0;
        n_errors += c.kind == "error" ? 1 : 0;
        body += "    <testcase classname=\"bitnet.crossval.prompt " + escaped(prompt.id) + "\" name=\"" +
                escaped(c.name) + "\"";
        body += c.kind.empty() ? "/>\n"
                               : ">\n      <" + c.kind + " message=\"" + escaped(c.message) + "\"/>\n    </testcase>\n";
    }
    return text_of("  <testsuite name=\"prompt %s\" tests=\"%zu\" failures=\"%zu\" errors=\"%zu\">\n",
                   escaped(prompt.id).c_str(), cases.size(), n_failures, n_errors) +
           body + "  </testsuite>\n";
}

// A path as a URI reference.
std::string uri_of(const std::string &path) {
    std::string uri;
    for (const char c : path) {
        const auto byte = static_cast<unsigned char>(c);
        const bool plain = (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z') ||
                           std::string("/-._~").find(c) != std::string::npos;
        uri += plain ? std::string(1, c) : text_of("%%%02X", byte);
    }
    return uri;
}

json result_of(const Report &report, const PromptReport &prompt, const std::string &rule, const std::string &message,
               const char *level) {
    json location = {{"artifactLocation", {{"uri", uri_of(prompt.line ? report.prompts_path : report.model_path)}}}};
    if (prompt.line) location["region"] = {{"startLine", prompt.line}};
    return {{"ruleId", rule},
            {"level", level},
            {"message", {{"text", "prompt " + prompt.id + ": " + message}}},
            {"locations", json::array({{{"physicalLocation", location}}})}};
}

}  // namespace

std::string render_junit(const Report &report) {
    std::string text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"bitnet crossval\">\n";
    for (const PromptReport &prompt : report.prompts) text += suite_of(prompt, report.limits_of(prompt));
    return text + "</testsuites>\n";
}

std::string render_sarif(const Report &report) {
    json results = json::array();
    for (const PromptReport &prompt : report.prompts) {
        const bitnet_logits_limits_t &limits = report.limits_of(prompt);
        if (prompt.difference)
            results.push_back(result_of(report, prompt, "token_ids", prompt.difference->text, "error"));
        for (const Position &p : prompt.positions) {
            const std::string where = text_of("position %d (token %d): ", p.position, p.token) +
                                      (is_outside(prompt, p) ? "outside every class of legal variations: " : "");
            for (const uint32_t metric : metric_bits(p.row.failed))
                results.push_back(result_of(report, prompt, metric_name(metric),
                                            where + failure_text(p.row, metric, limits), "error"));
            if (p.row.warned)
                results.push_back(
                    result_of(report, prompt, "cosine",
                              where + text_of("cosine %.9g is below %g, a warning", p.row.cosine, limits.cosine_warn),
                              "warning"));
        }
        if (!prompt.positions.empty() && (prompt.summary.failed & BITNET_METRIC_MEAN_KL))
            results.push_back(result_of(report, prompt, "mean_kl", mean_kl_text(prompt.summary, limits), "error"));
        const std::string noise = prompt.noise_class();
        if (!noise.empty() && !prompt.positions.empty()) {
            json inside = result_of(report, prompt, "envelope", "inside " + noise + " noise", "none");
            inside["kind"] = "pass";
            results.push_back(inside);
        }
        if (!prompt.error.empty()) results.push_back(result_of(report, prompt, "comparison", prompt.error, "error"));
    }
    json rules = json::array({{{"id", "token_ids"}}, {{"id", "comparison"}}, {{"id", "envelope"}}});
    for (const std::string &name : metric_names(BITNET_METRIC_ALL)) rules.push_back({{"id", name}});
    const json driver = {{"name", "bitnet crossval"}, {"version", bitnet_version()}, {"rules", rules}};
    const json run = {{"tool", {{"driver", driver}}},
                      {"invocations", json::array({{{"executionSuccessful", report.exit_code() != exit_error}}})},
                      {"results", results}};
    const json out = {{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"},
                      {"version", "2.1.0"},
                      {"runs", json::array({run})}};
    return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace bitnet::crossval
