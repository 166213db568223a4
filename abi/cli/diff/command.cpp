#include "abi/cli/commands.h"

#include "abi/cli/diff/arguments.h"
#include "abi/cli/diff/envelopes.h"
#include "abi/cli/diff/render.h"
#include "abi/cli/diff/text.h"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <unistd.h>

namespace bitnet {

namespace {

using namespace diff;

struct Command {
    std::string a, b, format = "text";
    Arguments arguments;
    envelope::EnvelopeOptions envelope;
    std::string model_path;  // of an envelope that has to be measured
};

bool wants_colour() {
    const char *no_colour = std::getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(no_colour && *no_colour);
}

int run_diff(const Command &command) {
    command.envelope.check();
    Options options = command.arguments.resolved();
    if (command.envelope.given()) {
        options.find_envelopes = [&](const Trace &a, const Trace &b) {
            return envelopes_for(a, b, command.envelope, command.model_path);
        };
    }
    Trace a, b;
    const Report report = compare_files(command.a, command.b, options, a, b);
    for (const std::string &error : report.errors) std::fprintf(stderr, "bitnet: diff: %s\n", error.c_str());
    std::string text = command.format == "json" ? render_json(report, a, b, options)
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
    auto settings = std::make_shared<Command>();
    CLI::App *command =
        app.add_subcommand("diff", "Where does trace B leave trace A? Exit: 0 match, 1 divergence, 2 error");
    command
        ->add_option("A", settings->a,
                     "reference trace: a file, or a folder of *.jsonl and *.jsonl.zst, or of BitNet-rs's *.trace; or raw values: a "
                     "folder of the npy plugin, or an .npz")
        ->required();
    command->add_option("B", settings->b, "the other trace")->required();
    command->add_option("--format", settings->format, "text (default) or json")->check(CLI::IsMember({"text", "json"}));
    settings->arguments.add_to(*command);
    settings->envelope.add_to(*command);
    command->get_option("--envelope")->excludes(command->get_option("--tolerance"));
    command
        ->add_option("-m,--model", settings->model_path,
                     "the model of --envelope auto (default: the file that the trace names)")
        ->type_name("FILE");
    command->callback([settings, &exit_code] { exit_code = run_diff(*settings); });
}

}  // namespace bitnet
