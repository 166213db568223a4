// bitnet bench: how fast the engine is on this machine, beside what the machine itself can do.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "abi/cli/bench_sections.h"
#include "abi/cli/commands.h"
#include "abi/cli/options.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr int threads_most = 256;  // as the header says
constexpr int prefill_default = 512;
constexpr int depth_default = 2048;  // more would take minutes: attention over it, for every token of the filling

struct BenchOptions {
    ModelOptions model;
    std::string threads;
    std::string prefill;
    std::string only;
    int n_decode = 16;
    int depth = 0;  // 0: depth_default, or what the model holds
    int n_repetitions = 3;
    bool json = false;
};

struct Section {
    const char *name;
    void (BenchSections::*measure)();
    bool needs_limits;
};
// In the order of a repetition. memory is measured once, before everything.
constexpr Section sections[] = {
    {"prefill", &BenchSections::prefill, true},  {"kernels", &BenchSections::kernels, true},
    {"decode", &BenchSections::decode, true},    {"deep", &BenchSections::deep, true},
    {"tracing", &BenchSections::tracing, false}, {"regions", &BenchSections::regions, false},
    {"load", &BenchSections::load, true},
};
constexpr const char *memory_section = "memory";
constexpr const char *limits_section = "limits";

std::vector<std::string> split(const std::string &list) {
    std::vector<std::string> items;
    for (size_t from = 0; from <= list.size();) {
        const size_t comma = std::min(list.find(',', from), list.size());
        items.push_back(list.substr(from, comma - from));
        from = comma + 1;
    }
    return items;
}

// Whole numbers between commas, each once.
std::vector<int> parse_numbers(const char *option, const std::string &list, int low, int high) {
    std::vector<int> numbers;
    for (const std::string &item : split(list)) {
        uint64_t value = 0;
        if (!parse_whole_number(item, value) || value < static_cast<uint64_t>(low) ||
            value > static_cast<uint64_t>(high)) {
            throw CommandError(text_of("%s: found '%s', expected whole numbers from %d to %d with commas between them",
                                       option, item.c_str(), low, high));
        }
        if (std::find(numbers.begin(), numbers.end(), static_cast<int>(value)) == numbers.end())
            numbers.push_back(static_cast<int>(value));
    }
    return numbers;
}

class Selection {
public:
    explicit Selection(const std::string &only) {
        std::vector<std::string> known = {memory_section, limits_section};
        for (const Section &section : sections) known.push_back(section.name);
        if (only.empty()) {
            names_ = known;
            return;
        }
        names_ = split(only);
        std::string list;
        for (const std::string &name : known) list += (list.empty() ? "" : ", ") + name;
        for (const std::string &name : names_) {
            if (std::find(known.begin(), known.end(), name) == known.end())
                throw CommandError("--only: found '" + name + "', expected some of " + list);
        }
    }
    bool has(const std::string &name) const { return std::find(names_.begin(), names_.end(), name) != names_.end(); }
    bool needs_limits() const {
        return has(limits_section) || std::any_of(std::begin(sections), std::end(sections),
                                                  [&](const Section &s) { return s.needs_limits && has(s.name); });
    }

private:
    std::vector<std::string> names_;
};

// Everything that can be wrong with the numbers is found here, before minutes are spent.
BenchPlan plan_of(const BenchOptions &options, const bitnet_model_t *model) {
    const int n_ctx = model_info(model).n_ctx_train;
    BenchPlan plan = {options.model, {1}, {}, options.n_decode, options.depth};
    const int processors = thread_count(ContextOptions{});
    if (!options.threads.empty()) {
        plan.threads = parse_numbers("--threads", options.threads, 1, threads_most);
    } else if (processors > 1) {
        plan.threads.push_back(processors);
    }
    plan.prefill = options.prefill.empty() ? std::vector<int>{std::min(prefill_default, n_ctx)}
                                           : parse_numbers("--prefill", options.prefill, 1, n_ctx);
    if (plan.n_decode >= n_ctx)
        throw CommandError(
            text_of("--decode: found %d, expected fewer than the model's %d positions", plan.n_decode, n_ctx));
    const int deepest = n_ctx - plan.n_decode;
    if (plan.depth == 0) plan.depth = std::min(depth_default, deepest);
    if (plan.depth > deepest) {
        throw CommandError(
            text_of("--depth: found %d, expected at most %d: the model holds %d positions, %d are decoded", plan.depth,
                    deepest, n_ctx, plan.n_decode));
    }
    return plan;
}

