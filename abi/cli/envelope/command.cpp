// bitnet envelope: how far legal variations of this engine move every stage of a model and prompt.
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/envelope/cache.h"
#include "abi/cli/envelope/file.h"
#include "abi/cli/envelope/report.h"
#include "abi/cli/options.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

using namespace envelope;

constexpr int seeds_asked_max = 1000;

constexpr const char *footer = R"help(Classes, from the smallest to the largest; each holds what the smaller ones do:
  f32       float32 rounding that flips no code: orders of summation, RoPE angles, dequantised products
  f16-kv    F16 KV cache, with F16 queries and F16 input of the head or without; flipped codes
  bf16      bf16 tensors
  block256  activation scales for each 256 elements

bitnet crossval and bitnet diff judge by it: --envelope auto, or --envelope FILE with what -o wrote.
Exit codes: 0 measured, 2 error.)help";

struct Arguments {
    PromptOptions prompt;
    ModelOptions model;
    ContextOptions context;
    EnvelopeOptions envelope;
    int n_seeds = -1;
    std::string output, format = "text";
};

int run_envelope(const Arguments &arguments) {
    const std::optional<std::string> text = arguments.prompt.read();
    const ModelHandle model = load_model(arguments.model);
    const Prompt prompt = arguments.prompt.tokenized(model.get(), text);
    Subject subject = subject_of(model.get(), arguments.context.kv, prompt.tokens, arguments.n_seeds);
    const Engine engine = {arguments.model.path, arguments.model.isa, arguments.model.copy,
                           arguments.context.n_threads};
    const Obtained obtained = obtain(arguments.envelope, subject, engine);
    if (!arguments.output.empty()) write_envelope(obtained.envelope, arguments.output);
    write_stdout(arguments.format == "json" ? to_json(obtained.envelope) : render_text(obtained));
    flush_stdout();
    return exit_good;
}

}  // namespace

void add_envelope_command(CLI::App &app, int &exit_code) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App *command =
        app.add_subcommand("envelope", "How far legal variations of this engine move a model's values on a prompt");
    arguments->model.add_to(*command);
    arguments->context.add_threads_and_kv_to(*command);
    arguments->prompt.add_to(*command);
    command
        ->add_option("--seeds", arguments->n_seeds,
                     "Runs with flipped activation codes in each class (default: 64 rows' worth, 2 to 16)")
        ->type_name("N")
        ->check(whole_number_between(0, seeds_asked_max));
    command->add_option("-o,--output", arguments->output, "Write it here too")->type_name("FILE");
    command->add_option("--format", arguments->format, "text (default) or json, which is what -o writes")
        ->type_name("FORMAT")
        ->check(one_of({"text", "json"}));
    arguments->envelope.add_no_cache_to(*command);
    command->footer(footer);
    command->callback([arguments, &exit_code] { exit_code = run_envelope(*arguments); });
}

}  // namespace bitnet
