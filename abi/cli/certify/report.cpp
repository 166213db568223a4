#include "abi/cli/certify/report.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/terminal.h"

namespace bitnet::certify {

namespace {

constexpr size_t divergences_shown = 10;
constexpr size_t hash_digits_shown = 16;

bool bits_differ(const Divergence &divergence) { return divergence.n_different > 0; }

}  // namespace

std::string Divergence::text() const {
    std::string text = isa + ", " + plan + ": ";
    if (n_different > 0) {
        text += name_of(first) + text_of(": %.*s..., expected %.*s...", int(hash_digits_shown), found.c_str(),
                                         int(hash_digits_shown), expected.c_str());
        if (n_different > 1) text += text_of("; %s rows differ", with_commas(n_different).c_str());
    }
    const char *separator = n_different > 0 ? "; " : "";
    if (n_missing > 0) text += separator + with_commas(n_missing) + " rows are missing";
    if (n_missing > 0) separator = "; ";
    if (n_unknown > 0) text += separator + with_commas(n_unknown) + " rows that the reference has not";
    return text;
}

void Report::add(const std::string &isa, const std::string &plan, const Comparison &comparison, uint64_t n_missing) {
    if (isas.empty() || isas.back().isa != isa) isas.push_back({isa});
    IsaSummary &summary = isas.back();
    summary.n_runs++;
    summary.n_compared += comparison.n_compared();
    if (comparison.n_different() == 0 && comparison.n_unknown() == 0 && n_missing == 0) return;
    summary.n_bad_runs++;
    Divergence divergence{isa, plan, comparison.n_different(), n_missing, comparison.n_unknown(), {}, "", ""};
    if (const Row *expected = comparison.first_expected()) {
        divergence.first = expected->id;
        divergence.expected = expected->hash;
        divergence.found = comparison.first_found();
    }
    divergences.push_back(divergence);
}

uint64_t Report::n_compared() const {
    uint64_t n = 0;
    for (const IsaSummary &summary : isas) n += summary.n_compared;
    return n;
}

bool Report::runs_equal() const { return divergences.empty() && n_compared() > 0; }

int Report::exit_code() const {
    if (std::any_of(divergences.begin(), divergences.end(), bits_differ)) return exit_divergence;
    if (!runs_equal()) return exit_error;
    return mismatch.empty() ? exit_good : exit_divergence;
}

std::string Report::error() const {
    if (exit_code() != exit_error) return "";
    if (divergences.empty()) return "nothing was compared";
    return divergences.front().text() +
           (divergences.size() == 1 ? "" : text_of(" (and %zu more runs like it)", divergences.size() - 1));
}

std::string Report::text() const {
    std::string text = text_of("%s: %zu prompt tokens, %zu decoded, %s rows a run\n", printable(model_path).c_str(),
                               n_prompt, tokens.size() - n_prompt, with_commas(n_rows).c_str());
    text += "reference: " + reference + "\n" + coverage + "\n\n";
    size_t width = 0;
    for (const IsaSummary &summary : isas) width = std::max(width, summary.isa.size());
    for (const std::string &isa : absent) width = std::max(width, isa.size());
    for (const IsaSummary &summary : isas) {
        const std::string result =
            summary.n_bad_runs == 0
                ? bold("equal")
                : yellow("DIFFERENT") +
                      text_of(" in %llu of them", static_cast<unsigned long long>(summary.n_bad_runs));
        text += text_of("  %-*s  %3llu runs  %12s rows compared  %s\n", int(width), summary.isa.c_str(),
                        static_cast<unsigned long long>(summary.n_runs), with_commas(summary.n_compared).c_str(),
                        result.c_str());
    }
    for (const std::string &isa : absent) text += text_of("  %-*s  not on this CPU\n", int(width), isa.c_str());
    text += "\n";
    for (size_t i = 0; i < std::min(divergences.size(), divergences_shown); i++) text += divergences[i].text() + "\n";
    if (divergences.size() > divergences_shown)
        text += text_of("... and %zu more runs\n", divergences.size() - divergences_shown);
    if (!runs_equal()) return text + "no certificate\n";
    if (!expect.empty())
        text += printable(expect) + ": " + (mismatch.empty() ? bold("as expected") : yellow(mismatch)) + "\n";
    return text + certificate.line() + "\n";
}

std::string Report::json() const {
    nlohmann::ordered_json out;
    const int code = exit_code();
    out["verdict"] = code == exit_good ? "equal" : code == exit_divergence ? "divergence" : "error";
    out["exit"] = code;
    out["model_path"] = model_path;
    out["n_prompt"] = n_prompt;
    out["tokens"] = tokens;
    out["n_rows"] = n_rows;
    out["reference"] = reference;
    out["coverage"] = coverage;
    out["isas"] = nlohmann::ordered_json::array();
    for (const IsaSummary &summary : isas)
        out["isas"].push_back({{"isa", summary.isa},
                               {"runs", summary.n_runs},
                               {"compared", summary.n_compared},
                               {"different_runs", summary.n_bad_runs}});
    out["absent"] = absent;
    out["divergences"] = nlohmann::ordered_json::array();
    for (const Divergence &d : divergences) {
        nlohmann::ordered_json first = nullptr;
        if (d.n_different > 0) {
            first = {{"position", d.first.position},
                     {"layer", d.first.layer},
                     {"stage", stage_name(d.first.stage)},
                     {"expected", d.expected},
                     {"found", d.found}};
        }
        out["divergences"].push_back({{"isa", d.isa},
                                      {"run", d.plan},
                                      {"different", d.n_different},
                                      {"missing", d.n_missing},
                                      {"unknown", d.n_unknown},
                                      {"first", first}});
    }
    out["certificate"] = nullptr;
    if (runs_equal())
        out["certificate"] = {{"line", certificate.line()},   {"engine", certificate.engine},
                              {"as", certificate.semantics},  {"model", certificate.model},
                              {"tokens", certificate.tokens}, {"result", certificate.result}};
    out["expect"] = expect.empty() ? nlohmann::ordered_json(nullptr)
                                   : nlohmann::ordered_json{{"path", expect}, {"mismatch", mismatch}};
    return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace bitnet::certify
