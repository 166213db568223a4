#include "abi/cli/commands.h"

#include "abi/cli/diff/envelopes.h"
#include "abi/cli/diff/render.h"
#include "abi/cli/diff/text.h"
#include "abi/cli/diff/trace_reader.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <unistd.h>

namespace bitnet {

namespace {

using namespace diff;

struct Arguments {
    std::string a, b, format = "text", tolerance = "auto";
    std::vector<std::string> ignore;
    Options options;
    envelope::EnvelopeOptions envelope;
    std::string model_path;  // of an envelope that has to be measured
};

// "auto", "exact" or a distance; returns CLI11's "" or what is wrong.
std::string check_tolerance(const std::string &text) {
    if (text == "auto" || text == "exact") return "";
    double value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    bool good = error == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= 0;
    return good ? "" : "\"" + diff::printable(text) + "\" found; auto, exact or a number that is not negative expected";
}

std::string check_ignore(const std::string &key) {
    if (is_preflight_key(key)) return "";
    return "\"" + diff::printable(key) +
           "\" found; model_hash, tokens, hyperparameters[.KEY], semantics[.KEY], kv_type, "
           "architecture, stages, runs or overridden expected";
}

bool wants_colour() {
    const char *no_colour = std::getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(no_colour && *no_colour);
}

int run_diff(Arguments &arguments) {
    Options &options = arguments.options;
    options.ignore.insert(arguments.ignore.begin(), arguments.ignore.end());
    arguments.envelope.check();
    if (arguments.tolerance == "exact") {
        options.rule = Rule::hashes;
    } else if (arguments.tolerance != "auto") {
        options.rule = Rule::distance;
        const std::string &text = arguments.tolerance;
        std::from_chars(text.data(), text.data() + text.size(), options.max_distance);
    }
    auto reading = std::async(std::launch::async, read_trace, arguments.b);
    Trace a = read_trace(arguments.a), b = reading.get();
    // What ends the comparison before any number needs none.
    const std::vector<Fact> facts = preflight(a, b, options);
    bool judged = std::none_of(facts.begin(), facts.end(), [](const Fact &fact) { return fact.mismatch; });
    if (arguments.envelope.given() && judged)
        options.envelopes = envelopes_for(a, b, arguments.envelope, arguments.model_path);
    Report report = compare_traces(a, b, options);
    for (const std::string &error : report.errors) std::fprintf(stderr, "bitnet: diff: %s\n", error.c_str());
    std::string text = arguments.format == "json" ? render_json(report, a, b, options)
                                                  : render_text(report, a, b, options, wants_colour());
    bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    if (!written) {
        std::fprintf(stderr, "bitnet: diff: the report could not be written to standard output\n");
        return int(Verdict::error);
    }
    return int(report.verdict);
}

}  // namespace

void add_diff_command(CLI::App &app, int &exit_code) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App *command =
        app.add_subcommand("diff", "Where does trace B leave trace A? Exit: 0 match, 1 divergence, 2 error");
    command->add_option("A", arguments->a, "reference trace: a file, or a folder of *.jsonl and *.jsonl.zst")
        ->required();
    command->add_option("B", arguments->b, "the other trace")->required();
    command->add_option("--format", arguments->format, "text (default) or json")
        ->check(CLI::IsMember({"text", "json"}));
    command
        ->add_option(
            "--tolerance", arguments->tolerance,
            "exact: equal bits; a number: relative L2 distance allowed for every record; auto (default): exact "
            "for the same engine and version, else the logits decide")
        ->check(check_tolerance);
    command->add_option("--max-origins", arguments->options.max_origins, "places of origin to list (default 5)")
        ->check(CLI::Range(0, 1000000));
    command
        ->add_option("--ignore", arguments->ignore,
                     "difference of the run records to accept, such as model_hash or hyperparameters.n_ctx; repeatable")
        ->check(check_ignore)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command->add_flag("--allow-missing", arguments->options.allow_missing,
                      "records that only one trace has are no error (they are counted all the same)");
    arguments->envelope.add_to(*command);
    command->get_option("--envelope")->excludes(command->get_option("--tolerance"));
    command
        ->add_option("-m,--model", arguments->model_path,
                     "the model of --envelope auto (default: the file that the trace names)")
        ->type_name("FILE");
    command->callback([arguments, &exit_code] { exit_code = run_diff(*arguments); });
}

}  // namespace bitnet
