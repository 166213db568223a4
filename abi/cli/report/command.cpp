// bitnet report: a comparison as one page; bitnet recheck: other thresholds on a saved one.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include <CLI/CLI.hpp>

#include "abi/cli/commands.h"
#include "abi/cli/diff/arguments.h"
#include "abi/cli/diff/envelopes.h"
#include "abi/cli/diff/render.h"
#include "abi/cli/explain/explain.h"
#include "abi/cli/options.h"
#include "abi/cli/report/page.h"
#include "abi/cli/report/recheck.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"

namespace bitnet {

namespace {

using namespace report;

constexpr const char *report_footer =
    R"help(Two traces are compared as bitnet diff does. Raw values of B's engine, a folder of the npy plugin or an .npz, are
explained as bitnet explain does: --recording names them, and a folder B is looked into. Instead of running
anything, --diff, --explain and --crossval take what those commands printed with --format json (of crossval also
a receipt). One page holds as many of the three as there are.

Exit codes: 0 match, 1 divergence, 2 error; the worst of what the page shows. The page is written for all of them.)help";

struct ReportOptions {
    std::string a, b, output = "report.html", svg, title, recording;
    std::string diff_path, explain_path, crossval_path;
    ModelOptions model;
    diff::Arguments arguments;
    envelope::EnvelopeOptions envelope;
};

void write_file(const std::string &path, const std::string &text) {
    if (path == "-") return write_stdout(text);
    TraceFile file(path);
    std::ofstream out(file.write_path(), std::ios::binary);
    out << text;
    out.close();
    if (!out) throw CommandError(printable(path) + ": cannot write: " + std::strerror(errno));
    file.commit();
}

Document load_document(const std::string &path, std::initializer_list<Kind> expected, bool *is_receipt = nullptr) {
    Document document;
    document.json = load_json(path);
    document.place = printable(path);
    const Kind found = kind_of(*document.json, path);
    if (std::find(expected.begin(), expected.end(), found) == expected.end())
        throw CommandError(printable(path) + ": found the JSON of " + kind_name(found) + ", expected that of " +
                           kind_name(*expected.begin()));
    if (is_receipt) *is_receipt = found == Kind::receipt;
    return document;
}

Document compare(const ReportOptions &options) {
    diff::Options resolved = options.arguments.resolved();
    if (options.envelope.given()) {
        resolved.find_envelopes = [&](const diff::Trace &a, const diff::Trace &b) {
            return envelopes_for(a, b, options.envelope, options.model.path);
        };
    }
    diff::Trace a, b;
    const diff::Report compared = diff::compare_files(options.a, options.b, resolved, a, b);
    for (const std::string &error : compared.errors) print_error("report: " + error);
    Document document;
    document.json = nlohmann::json::parse(diff::render_json(compared, a, b, resolved));
    document.place = "bitnet diff " + printable(options.a) + " " + printable(options.b);
    return document;
}

// Raw values that lie beside a trace: a run of the npy plugin in the folder, or in its folder `raw`.
std::string recording_in(const std::string &folder) {
    namespace fs = std::filesystem;
    std::error_code error;
    for (const fs::path &place : {fs::path(folder), fs::path(folder) / "raw"}) {
        if (!fs::is_directory(place, error)) continue;
        if (fs::exists(place / "run.json", error)) return place.string();
        for (const fs::directory_entry &entry : fs::directory_iterator(place, error))
            if (entry.path().filename().string().starts_with("run-") && fs::exists(entry.path() / "run.json", error))
                return place.string();
    }
    return "";
}

Document explain_recording(const ReportOptions &options, const std::string &path) {
    const recording::Recording recording = recording::read_recording(path);
    const ModelHandle model = load_model(options.model);
    const explain::Report explained = explain::explain(model.get(), recording, {});
    for (const std::string &error : explained.errors) print_error("report: " + error);
    Document document;
    document.json = nlohmann::json::parse(explain::render_json(explained));
    document.place = "bitnet explain " + printable(path);
    return document;
}

void check_options(const ReportOptions &options) {
    if (options.a.empty() != options.b.empty()) throw CommandError("report: one trace, expected two, A and B");
    options.envelope.check();
    if (options.a.empty() && options.envelope.given())
        throw CommandError("report: --envelope judges two traces: expected A and B");
    if (!options.a.empty() && !options.diff_path.empty())
        throw CommandError("report: --diff stands in place of A and B");
    if (!options.recording.empty() && !options.explain_path.empty())
        throw CommandError("report: --explain stands in place of --recording");
    if (options.a.empty() && options.diff_path.empty() && options.explain_path.empty() &&
        options.crossval_path.empty() && options.recording.empty())
        throw CommandError(
            "report: nothing to report: give two traces, or --recording, --diff, --explain or --crossval");
}

Documents gather(const ReportOptions &options) {
    Documents documents;
    documents.title = options.title;
    documents.diff.why_absent = "no two traces were given";
    documents.explain.why_absent = "no raw values were given (--recording)";
    documents.crossval.why_absent = "no cross-validation was given (--crossval)";
    // Files first: what is damaged is found before any work.
    if (!options.diff_path.empty()) documents.diff = load_document(options.diff_path, {Kind::diff});
    if (!options.explain_path.empty()) documents.explain = load_document(options.explain_path, {Kind::explain});
    if (!options.crossval_path.empty())
        documents.crossval =
            load_document(options.crossval_path, {Kind::crossval, Kind::receipt}, &documents.crossval_is_receipt);
    if (!options.a.empty()) documents.diff = compare(options);
    const bool is_found = options.recording.empty() && options.explain_path.empty() && !options.b.empty();
    const std::string recording = is_found ? recording_in(options.b) : options.recording;
    if (recording.empty()) {
        if (!options.model.path.empty() && !options.envelope.given())
            throw CommandError("report: -m is for raw values, and there are none: name them with --recording");
    } else if (is_found && options.model.path.empty()) {
        documents.explain.why_absent = "raw values are in " + recording + ", but their model was not given (-m)";
    } else {
        documents.explain = explain_recording(options, recording);
    }
    return documents;
}

int write_report(const ReportOptions &options) {
    check_options(options);
    const Page page = make_page(gather(options));
    write_file(options.output, page.html);
    if (!options.svg.empty()) write_file(options.svg, page.svg);
    if (options.output != "-" && options.svg != "-")
        write_stdout(printable(options.output) + ": " + bold(page.verdict) + ": " + printable(page.sentence) + "\n");
    flush_stdout();
    return page.exit_code;
}

struct RecheckOptions {
    std::string path, format = "text";
    diff::Tolerance tolerance;
    crossval::LimitOptions limits;
};

int recheck(const RecheckOptions &options, bool has_tolerance) {
    const nlohmann::json document = load_json(options.path);
    const Kind kind = kind_of(document, options.path);
    const Saved saved(document, printable(options.path));
    if (kind == Kind::explain)
        throw CommandError(saved.place() + ": what bitnet explain printed has no thresholds to change: bitnet explain "
                                           "--factor judges the recording anew");
    if (kind == Kind::diff && options.limits.given())
        throw CommandError(saved.place() + ": a comparison of traces cannot judge limits of logits: --tolerance is its "
                                           "threshold");
    if (kind != Kind::diff && has_tolerance)
        throw CommandError(saved.place() + ": a comparison of logits cannot judge --tolerance: its thresholds are "
                                           "--preset, --cos-tol and the like");
    const Rechecked result = kind == Kind::diff ? recheck_diff(saved, options.tolerance, !has_tolerance)
                                                : recheck_crossval(saved, kind == Kind::receipt, options.limits);
    for (const std::string &error : result.errors) print_error("recheck: " + error);
    write_stdout(options.format == "json" ? result.json : result.text);
    flush_stdout();
    return result.exit_code;
}

}  // namespace

