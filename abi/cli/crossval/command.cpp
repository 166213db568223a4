// bitnet crossval: our logits against another engine's.
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/crossval/limits.h"
#include "abi/cli/crossval/prompts.h"
#include "abi/cli/crossval/report.h"
#include "abi/cli/crossval/run.h"
#include "abi/cli/crossval/source.h"
#include "abi/cli/envelope/cache.h"
#include "abi/cli/options.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"

namespace bitnet {

namespace {

using namespace crossval;

constexpr int n_decode_of_ladder = 4;  // of --ladder decode without --max-tokens, as in crossval-per-token
constexpr double timeout_seconds_max = 1e6;

constexpr const char *footer = R"help(The other side, --against:
  FILE.npy, npy:FILE    float32 (positions, vocabulary); {} in the name is the prompt's number
  raw:FILE              the same without a header
  logits:FILE           what llama-perplexity --save-all-logits wrote; its chunks are the prompts
  FILE.jsonl, trace:T   a trace: hashes, and distances from sketches; its runs are the prompts
  lib:FILE.so           a library with this program's ABI
  crossval:FILE.so      a library with the C interface of BitNet-rs's crate crossval
  cmd:COMMAND           a program that speaks bitnet-logits/1 (abi/cli/crossval/CROSSVAL.md in the source)

Token ids come first: where they differ no logits are compared.
Exit codes: 0 match, 1 divergence, 2 error (nothing compared is one).)help";

struct CrossvalOptions {
    PromptOptions prompt;
    std::string prompts;
    std::string prompt_template = "raw";
    ModelOptions model;
    LimitOptions limits;
    envelope::EnvelopeOptions envelope;
    SourceOptions against;
    RunSettings run;
    std::string ladder = "positions";
    std::optional<int> n_decode;
    bool dump_ids = false;
    std::string format = "text";
    std::string receipt, junit, sarif;
};

void check_options(const CrossvalOptions &options) {
    if (!options.prompts.empty() && (options.prompt.source.given() || options.prompt.tokens))
        throw CommandError("--prompts stands in place of -p, -f, - and --tokens");
    if (options.prompt.chat && (!options.prompts.empty() || options.prompt.tokens))
        throw CommandError("--chat: needs -p, -f or -");
    if (options.prompt.tokens && options.prompt.source.given())
        throw CommandError("more than one text: --tokens stands in place of -p, -f and -");
    if (options.ladder == "masks")
        throw CommandError("--ladder masks: masks do not show in logits; bitnet diff compares attn_scores_softmax");
    if (options.envelope.given() && !options.limits.preset.empty())
        throw CommandError("--envelope: stands in place of --preset");
    options.envelope.check();
    if (options.prompt_template != "raw" && options.prompt_template != "chat")
        throw CommandError(text_of("--prompt-template: found '%s', expected raw or chat; give other forms as text, "
                                   "with --parse-special",
                                   printable(options.prompt_template).c_str()));
}

// What the options give, before a model is there; empty: the source's own prompts. With --chat the text is still to be
// wrapped.
std::vector<PromptItem> given_prompts(const CrossvalOptions &options) {
    if (!options.prompts.empty()) return read_prompts(options.prompts);
    if (!options.prompt.source.given() && !options.prompt.tokens) return {};
    PromptItem item;
    item.id = "0";
    item.text = options.prompt.read();
    return {item};
}

// Ids of --tokens and of --chat need the model.
void complete_prompts(const CrossvalOptions &options, const bitnet_model_t *model, Source &source,
                      std::vector<PromptItem> &items) {
    const bool chat = options.prompt.chat || options.prompt_template == "chat";
    if (options.prompt.tokens || (chat && items.size() == 1 && options.prompts.empty())) {
        PromptOptions prompt = options.prompt;
        prompt.chat = chat;
        const Prompt made = prompt.tokenized(model, items[0].text);
        items[0].given.emplace(made.tokens.begin(), made.tokens.end());
        items[0].text = made.text;
    } else if (chat) {
        throw CommandError("--prompt-template chat: needs -p, -f or -");
    }
    if (!items.empty()) return;
    for (const Ids &ids : source.own_prompts()) {
        PromptItem item;
        item.id = std::to_string(items.size());
        item.given.emplace(ids.begin(), ids.end());
        items.push_back(std::move(item));
    }
    if (items.empty()) throw CommandError("no prompt: give -p TEXT, -f FILE, --tokens IDS or --prompts FILE");
}

void describe_ours(const CrossvalOptions &options, const bitnet_model_t *model, Report &report) {
    report.model_path = bitnet_model_path(model);
    report.model_hash = model_hash(model);
    report.engine = std::string("bitnet-c ") + bitnet_version();
    report.semantics = bitnet_model_semantics(model);
    report.isa = bitnet_model_isa(model);
    report.kv_type = options.run.context.kv.empty() ? "of the semantics" : options.run.context.kv;
    report.has_envelope = options.envelope.given();
    report.preset = report.has_envelope             ? "envelope"
                    : options.limits.preset.empty() ? preset_default
                                                    : options.limits.preset;
    report.ladder = options.ladder;
    report.prompts_path = options.prompts;
}

void print_ids(const PromptReport &prompt) {
    std::fprintf(stderr, "prompt %s: ours:   %s\n", printable(prompt.id).c_str(), join_ids(prompt.tokens, " ").c_str());
    const std::string theirs = prompt.tokens_of_theirs ? join_ids(*prompt.tokens_of_theirs, " ") : "unknown";
    std::fprintf(stderr, "prompt %s: theirs: %s\n", printable(prompt.id).c_str(), theirs.c_str());
}

std::string timestamp() {
    const std::time_t now = std::time(nullptr);
    std::tm utc = {};
    gmtime_r(&now, &utc);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return text;
}

// A report file, found to be writable before any work; it appears whole or not at all.
class ReportFile {
public:
    explicit ReportFile(const std::string &path) {
        if (!path.empty()) file_.emplace(path);
    }
    template <class Render> void write(const Render &render) {
        if (!file_) return;
        std::ofstream out(file_->write_path(), std::ios::binary);
        out << render();
        out.close();
        if (!out) throw CommandError(text_of("%s: cannot write: %s", file_->path().c_str(), std::strerror(errno)));
        file_->commit();
    }

private:
    std::optional<TraceFile> file_;
};

// What the largest class of a prompt's envelope allows, single limits of the command line over it.
EnvelopeLimits envelope_limits(const CrossvalOptions &options, const bitnet_model_t *model, const Ids &tokens) {
    const envelope::Engine engine = {options.model.path, options.model.isa, options.model.copy,
                                     options.run.context.n_threads};
    const envelope::Subject subject = envelope::subject_of(model, options.run.context.kv, tokens, -1);
    auto judge = std::make_shared<const envelope::Judge>(obtain(options.envelope, subject, engine).envelope);
    const bitnet_logits_limits_t largest = judge->limits(judge->n_classes() - 1);
    return {std::move(judge), options.limits.resolved(&largest)};
}

int cross_validate(CrossvalOptions &options) {
    // What the environment would attach may replace values.
    unsetenv("BITNET_TRACE_PLUGIN");
    check_options(options);
    const bitnet_logits_limits_t limits = options.limits.resolved();
    std::vector<PromptItem> items = given_prompts(options);
    ReportFile receipt(options.receipt), junit(options.junit), sarif(options.sarif);

    if (options.against.model_path.empty()) options.against.model_path = options.model.path;
    options.against.n_threads = thread_count(options.run.context);
    options.against.n_prompts = items.size();
    const std::unique_ptr<Source> source = make_source(options.against);  // before there are threads
    const ModelHandle model = load_model(options.model);
    source->open(model.get());
    complete_prompts(options, model.get(), *source, items);

    RunSettings run = options.run;
    run.ladder = options.ladder;
    run.n_decode = options.n_decode.value_or(options.ladder == "decode" ? n_decode_of_ladder : 0);
    run.flags = {bitnet_token_wants_bos(model.get()) && !options.prompt.no_bos, options.prompt.parse_special};
    run.keep_tops = !options.receipt.empty();
    if (options.envelope.given())
        run.envelope = [&](const Ids &tokens) { return envelope_limits(options, model.get(), tokens); };
    Report report;
    describe_ours(options, model.get(), report);
    report.limits = limits;
    report.against = source->name();
    report.limitation = source->limitation();
    Progress progress("comparing");
    for (size_t i = 0; i < items.size(); i++) {
        report.prompts.push_back(compare_prompt(model.get(), *source, i, items[i], run, limits));
        if (options.dump_ids) print_ids(report.prompts.back());
        progress.update(i + 1, items.size());
    }
    report.take_envelope_limits();
    for (const std::string &error : report.errors()) print_error("crossval: " + error);
    receipt.write([&] { return render_receipt(report, timestamp()); });
    junit.write([&] { return render_junit(report); });
    sarif.write([&] { return render_sarif(report); });
    write_stdout(options.format == "json" ? render_json(report) : render_text(report));
    flush_stdout();
    return report.exit_code();
}

void add_reports(CLI::App &command, CrossvalOptions &options) {
    command.add_option("--format", options.format, "text (default) or json")
        ->type_name("FORMAT")
        ->check(one_of({"text", "json"}));
    command.add_flag("--dump-ids", options.dump_ids, "Token ids of both sides on stderr");
    command.add_option("--receipt", options.receipt, "Write rows and summary as JSON")->type_name("FILE");
    command.add_option("--junit", options.junit, "Write a JUnit report")->type_name("FILE");
    command.add_option("--sarif", options.sarif, "Write a SARIF 2.1.0 report")->type_name("FILE");
}

void add_scope(CLI::App &command, CrossvalOptions &options) {
    command
        .add_option("--ladder", options.ladder,
                    "tokens: ids alone; first-logit: after the prompt; positions: all (default); decode: from there on")
        ->type_name("RUNG")
        ->check(one_of({"tokens", "masks", "first-logit", "positions", "decode"}));
    command.add_option("--positions", options.run.n_positions, "Compare the first N of them (default: all)")
        ->type_name("N")
        ->check(whole_number_between(1, INT32_MAX));
    command
        .add_option(
            "-n,--max-tokens", options.n_decode,
            "Decode N tokens greedily with our engine; both sides evaluate them (default 0; --ladder decode: 4)")
        ->type_name("N")
        ->check(whole_number_between(0, INT32_MAX / 2));
    command.add_flag("--allow-missing", options.run.allow_missing,
                     "Positions that the other side lacks are no error (they are counted all the same)");
    command
        .add_option("--timeout", options.against.timeout_seconds,
                    "Seconds to wait for another process's answer (default 600)")
        ->type_name("S")
        ->check(number_between(0.001, timeout_seconds_max));
}

}  // namespace

void add_crossval_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<CrossvalOptions>();
    CLI::App *command = app.add_subcommand("crossval", "Our logits against another engine's, position by position");
    command->add_option("--against", options->against.spec, "The other side, see below")->type_name("SPEC")->required();
    command
        ->add_option("--against-model", options->against.model_path,
                     "Model of the other side, for lib:, crossval: and cmd: (default: as -m)")
        ->type_name("FILE");
    command->add_option("--against-as", options->against.semantics, "Semantics of the other side, for lib:")
        ->type_name("KEY=VALUE,...");
    options->model.add_to(*command);
    options->run.context.add_to(*command);
    options->prompt.add_to(*command);
    command->add_option("--prompts", options->prompts, "A file of prompts: one a line, or JSONL")->type_name("FILE");
    command->add_option("--prompt-template", options->prompt_template, "raw (default) or chat, which is --chat")
        ->type_name("NAME");
    options->limits.add_to(*command);
    options->envelope.add_to(*command);
    add_scope(*command, *options);
    add_reports(*command, *options);
    command->footer(footer);
    command->callback([options, &exit_code] { exit_code = cross_validate(*options); });
}

}  // namespace bitnet
