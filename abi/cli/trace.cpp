// bitnet trace: evaluates a prompt with the jsonl plugin attached.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "abi/cli/commands.h"
#include "abi/cli/options.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"
#include "abi/cli/trace_program.h"

namespace bitnet {

namespace {

struct TraceOptions {
    PromptOptions prompt;
    ModelOptions model;
    ContextOptions context;
    std::string output;
    std::optional<std::string> select;
    std::vector<std::string> plugins;
    int n_decode = 0;
};

// A sink of our own that listens to the end of a run, where the host says how many records there were.
struct RunCounts {
    uint64_t n_records = 0;
    uint64_t n_tokens = 0;

    static bitnet_status_t on_event(void *state, const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_RUN_END) return BITNET_OK;
        const auto *end = reinterpret_cast<const bitnet_run_end_event_t *>(event);
        auto *counts = static_cast<RunCounts *>(state);
        counts->n_records += end->n_rows;
        counts->n_tokens += end->n_tokens;
        return BITNET_OK;
    }
};

const bitnet_trace_sink_t count_sink = {sizeof(bitnet_trace_sink_t),
                                        BITNET_ABI_VERSION,
                                        "bitnet-trace-counts",
                                        uint64_t{1} << BITNET_EVENT_RUN_END,
                                        nullptr,
                                        RunCounts::on_event,
                                        nullptr,
                                        nullptr};

// "NAME" or "NAME:config"
void attach_plugin(bitnet_ctx_t *ctx, const std::string &text) {
    const size_t colon = text.find(':');
    const std::string config = colon == std::string::npos ? "" : text.substr(colon + 1);
    check(bitnet_trace_load_plugin(ctx, text.substr(0, colon).c_str(), config.c_str()));
}

// Evaluates up to n of the likeliest next tokens; a token that ends the text is not evaluated.
void decode_greedily(const bitnet_model_t *model, bitnet_ctx_t *ctx, int n) {
    size_t n_end = 0;
    check(bitnet_token_end_ids(model, nullptr, &n_end));
    std::vector<int32_t> end_ids(n_end);
    check(bitnet_token_end_ids(model, end_ids.data(), &n_end));
    Progress progress("decoding");
    for (int i = 0; i < n; i++) {
        int32_t token = -1;
        check(bitnet_top_logits(ctx, -1, 1, &token, nullptr));
        if (std::find(end_ids.begin(), end_ids.end(), token) != end_ids.end()) break;
        check(bitnet_eval_tokens(ctx, &token, 1, nullptr));
        progress.update(static_cast<uint64_t>(i), static_cast<uint64_t>(n));
    }
}

std::string output_path(const TraceOptions &options) {
    if (!options.output.empty()) return options.output;
    if (!options.plugins.empty()) return "";
    const std::string in_folder = trace_path_in_environment_folder();
    return in_folder.empty() ? default_trace_path : in_folder;
}

int trace(const TraceOptions &options) {
    const std::optional<std::string> text = options.prompt.read();
    const ModelHandle model = load_model(options.model);
    const Prompt prompt = options.prompt.tokenized(model.get(), text);
    const std::string path = output_path(options);
    std::optional<TraceFile> file;
    if (!path.empty()) file.emplace(path);
    RunCounts counts;
    // Made after these two: when the context goes, it ends the run and its plugin closes the file.
    ContextHandle ctx = create_context(model.get(), options.context);
    // The environment's selection too, so that a bad one is an error here and not an empty trace.
    const std::string select = options.select ? *options.select : environment("BITNET_TRACE_SELECT");
    check(bitnet_trace_select(ctx.get(), select.c_str()));
    check(bitnet_trace_set_sink(ctx.get(), &count_sink, &counts));
    if (file) attach_jsonl(ctx.get(), file->write_path());
    for (const std::string &plugin : options.plugins) attach_plugin(ctx.get(), plugin);
    if (prompt.text) check(bitnet_trace_set_prompt(ctx.get(), prompt.text->data(), prompt.text->size()));

    const double from = seconds_now();
    prefill(ctx.get(), prompt.tokens, model_info(model.get()).n_layer);
    decode_greedily(model.get(), ctx.get(), options.n_decode);
    const bitnet_trace_stats_t stats = finish_trace(ctx.get());
    const double seconds = seconds_now() - from;
    if (counts.n_records == 0) {
        throw CommandError(
            text_of("trace: nothing recorded: the selection '%s' matches no position of %d, or no stage they have",
                    select.c_str(), bitnet_context_position(ctx.get())));
    }
    ctx.reset();
    std::string summary = text_of("trace: %s records of %s tokens, %s bytes of values, %.2f s (%.2f s of it tracing)",
                                  with_commas(counts.n_records).c_str(), with_commas(counts.n_tokens).c_str(),
                                  with_commas(stats.n_bytes).c_str(), seconds, stats.seconds);
    if (file) {
        const uint64_t n_bytes = file->commit();
        summary += text_of(", %s (%s bytes)", path.c_str(), with_commas(n_bytes).c_str());
    }
    std::fprintf(stderr, "%s\n", summary.c_str());
    return exit_good;
}

// The rest of the command line: a program to run in place of our own engine.
int trace_other(const TraceOptions &options, TraceProgramOptions program, const std::vector<std::string> &rest) {
    if (rest.front() != "--")
        throw CommandError("trace: unexpected " + rest.front() + " (a program to run stands after --)");
    if (rest.size() == 1) throw CommandError("trace: no program after --");
    program.command.assign(rest.begin() + 1, rest.end());
    program.output = options.output;
    program.select = options.select;
    program.plugins = options.plugins;
    return trace_program(program);
}

}  // namespace