void add_report_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<ReportOptions>();
    CLI::App *command = app.add_subcommand("report", "A comparison as one HTML page, its verdict first");
    command->add_option("A", options->a, "Reference trace, as for bitnet diff");
    command->add_option("B", options->b, "The other trace");
    command->add_option("-o,--output", options->output, "The page (default report.html; - is standard output)")
        ->type_name("FILE");
    command->add_option("--svg", options->svg, "The figures alone, for a README")->type_name("FILE");
    command->add_option("--title", options->title, "Above the verdict (default: the paths)")->type_name("TEXT");
    command
        ->add_option("--recording", options->recording, "Raw values to explain: a folder of the npy plugin, or an .npz")
        ->type_name("PATH");
    command->add_option("--diff", options->diff_path, "What bitnet diff --format json printed")->type_name("FILE");
    command->add_option("--explain", options->explain_path, "What bitnet explain --format json printed")
        ->type_name("FILE");
    command
        ->add_option("--crossval", options->crossval_path, "What bitnet crossval --format json printed, or its receipt")
        ->type_name("FILE");
    options->arguments.add_to(*command);
    options->model.add_to(*command);
    options->envelope.add_to(*command);
    command->get_option("--envelope")->excludes(command->get_option("--tolerance"));
    command->footer(report_footer);
    command->callback([options, &exit_code] { exit_code = write_report(*options); });
}

void add_recheck_command(CLI::App &app, int &exit_code) {
    auto options = std::make_shared<RecheckOptions>();
    CLI::App *command =
        app.add_subcommand("recheck", "Other thresholds on a saved comparison. Exit: 0 match, 1 divergence, 2 error");
    command->add_option("SAVED", options->path, "What bitnet diff or crossval printed with --format json, or a receipt")
        ->required();
    command->add_option("--format", options->format, "text (default) or json")->check(one_of({"text", "json"}));
    options->tolerance.add_to(*command, "Of traces: auto, exact or a relative L2 distance (default: as saved)");
    options->limits.add_to(*command, "as saved");
    command->callback([options, command, &exit_code] {
        exit_code = recheck(*options, command->get_option("--tolerance")->count() > 0);
    });
}

}  // namespace bitnet
