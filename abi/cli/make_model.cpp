// bitnet make-model: a deterministic model file with made-up weights.
#include <cstdio>
#include <memory>

#include "abi/cli/commands.h"
#include "abi/cli/options.h"
#include "abi/cli/synthetic_model.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr size_t llama3_merges = 280147;

// name, n_layer, n_embd, n_ff, n_head, n_head_kv, n_ctx, n_vocab, merges_max
const SyntheticShape presets[] = {
    {"2b-4t", 30, 2560, 6912, 20, 5, 4096, 128256, llama3_merges},
    {"tiny", 2, 256, 384, 4, 2, 512, 1024, llama3_merges},
};

struct MakeModelOptions {
    std::string preset;
    std::string output;
    std::string type = "i2_s";
    uint64_t seed = 0;
    int n_layer = 0;  // these: 0 is the preset's
    int n_embd = 0;
    int n_ff = 0;
    int n_head = 0;
    int n_head_kv = 0;
    int n_ctx = 0;
};

TernaryFormat format_of(const MakeModelOptions &options) {
    return options.type == "tq2_0" ? TernaryFormat::tq2_0 : TernaryFormat::i2_s;
}

void override_if_given(int &value, int given) {
    if (given > 0) value = given;
}

SyntheticShape shape_of(const MakeModelOptions &options) {
    SyntheticShape shape = options.preset == presets[0].name ? presets[0] : presets[1];
    override_if_given(shape.n_layer, options.n_layer);
    override_if_given(shape.n_embd, options.n_embd);
    override_if_given(shape.n_ff, options.n_ff);
    override_if_given(shape.n_head, options.n_head);
    override_if_given(shape.n_head_kv, options.n_head_kv);
    override_if_given(shape.n_ctx, options.n_ctx);
    const auto check_row = [multiple = row_multiple(format_of(options)), &options](const char *option, int n) {
        if (n % multiple == 0) return;
        throw CommandError(
            text_of("%s: found %d, expected a multiple of %d for %s", option, n, multiple, options.type.c_str()));
    };
    check_row("--embd", shape.n_embd);
    check_row("--ff", shape.n_ff);
    if (shape.n_embd % (2 * shape.n_head) != 0) {
        throw CommandError(text_of("--heads: found %d, expected a number that divides n_embd %d into even parts",
                                   shape.n_head, shape.n_embd));
    }
    if (shape.n_head % shape.n_head_kv != 0) {
        throw CommandError(
            text_of("--kv-heads: found %d, expected a divisor of the %d heads", shape.n_head_kv, shape.n_head));
    }
    return shape;
}

int make_model(const MakeModelOptions &options) {
    const SyntheticShape shape = shape_of(options);
    const double from = seconds_now();
    const GgufWriter writer = make_synthetic_model(shape, options.seed, format_of(options));
    uint64_t n_bytes = 0;
    {
        Progress progress("writing " + options.output);
        n_bytes = writer.write(options.output, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
    }
    std::fprintf(stderr, "make-model: %s: %s bytes, %s tensors, %.2f s\n", options.output.c_str(),
                 with_commas(n_bytes).c_str(), with_commas(writer.n_tensors()).c_str(), seconds_now() - from);
    return exit_good;
}

}  // namespace

void add_make_model_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<MakeModelOptions>();
    CLI::App *command =
        app.add_subcommand("make-model", "Write a model of made-up weights, the same bytes for the same seed");
    command
        ->add_option("--preset", options->preset,
                     "2b-4t: shape, keys and vocabulary of BitNet b1.58 2B-4T, 1.19 GB; tiny: 0.8 MB")
        ->type_name("NAME")
        ->required()
        ->check(one_of({presets[0].name, presets[1].name}));
    command->add_option("-o,--output", options->output, "The GGUF file")->type_name("FILE")->required();
    command
        ->add_option(
            "--type", options->type,
            "Of the ternary weights: i2_s (default), or tq2_0: the same weights for llama.cpp, which names the "
            "architecture bitnet; this program does not read it")
        ->type_name("NAME")
        ->check(one_of({"i2_s", "tq2_0"}));
    command->add_option("--seed", options->seed, "Of the weights (default 0)")
        ->type_name("N")
        ->check(whole_number_between(0, UINT64_MAX));
    const auto add_size = [command](const char *name, int &value, uint64_t low, uint64_t high, const char *text) {
        command->add_option(name, value, text)->type_name("N")->check(whole_number_between(low, high));
    };
    add_size("--layers", options->n_layer, 1, 1000, "Layers, in place of the preset's; likewise below");
    add_size("--embd", options->n_embd, 128, 65536, "Embedding length, a multiple of 128, of 256 for tq2_0");
    add_size("--ff", options->n_ff, 128, 262144, "Feed-forward length, likewise");
    add_size("--heads", options->n_head, 1, 1024, "Attention heads");
    add_size("--kv-heads", options->n_head_kv, 1, 1024, "KV heads");
    add_size("--ctx", options->n_ctx, 1, 1 << 20, "Context length");
    command->callback([options, &exit_code] { exit_code = make_model(*options); });
}

}  // namespace bitnet
