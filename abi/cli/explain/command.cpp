// bitnet explain: which operation of another engine is wrong, and what it does instead.
#include <cmath>
#include <memory>

#include "abi/cli/commands.h"
#include "abi/cli/explain/explain.h"
#include "abi/cli/explain/rerun.h"
#include "abi/cli/options.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

struct Arguments {
    std::string trace, format = "text", tolerance = "auto";
    ModelOptions model;
    explain::Options options;
    bool rerun = false;
    explain::RerunOptions program;
};

// What stands after --: its first word was taken for TRACE.
void take_program(Arguments &arguments, const std::vector<std::string> &rest) {
    std::vector<std::string> &words = arguments.program.command;
    if (!arguments.trace.empty()) words.push_back(arguments.trace);
    for (const std::string &word : rest)
        if (word != "--" || &word != &rest.front()) words.push_back(word);
    if (arguments.rerun && words.empty()) throw CommandError("explain: --rerun: a program after -- is missing");
    if (!arguments.rerun && words.size() > 1)
        throw CommandError("explain: unexpected " + words[1] + " (a program to run twice stands after --rerun --)");
    if (!arguments.rerun && words.empty()) throw CommandError("explain: TRACE is missing, or --rerun -- PROGRAM");
}

int run_explain(Arguments &arguments) {
    using Tolerance = explain::Options::Tolerance;
    arguments.options.tolerance = arguments.tolerance == "exact"    ? Tolerance::exact
                                  : arguments.tolerance == "bitnet" ? Tolerance::preset
                                                                    : Tolerance::automatic;
    const ModelHandle model = load_model(arguments.model);
    explain::Report report;
    if (arguments.rerun) {
        const TemporaryFolder folder("explain");
        const explain::Rerun rerun = explain::record_twice(model.get(), arguments.program, folder);
        report = explain::explain(model.get(), rerun.recording, arguments.options);
        report.path = arguments.program.command.front();
        report.facts.push_back(rerun.found);
    } else {
        report = explain::explain(model.get(), recording::read_recording(arguments.trace), arguments.options);
    }
    for (const std::string &error : report.errors) print_error("explain: " + error);
    write_stdout(arguments.format == "json" ? render_json(report) : render_text(report));
    return report.exit_code;
}

}  // namespace

void add_explain_command(CLI::App &app, int &exit_code) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App *command = app.add_subcommand(
        "explain",
        "Recompute each operation of a recording from its recorded inputs; name what is wrong, and why. Exit: 0 "
        "nothing, 1 a wrong operation, 2 error");
    command
        ->add_option("TRACE", arguments->trace,
                     "Raw values: a folder that the npy plugin wrote, or an .npz of arrays layer/stage");
    command->add_option("--format", arguments->format, "text (default) or json")->check(one_of({"text", "json"}));
    command
        ->add_option(
            "--tolerance", arguments->tolerance,
            "exact: equal bits; bitnet: what float32 may differ by in one operation; auto (default): exact for "
            "the same engine and version")
        ->type_name("RULE")
        ->check(one_of({"auto", "exact", "bitnet"}));
    command->add_option("--factor", arguments->options.factor, "On every tolerance of bitnet (default 1)")
        ->type_name("X")
        ->check(number_between(0, 1e6));
    command->add_flag("--allow-other-model", arguments->options.allow_other_model,
                      "Go on when the recording names another model's hash");
    command->add_flag("--rerun", arguments->rerun,
                      "In place of TRACE: the program after -- (as of bitnet trace) is run twice, first to find the "
                      "position where it leaves our own engine, then for the raw values there");
    command->add_flag("--no-flash", arguments->program.no_flash, "With --rerun: attention step by step");
    command->add_flag("--deep", arguments->program.deep, "With --rerun: reach libraries opened with RTLD_DEEPBIND");
    command->add_flag("--patch-static", arguments->program.patch_static,
                      "With --rerun: lead the calls of a program that ggml is linked into");
    command->prefix_command();
    arguments->model.add_to(*command);
    command->callback([arguments, command, &exit_code] {
        take_program(*arguments, command->remaining());
        exit_code = run_explain(*arguments);
    });
}

}  // namespace bitnet