nlohmann::ordered_json json_report(const BenchOptions &options, const BenchPlan &plan, const bitnet_model_t *model,
                                   const BenchSections &measured) {
    const TokenWork &work = measured.work();
    const BenchReport &report = measured.report();
    nlohmann::ordered_json out = {{"model", bitnet_model_path(model)},
                                  {"engine", bitnet_version()},
                                  {"isa", bitnet_model_isa(model)},
                                  {"semantics", bitnet_model_semantics(model)},
                                  {"threads", plan.threads},
                                  {"repetitions", options.n_repetitions},
                                  {"per_token",
                                   {{"ternary_macs", work.ternary_macs()},
                                    {"ternary_bytes", work.ternary_bytes()},
                                    {"head_bytes", work.head_bytes},
                                    {"norm_bytes", work.norm_bytes},
                                    {"kv_bytes_per_position", work.kv_bytes_per_position}}}};
    out["limits"] = nlohmann::ordered_json::array();
    for (const int n_threads : plan.threads) {
        out["limits"].push_back({{"threads", n_threads},
                                 {"read", report.limit_rate(Limit::read, n_threads)},
                                 {"int8", report.limit_rate(Limit::byte_products, n_threads)}});
    }
    out["sections"] = report.json();
    return out;
}

std::string heading(const bitnet_model_t *model, const BenchOptions &options, const TokenWork &work) {
    return text_of(
        "%s, %s, medians of %d\n"
        "a token: %.3f G ternary multiply-adds; %.1f MB of codes, %.1f MB of head, %.4f MB of cache per position\n",
        bold(printable(bitnet_model_path(model))).c_str(), bitnet_model_isa(model), options.n_repetitions,
        work.ternary_macs() / 1e9, work.ternary_bytes() / 1e6, work.head_bytes / 1e6, work.kv_bytes_per_position / 1e6);
}

int bench(const BenchOptions &options) {
    const Selection selection(options.only);
    // Plugins would be measured too.
    unsetenv("BITNET_TRACE_PLUGIN");
    unsetenv("BITNET_TRACE_SELECT");
    const ModelHandle model = load_model(options.model);
    const BenchPlan plan = plan_of(options, model.get());
    BenchSections measured(plan, model.get());
    if (selection.has(memory_section)) measured.memory();
    {
        Progress progress("measuring");
        const auto n_sections = static_cast<uint64_t>(std::size(sections));
        for (int r = 0; r < options.n_repetitions; r++) {
            for (uint64_t i = 0; i < n_sections; i++) {
                progress.update(static_cast<uint64_t>(r) * n_sections + i,
                                static_cast<uint64_t>(options.n_repetitions) * n_sections);
                if (!selection.has(sections[i].name)) continue;
                if (sections[i].needs_limits) measured.limits();
                (measured.*sections[i].measure)();
            }
            if (selection.needs_limits()) measured.limits();
        }
    }
    if (options.json) {
        write_stdout(json_report(options, plan, model.get(), measured)
                         .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                     "\n");
    } else {
        write_stdout(heading(model.get(), options, measured.work()) + measured.report().table());
    }
    flush_stdout();
    return exit_good;
}

}  // namespace

void add_bench_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<BenchOptions>();
    CLI::App *command = app.add_subcommand(
        "bench", "Measure the engine on a model, and this machine's own limits beside it, in turn, several times");
    options->model.add_to(*command);
    command->add_option("-t,--threads", options->threads, "Numbers of threads (default: 1 and all processors)")
        ->type_name("N,...");
    command->add_option("--prefill", options->prefill, "Tokens of the prefills (default: 512)")->type_name("N,...");
    command->add_option("--decode", options->n_decode, "Tokens that are decoded at a time (default 16)")
        ->type_name("N")
        ->check(whole_number_between(1, 4096));
    command
        ->add_option("--depth", options->depth,
                     "Position of the deep decode (default 2048, or what the model holds); its cache is computed first")
        ->type_name("N")
        ->check(whole_number_between(1, INT32_MAX));
    command->add_option("-r,--repetitions", options->n_repetitions, "Of everything; medians are shown (default 3)")
        ->type_name("N")
        ->check(whole_number_between(1, 1000));
    command
        ->add_option("--only", options->only,
                     "Some of memory, limits, prefill, kernels, decode, deep, tracing, regions, load (default: all)")
        ->type_name("SECTION,...");
    command->add_flag("--json", options->json, "One JSON object in place of the table");
    command->callback([options, &exit_code] { exit_code = bench(*options); });
}

}  // namespace bitnet