void add_trace_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<TraceOptions>();
    auto program = std::make_shared<TraceProgramOptions>();
    CLI::App *command =
        app.add_subcommand("trace", "Evaluate a prompt and record every stage of every layer as JSON lines; after -- a "
                                    "llama.cpp program to run and record in place of our own engine");
    command->prefix_command();
    command->validate_positionals();
    options->prompt.add_to(*command);
    command
        ->add_option("-o,--output", options->output,
                     "The trace (default: a new file in BITNET_TRACE_DIR, else ./bitnet-trace.jsonl)")
        ->type_name("FILE");
    command
        ->add_option("--select", options->select,
                     "What to trace: seq:layer:stage,... with values, a-b, {a;b}, globs, !exclusions (default: "
                     "BITNET_TRACE_SELECT, else all stages but the internal ones)")
        ->type_name("SELECTION");
    command
        ->add_option("-n,--max-tokens", options->n_decode,
                     "Also decode this many tokens greedily, at most to the text's end")
        ->type_name("N")
        ->check(whole_number_between(0, INT32_MAX));
    command
        ->add_option("--plugin", options->plugins,
                     "Attach NAME or NAME:key=value,... (repeatable); jsonl is then attached only with -o")
        ->option_text("NAME[:CONFIG]")
        ->allow_extra_args(false);
    options->model.add_to(*command);
    options->context.add_to(*command);
    command->add_flag("--no-flash", program->no_flash, "Of a program: ask it to compute attention step by step");
    command->add_flag("--deep", program->deep, "Of a program: reach libraries opened with RTLD_DEEPBIND");
    command->add_flag("--patch-static", program->patch_static,
                      "Of a program that ggml is linked into, not stripped: change its calls in memory");
    command->add_flag("--self-check", program->self_check,
                      "Of a program: run it without the interposer and twice with it, compare output, exit status and "
                      "logits");
    command->callback([options, program, command, &exit_code] {
        const std::vector<std::string> rest = command->remaining();
        exit_code = rest.empty() ? trace(*options) : trace_other(*options, *program, rest);
    });
}

}  // namespace bitnet
