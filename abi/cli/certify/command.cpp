// bitnet certify: the same tokens in every way there is, the same bits demanded.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <set>

#include <CLI/CLI.hpp>

#include "abi/cli/certify/certificate.h"
#include "abi/cli/certify/report.h"
#include "abi/cli/certify/rows.h"
#include "abi/cli/certify/runs.h"
#include "abi/cli/commands.h"
#include "abi/cli/options.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"

namespace bitnet {

namespace {

using namespace certify;

constexpr int n_decode_default = 8;
constexpr int threads_max = 256;
constexpr const char *prompt_default =
    "One hash everywhere. 2+2=4, 17+25=42. Monday, Tuesday, Wednesday. a b c d e f g h";
constexpr int n_ids_default = 48;  // of a vocabulary that cannot spell it

constexpr const char *footer = R"help(Every run evaluates the same tokens and must give the same BLAKE3 for every row:
position x layer x stage, with the integer companions, attention scores, softmax and logits. The reference is the
first instruction set with 1 thread, the prompt whole. What is held against it, on each instruction set of this CPU:
  each thread count with the prompt whole, token by token, in chunks of 1 7 3, of 1 and the rest; n_batch 1, 3, 256
  contexts after a reset, after truncating other tokens away, restored from the reference's saved state, forked
  untraced runs, which take other paths through the engine: final norm and logits
  --quick: prompt whole, token by token, chunks with n_batch 3, a restored context, an untraced run

The certificate is one line: engine, model hash, token hash, result hash. It does not depend on what was run.
  tokens  BLAKE3 of the ids, prompt and decoded, as little-endian int32
  result  BLAKE3 of the lines "POSITION LAYER STAGE BLAKE3" by position, in execution order within one:
            bitnet trace --tokens IDS --select '**,*.*' -o t.jsonl
            jq -r 'select(.record=="tensor")|"\(.seq) \(.layer) \(.stage) \(.blake3)"' t.jsonl |
              sort -s -n -k1,1 | b3sum

Exit codes: 0 equal, 1 divergence (of these runs, or from --expect), 2 error.)help";

struct CertifyOptions {
    PromptOptions prompt;
    ModelOptions model;  // isa: a list
    std::vector<int> threads;
    int n_decode = n_decode_default;
    bool quick = false;
    bool json = false;
    std::string output;
    std::string expect;
};

std::vector<int> thread_counts(const CertifyOptions &options) {
    std::set<int> counts(options.threads.begin(), options.threads.end());
    if (counts.empty()) counts = {1, 2, 3, thread_count(ContextOptions())};
    return {counts.begin(), counts.end()};
}

// Names given to --isa, else every one of this CPU. The library says what is wrong with a name when it loads.
std::vector<std::string> isa_names(const std::string &list) {
    std::vector<std::string> names;
    for (size_t at = 0; !list.empty() && at <= list.size();) {
        const size_t end = std::min(list.find(',', at), list.size());
        const std::string name = list.substr(at, end - at);
        if (name.empty()) throw CommandError(text_of("--isa: '%s' has an empty name in it", list.c_str()));
        if (std::find(names.begin(), names.end(), name) != names.end())
            throw CommandError(text_of("--isa: %s is there twice", name.c_str()));
        names.push_back(name);
        at = end + 1;
    }
    if (!names.empty()) return names;
    for (int32_t i = 0; i < bitnet_isa_count(); i++)
        if (bitnet_isa_usable(i)) names.push_back(bitnet_isa_name(i));
    return names;
}

std::vector<int32_t> prompt_tokens(const bitnet_model_t *model, const CertifyOptions &options,
                                   const std::optional<std::string> &text) {
    if (text || options.prompt.tokens) return options.prompt.tokenized(model, text).tokens;
    try {
        return options.prompt.tokenized(model, prompt_default).tokens;
    } catch (const CommandError &) {
        if (options.prompt.chat) throw;
    }
    std::vector<int32_t> tokens;
    const int32_t n_vocab = model_info(model).n_vocab;
    for (int32_t i = 0; i < n_ids_default; i++) tokens.push_back((i * 37 + 11) % n_vocab);
    return tokens;
}

void compare_runs(const ModelOptions &model_options, const Workload &work, const Reference &reference,
                  const std::vector<std::string> &isas, const std::vector<Plan> &all, Report &report) {
    Progress progress("certifying");
    for (size_t i = 0; i < isas.size(); i++) {
        ModelOptions chosen = model_options;
        chosen.isa = isas[i];
        const ModelHandle model = load_model(chosen);
        for (size_t j = 0; j < all.size(); j++) {
            Comparison comparison(reference);
            execute(model.get(), work, all[j], [&](const Row &row) { comparison.add(row); });
            report.add(isas[i], all[j].text(), comparison, comparison.n_missing(coverage_of(all[j], work)));
            progress.update(i * all.size() + j + 1, isas.size() * all.size());
        }
    }
}

// The file appears whole or not at all.
class CertificateFile {
public:
    explicit CertificateFile(const std::string &path) : file_(path) {}
    void write(const std::string &line) {
        std::ofstream out(file_.write_path());
        out << line << '\n';
        out.close();
        if (!out) throw CommandError(text_of("%s: cannot write: %s", file_.path().c_str(), std::strerror(errno)));
        file_.commit();
    }

private:
    TraceFile file_;
};

int certify_model(const CertifyOptions &options) {
    // What the environment would attach may replace values, and would make the untraced runs traced ones.
    unsetenv("BITNET_TRACE_PLUGIN");
    unsetenv("BITNET_TRACE_SELECT");
    const bool own_prompt = options.prompt.source.given() || options.prompt.tokens;
    const std::optional<std::string> text = own_prompt ? options.prompt.read() : std::nullopt;
    std::optional<Certificate> expected;
    if (!options.expect.empty()) expected = parse_certificate(read_file(options.expect), options.expect);
    std::optional<CertificateFile> file;
    if (!options.output.empty()) file.emplace(options.output);

    const std::vector<std::string> isas = isa_names(options.model.isa);
    const std::vector<int> threads = thread_counts(options);
    ModelOptions first = options.model;
    first.isa = isas.front();
    const ModelHandle model = load_model(first);
    Workload work{prompt_tokens(model.get(), options, text), options.n_decode, {}};
    work.saved = saved_half(model.get(), work);
    std::vector<Row> rows;
    const Plan plain;
    std::vector<int32_t> tokens = work.prompt;
    const std::vector<int32_t> decoded =
        execute(model.get(), work, plain, [&](const Row &row) { rows.push_back(row); });
    tokens.insert(tokens.end(), decoded.begin(), decoded.end());
    const Reference reference(std::move(rows));

    Report report;
    report.model_path = bitnet_model_path(model.get());
    report.reference = isas.front() + ", " + plain.text();
    report.coverage = description(threads, options.quick);
    report.n_prompt = work.prompt.size();
    report.tokens = tokens;
    report.n_rows = reference.rows().size();
    for (int32_t i = 0; i < bitnet_isa_count() && options.model.isa.empty(); i++)
        if (!bitnet_isa_usable(i)) report.absent.push_back(bitnet_isa_name(i));
    compare_runs(options.model, work, reference, isas, plans(threads, options.quick), report);

    const std::string lines = reference.lines();
    report.certificate = {std::string("bitnet-c/") + bitnet_version(), options.model.semantics(),
                          model_hash(model.get()), token_hash(tokens), blake3_of(lines.data(), lines.size())};
    report.expect = options.expect;
    if (expected) report.mismatch = mismatch(*expected, report.certificate);
    if (file && report.runs_equal()) file->write(report.certificate.line());
    if (!report.error().empty()) print_error("certify: " + report.error());
    write_stdout(options.json ? report.json() : report.text());
    flush_stdout();
    return report.exit_code();
}

}  // namespace

