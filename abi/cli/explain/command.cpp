// bitnet explain: which operation of another engine is wrong, and what it does instead.
#include <cmath>
#include <memory>

#include "abi/cli/commands.h"
#include "abi/cli/explain/explain.h"
#include "abi/cli/options.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

struct Arguments {
    std::string trace, format = "text", tolerance = "auto";
    ModelOptions model;
    explain::Options options;
};

int run_explain(Arguments &arguments) {
    using Tolerance = explain::Options::Tolerance;
    arguments.options.tolerance = arguments.tolerance == "exact"    ? Tolerance::exact
                                  : arguments.tolerance == "bitnet" ? Tolerance::preset
                                                                    : Tolerance::automatic;
    const explain::Recording recording = explain::read_recording(arguments.trace);
    const ModelHandle model = load_model(arguments.model);
    const explain::Report report = explain::explain(model.get(), recording, arguments.options);
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
                     "Raw values: a folder that the npy plugin wrote, or an .npz of arrays layer/stage")
        ->required();
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
    arguments->model.add_to(*command);
    command->callback([arguments, &exit_code] { exit_code = run_explain(*arguments); });
}

}  // namespace bitnet
