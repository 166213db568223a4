#include "abi/cli/explain/rerun.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/trace_reader.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"
#include "abi/cli/trace_program.h"

namespace bitnet::explain {

namespace {

using Tokens = std::vector<int32_t>;

// Rows of all layers at one position are a few MB; what earlier positions left in the cache grows with them.
constexpr int cache_rows_max = 4096;

// Nothing to read: a program that is run twice would find it used up.
class NoInput {
public:
    NoInput() : file_(open("/dev/null", O_RDONLY | O_CLOEXEC)) {}
    ~NoInput() { close(file_); }
    NoInput(const NoInput &) = delete;
    NoInput &operator=(const NoInput &) = delete;
    int file() const { return file_; }

private:
    int file_;
};

void run_program(const RerunOptions &options, const std::string &output, const std::string &select,
                 const std::vector<std::string> &plugins) {
    const NoInput nothing;
    TraceProgramOptions program;
    program.command = options.command;
    program.output = output;
    program.select = select;
    program.plugins = plugins;
    program.no_flash = options.no_flash;
    program.deep = options.deep;
    program.patch_static = options.patch_static;
    program.in = nothing.file();
    program.out = STDERR_FILENO;
    const int status = trace_program(program);
    if (status != 0) std::fprintf(stderr, "explain: the program ended with status %d\n", status);
}

// Ids from position 0 on; empty when the run does not know all of them.
Tokens tokens_of(const diff::Run &run) {
    Tokens ids;
    for (const auto &[position, id] : run.tokens) {
        if (position != int64_t(ids.size())) return {};
        ids.push_back(id);
    }
    return ids;
}

// The same tokens through our own engine, run by run, into a trace.
void trace_ourselves(const bitnet_model_t *model, const diff::Trace &theirs, const std::string &path) {
    const ContextHandle ctx = create_context(model, ContextOptions());
    attach_jsonl(ctx.get(), path);
    for (const diff::Run &run : theirs.runs) {
        const Tokens ids = tokens_of(run);
        if (ids.empty()) throw CommandError("explain: the program's trace does not say which tokens it evaluated");
        check(bitnet_context_reset(ctx.get()));
        prefill(ctx.get(), ids, model_info(model).n_layer);
    }
    finish_trace(ctx.get());
}

struct Place {
    int run = 0, position = 0;
    std::set<int> layers;  // that differ first
    std::string why;
};

// Where the two leave each other: logits out of the envelope, else the ones farthest apart, else the end.
Place find_place(const diff::Report &report, const diff::Trace &theirs) {
    Place place;
    for (const diff::Origin &origin : report.origins)
        if (place.layers.size() < 3 && diff::layer_of(origin.pair->key()) >= 0)
            place.layers.insert(diff::layer_of(origin.pair->key()));
    if (report.growth.jump) place.layers.insert(report.growth.layers[*report.growth.jump].layer);
    if (const diff::Pair *at = report.first ? report.first : report.logits_worst) {
        place.run = diff::run_of(at->key());
        place.position = diff::position_of(at->key());
        place.why = report.first ? "the first that differs from ours" : "whose logits are farthest from ours";
        return place;
    }
    for (size_t i = 0; i < theirs.runs.size(); ++i)
        if (theirs.runs[i].tokens.size() > theirs.runs[size_t(place.run)].tokens.size()) place.run = int(i);
    place.position = int(theirs.runs[size_t(place.run)].tokens.size()) - 1;
    place.why = "the last";
    return place;
}

std::string selection(const Place &place, int n_layer) {
    std::string layers = "*";
    if (int64_t(place.position) * n_layer > cache_rows_max && !place.layers.empty()) {
        layers = "{-1";
        std::set<int> wanted;
        for (const int layer : place.layers) wanted.insert({layer, std::max(layer - 1, 0)});
        for (const int layer : wanted) layers += ";" + std::to_string(layer);
        layers += "}";
    }
    std::string text = text_of("%d:%s:*", place.position, layers.c_str());
    if (place.position > 0) text += text_of(",0-%d:%s:{k_rope;v_proj}", place.position - 1, layers.c_str());
    return text;
}

// The run of these tokens: a program may have others, such as a warm-up.
recording::Recording find_recording(const std::string &folder, const Tokens &tokens) {
    std::vector<std::string> paths;
    std::error_code error;
    for (const auto &entry : std::filesystem::directory_iterator(folder, error)) paths.push_back(entry.path().string());
    if (paths.empty()) throw CommandError("explain: the program recorded nothing when it was run again");
    std::sort(paths.begin(), paths.end());
    for (const std::string &path : paths) {
        recording::Recording recording = recording::read_recording(path);
        if (recording.tokens == tokens) return recording;
    }
    throw CommandError("explain: the program evaluated other tokens when it was run again: its records say nothing about them");
}

}  // namespace

Rerun record_twice(const bitnet_model_t *model, const RerunOptions &options, const TemporaryFolder &folder) {
    const std::string theirs_path = folder.path() + "/theirs.jsonl", ours_path = folder.path() + "/ours.jsonl";
    run_program(options, theirs_path, "", {});
    if (!std::filesystem::exists(theirs_path)) throw CommandError("explain: the program recorded nothing");
    diff::Trace theirs, ours;
    diff::stream_trace(theirs_path, theirs, [](const diff::Record &) {});
    if (!theirs.problems.empty()) throw CommandError("explain: " + theirs.problems.lines().front());
    trace_ourselves(model, theirs, ours_path);
    theirs = diff::Trace();
    diff::Options settings;
    settings.allow_missing = true;
    settings.ignore = {"model_hash", "hyperparameters", "architecture"};
    const diff::Report report = diff::compare_files(ours_path, theirs_path, settings, ours, theirs);
    const Place place = find_place(report, theirs);
    const Tokens tokens = tokens_of(theirs.runs[size_t(place.run)]);
    const std::string raw = folder.path() + "/raw";
    run_program(options, "", selection(place, model_info(model).n_layer), {"npy:dir=" + raw + ",raw=all"});
    return {find_recording(raw, tokens),
            text_of("run twice, the second time for the raw values of position %d, %s", place.position, place.why.c_str())};
}

}  // namespace bitnet::explain
