// bitnet run: a prompt in, generated text out.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/options.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/text_stream.h"
#include "abi/cli/trace_output.h"

namespace bitnet {

namespace {

constexpr int max_tokens_default = 256;
constexpr int debug_logits_shown = 5;
constexpr double temperature_max = 100;
constexpr double penalty_max = 1000;

struct RunOptions {
    PromptOptions prompt;
    ModelOptions model;
    ContextOptions context;
    int max_tokens = max_tokens_default;
    float temperature = 0;
    int top_k = 0;
    float top_p = 0;
    float min_p = 0;
    float repeat_penalty = 0;
    std::optional<uint64_t> seed;
    std::vector<std::string> stop;
    bool dump_ids = false;
    bool json = false;
};

uint64_t seed_of(const RunOptions &options) {
    if (options.seed) return *options.seed;
    const std::string text = environment("BITNET_SEED");
    if (text.empty()) return 0;
    uint64_t seed = 0;
    if (!parse_whole_number(text, seed)) {
        throw CommandError(text_of("BITNET_SEED: found '%s', expected a number from 0 to 2^64 - 1", text.c_str()));
    }
    return seed;
}

// The largest logits of one step on stderr, ties to the lowest id.
void print_top_logits(const bitnet_model_t *model, size_t step, const float *logits, int32_t n_vocab) {
    std::vector<int32_t> ids(static_cast<size_t>(n_vocab));
    std::iota(ids.begin(), ids.end(), 0);
    std::erase_if(ids, [&](int32_t id) { return std::isnan(logits[id]); });
    const auto shown = ids.begin() + std::min<std::ptrdiff_t>(debug_logits_shown, std::ssize(ids));
    std::partial_sort(ids.begin(), shown, ids.end(),
                      [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    std::string line = text_of("logits %zu:", step);
    for (auto id = ids.begin(); id != shown; ++id) {
        const std::string piece = printable(detokenize(model, {*id}, BITNET_DETOKENIZE_SPECIAL));
        line += text_of("  %d \"%s\" %.6f", *id, piece.c_str(), static_cast<double>(logits[*id]));
    }
    std::fprintf(stderr, "%s\n", line.c_str());
}

// What bitnet_generate hands out token by token. An exception may not cross the library: it waits here.
struct Generation {
    const bitnet_model_t *model;
    TextStream stream;
    bool debug_logits;
    std::vector<int32_t> tokens;
    std::exception_ptr failure;

    static int32_t on_token(void *user, int32_t token, const float *logits, int32_t n_vocab) {
        auto *self = static_cast<Generation *>(user);
        try {
            if (self->debug_logits) print_top_logits(self->model, self->tokens.size(), logits, n_vocab);
            self->tokens.push_back(token);
            self->stream.push(detokenize(self->model, {token}, 0));
            return 0;
        } catch (...) {
            self->failure = std::current_exception();
            return 1;
        }
    }
};

void generate(bitnet_ctx_t *ctx, const RunOptions &options, uint64_t seed, Generation &generation) {
    std::vector<const char *> stop;
    for (const std::string &text : options.stop) stop.push_back(text.c_str());
    bitnet_generate_params_t params = {};
    params.struct_size = sizeof(params);
    params.max_tokens = options.max_tokens;
    params.temperature = options.temperature;
    params.top_k = options.top_k;
    params.top_p = options.top_p;
    params.min_p = options.min_p;
    params.repeat_penalty = options.repeat_penalty;
    params.seed = seed;
    params.stop_strings = stop.data();
    params.n_stop_strings = stop.size();
    params.on_token = Generation::on_token;
    params.on_token_user = &generation;
    size_t n_produced = 0;
    const bitnet_status_t status = bitnet_generate(ctx, &params, nullptr, &n_produced);
    if (generation.failure) std::rethrow_exception(generation.failure);
    check(status);
}

std::string stop_reason(const bitnet_ctx_t *ctx, const RunOptions &options, const Generation &generation) {
    const bitnet_model_t *model = generation.model;
    size_t n = 0;
    check(bitnet_token_end_ids(model, nullptr, &n));
    std::vector<int32_t> end_ids(n);
    check(bitnet_token_end_ids(model, end_ids.data(), &n));
    if (generation.stream.stopped()) return "stop_string";
    if (!generation.tokens.empty() && std::binary_search(end_ids.begin(), end_ids.end(), generation.tokens.back())) {
        return "end_token";
    }
    if (options.max_tokens > 0 && std::ssize(generation.tokens) >= options.max_tokens) return "max_tokens";
    return bitnet_context_position(ctx) >= bitnet_context_capacity(ctx) ? "context_full" : "unknown";
}

struct Seconds {
    double load = 0;
    double prefill = 0;
    double decode = 0;
};

// JSON null where nothing was measured.
nlohmann::ordered_json rate(size_t n_tokens, double seconds) {
    if (n_tokens == 0 || !(seconds > 0)) return nullptr;
    return static_cast<double>(n_tokens) / seconds;
}

std::string json_report(const RunOptions &options, const Prompt &prompt, const Generation &generation,
                        const bitnet_ctx_t *ctx, uint64_t seed, const Seconds &seconds) {
    const bitnet_model_t *model = generation.model;
    nlohmann::ordered_json out;
    out["prompt"] = prompt.text ? nlohmann::ordered_json(*prompt.text) : nlohmann::ordered_json(nullptr);
    out["prompt_tokens"] = prompt.tokens;
    out["tokens"] = generation.tokens;
    out["text"] = generation.stream.text();
    out["stop_reason"] = stop_reason(ctx, options, generation);
    out["seed"] = seed;
    out["model"] = bitnet_model_path(model);
    out["model_hash"] = model_hash(model);
    out["architecture"] = bitnet_model_architecture(model);
    out["semantics"] = bitnet_model_semantics(model);
    out["isa"] = bitnet_model_isa(model);
    out["threads"] = thread_count(options.context);
    out["seconds"] = {{"load", seconds.load}, {"prefill", seconds.prefill}, {"decode", seconds.decode}};
    // The first new token comes out of the prefill: decoding evaluated all but the last of them.
    const size_t n_decoded = generation.tokens.empty() ? 0 : generation.tokens.size() - 1;
    out["tokens_per_second"] = {{"prefill", rate(prompt.tokens.size(), seconds.prefill)},
                                {"decode", rate(n_decoded, seconds.decode)}};
    bitnet_head_stats_t head = {};
    head.struct_size = sizeof(head);
    check(bitnet_context_get_head_stats(ctx, &head));
    out["head"] = {{"certified", head.n_certified},
                   {"full", options.context.head == "certified" ? head.n_full : generation.tokens.size()},
                   {"rows_computed", head.n_rows_computed},
                   {"compact_bytes", head.n_bytes},
                   {"build_seconds", static_cast<double>(head.build_ns) * 1e-9}};
    return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

int run(const RunOptions &options) {
    const uint64_t seed = seed_of(options);
    const std::optional<std::string> text = options.prompt.read();
    Seconds seconds;
    double from = seconds_now();
    const auto lap = [&from] {
        const double before = std::exchange(from, seconds_now());
        return from - before;
    };
    const ModelHandle model = load_model(options.model);
    const Prompt prompt = options.prompt.tokenized(model.get(), text);
    const std::string debug = environment("BITNET_DEBUG_LOGITS");
    const bool debug_logits = !debug.empty() && debug != "0";
    ContextOptions context = options.context;
    if (debug_logits) context.head = "full";  // every row is looked at
    const ContextHandle ctx = create_context(model.get(), context);
    if (environment("BITNET_TRACE_PLUGIN").empty()) {
        const std::string trace_path = trace_path_in_environment_folder();
        if (!trace_path.empty()) attach_jsonl(ctx.get(), trace_path);
    }
    if (prompt.text) check(bitnet_trace_set_prompt(ctx.get(), prompt.text->data(), prompt.text->size()));
    seconds.load = lap();

    prefill(ctx.get(), prompt.tokens, model_info(model.get()).n_layer);
    seconds.prefill = lap();
    const auto show = [&options](std::string_view bytes) {
        if (options.json) return;
        write_stdout(bytes);
        flush_stdout();
    };
    Generation generation{model.get(), TextStream(options.stop, show), debug_logits, {}, nullptr};
    generate(ctx.get(), options, seed, generation);
    generation.stream.finish();
    seconds.decode = lap();

    if (options.json) write_stdout(json_report(options, prompt, generation, ctx.get(), seed, seconds));
    if (!options.json) write_stdout("\n");
    flush_stdout();
    if (options.dump_ids) {
        std::fprintf(stderr, "prompt ids: %s\n", join_ids(prompt.tokens, " ").c_str());
        std::fprintf(stderr, "generated ids: %s\n", join_ids(generation.tokens, " ").c_str());
    }
    finish_trace(ctx.get());
    return exit_good;
}

}  // namespace

void add_run_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<RunOptions>();
    CLI::App *command = app.add_subcommand("run", "Continue a prompt; the new text goes to stdout as it comes");
    options->prompt.add_to(*command);
    options->model.add_to(*command);
    command
        ->add_option("-n,--max-tokens", options->max_tokens,
                     "New tokens at most; 0: until the text ends or the context is full (default 256)")
        ->type_name("N")
        ->check(whole_number_between(0, INT32_MAX));
    command->add_option("--temperature", options->temperature, "0: always the likeliest token (default)")
        ->type_name("X")
        ->check(number_between(0, temperature_max));
    command->add_option("--top-k", options->top_k, "Only the k likeliest tokens; 0: off (default)")
        ->type_name("N")
        ->check(whole_number_between(0, INT32_MAX));
    command
        ->add_option("--top-p", options->top_p,
                     "Only the likeliest tokens that make up this probability; 0: off (default)")
        ->type_name("X")
        ->check(number_between(0, 1));
    command
        ->add_option("--min-p", options->min_p, "Only tokens this likely relative to the likeliest; 0: off (default)")
        ->type_name("X")
        ->check(number_between(0, 1));
    command
        ->add_option("--repeat-penalty", options->repeat_penalty,
                     "Divide the logits of recent tokens; 0 or 1: off (default)")
        ->type_name("X")
        ->check(number_between(0, penalty_max));
    command->add_option("--seed", options->seed, "Of the sampling (default: BITNET_SEED, else 0)")
        ->type_name("N")
        ->check(whole_number_between(0, UINT64_MAX));
    command->add_option("--stop", options->stop, "End before this text, which is not printed (repeatable)")
        ->allow_extra_args(false)
        ->check(
            CLI::Validator([](std::string &text) { return text.empty() ? "found '', expected some text" : ""; }, ""));
    options->context.add_to(*command);
    options->context.add_decoding_to(*command);
    command->add_flag("--json", options->json, "One JSON object in place of the text");
    command->add_flag("--dump-ids", options->dump_ids, "Token ids of the prompt and of the new text, on stderr");
    command->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace bitnet