void add_certify_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<CertifyOptions>();
    CLI::App *command = app.add_subcommand(
        "certify", "Prove that every instruction set, thread count, batch and split gives the same bits");
    options->model.add_to(*command);
    command->get_option("--isa")
        ->type_name("NAME,...")
        ->description("Instruction sets; the first is the reference (default: all of this CPU)");
    options->prompt.add_to(*command);
    command->get_option("--prompt")->description("The text (default: one that is built in)");
    command
        ->add_option("-n,--max-tokens", options->n_decode,
                     "Also decode this many tokens greedily, ends of text among them (default 8)")
        ->type_name("N")
        ->check(whole_number_between(0, INT32_MAX / 2));
    command
        ->add_option("-t,--threads", options->threads,
                     "Thread counts, \"1,4\" (default: 1, 2, 3 and the number of processors)")
        ->option_text("N,N,...")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(whole_number_between(1, threads_max));
    command->add_flag("--quick", options->quick, "5 runs an instruction set; the same certificate");
    command->add_option("--expect", options->expect, "A certificate to compare with: exit code 1 when it is another")
        ->type_name("FILE");
    command->add_option("-o,--output", options->output, "Write the certificate here, when all runs are equal")
        ->type_name("FILE");
    command->add_flag("--json", options->json, "One JSON object in place of the table");
    command->footer(footer);
    command->callback([options, &exit_code] { exit_code = certify_model(*options); });
}

}  // namespace bitnet
