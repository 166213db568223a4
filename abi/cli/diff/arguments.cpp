#include "abi/cli/diff/arguments.h"

#include "abi/cli/diff/text.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>

namespace bitnet::diff {

namespace {

// CLI11's "" or what is wrong.
std::string check_tolerance(const std::string &text) {
    if (text == "auto" || text == "exact" || text == "ties") return "";
    double value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    bool good = error == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= 0;
    return good ? "" : "\"" + printable(text) + "\" found; auto, exact, ties or a number that is not negative expected";
}

std::string check_ignore(const std::string &key) {
    if (is_preflight_key(key)) return "";
    return "\"" + printable(key) +
           "\" found; model_hash, tokens, hyperparameters[.KEY], semantics[.KEY], kv_type, "
           "architecture, stages, runs or overridden expected";
}

}  // namespace

void Tolerance::add_to(CLI::App &command, const std::string &help) {
    command.add_option("--tolerance", text, help)->check(check_tolerance);
}

std::optional<Rule> Tolerance::rule() const {
    if (text == "auto") return std::nullopt;
    return text == "exact" ? Rule::hashes : text == "ties" ? Rule::logits : Rule::distance;
}

double Tolerance::max_distance() const {
    double value = 0;
    if (rule() == Rule::distance) std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

void Arguments::add_to(CLI::App &command) {
    tolerance.add_to(command,
                     "exact: equal bits; a number: relative L2 distance allowed for every record; auto (default): "
                     "exact for the same engine and version, else ties; ties: the logits decide, and codes may differ at "
                     "rounding ties where raw values tell");
    command.add_option("--max-origins", options.max_origins, "places of origin to list (default 5)")
        ->check(CLI::Range(0, 1000000));
    command
        .add_option("--ignore", ignore,
                    "difference of the run records to accept, such as model_hash or hyperparameters.n_ctx; repeatable")
        ->check(check_ignore)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command.add_flag("--allow-missing", options.allow_missing,
                     "records that only one trace has are no error (they are counted all the same)");
}

Options Arguments::resolved() const {
    Options resolved = options;
    resolved.ignore.insert(ignore.begin(), ignore.end());
    resolved.rule = tolerance.rule();
    resolved.max_distance = tolerance.max_distance();
    return resolved;
}

}  // namespace bitnet::diff
