#include "abi/cli/crossval/source.h"

#include <cstdio>
#include <cstring>

#include "abi/cli/crossval/saved_logits.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

struct Kind {
    const char *prefix;
    bool one_file_a_prompt;  // {} in the path
    std::unique_ptr<Source> (*open)(const SourceOptions &options, const std::string &rest);
};

constexpr Kind kinds[] = {
    {"npy:", true, [](const SourceOptions &, const std::string &rest) { return open_npy(rest); }},
    {"raw:", true, [](const SourceOptions &, const std::string &rest) { return open_raw(rest); }},
    {"logits:", false, [](const SourceOptions &, const std::string &rest) { return open_saved_logits(rest); }},
    {"trace:", false, [](const SourceOptions &, const std::string &rest) { return open_trace(rest); }},
    {"lib:", false, start_library},
    {"crossval:", false, start_crossval_library},
    {"cmd:", false, start_command},
};

const Kind *kind_of_prefix(const std::string &spec) {
    for (const Kind &kind : kinds)
        if (spec.starts_with(kind.prefix)) return &kind;
    return nullptr;
}

bool begins_as_saved_logits(const std::string &path) {
    char begin[sizeof saved_logits_magic] = {};
    if (FILE *file = std::fopen(path.c_str(), "rb")) {
        const size_t n = std::fread(begin, 1, std::strlen(saved_logits_magic), file);
        std::fclose(file);
        return n == std::strlen(saved_logits_magic) && std::strcmp(begin, saved_logits_magic) == 0;
    }
    return false;
}

// A path without a prefix: by the end of its name, else by its first bytes.
const Kind *kind_of_file(const std::string &path) {
    if (path.ends_with(".npy")) return kind_of_prefix("npy:");
    if (path.ends_with(".jsonl") || path.ends_with("/")) return kind_of_prefix("trace:");
    return begins_as_saved_logits(path) ? kind_of_prefix("logits:") : nullptr;
}

}  // namespace

std::unique_ptr<Source> make_source(const SourceOptions &options) {
    const std::string &spec = options.spec;
    const Kind *kind = kind_of_prefix(spec);
    const std::string rest = kind ? spec.substr(std::strlen(kind->prefix)) : spec;
    if (!kind) kind = kind_of_file(spec);
    if (!kind)
        throw CommandError(text_of("--against: found '%s', expected npy:, raw:, logits:, trace:, lib:, crossval: or "
                                   "cmd: and what it names, or a file *.npy or *.jsonl",
                                   printable(spec).c_str()));
    if (rest.empty()) throw CommandError(text_of("--against: %s names nothing", kind->prefix));
    if (options.n_prompts > 1 && kind->one_file_a_prompt && rest.find("{}") == std::string::npos)
        throw CommandError(
            text_of("--against: one file for %zu prompts: put {} where the prompt's number stands", options.n_prompts));
    if (!options.semantics.empty() && std::strcmp(kind->prefix, "lib:") != 0)
        throw CommandError("--against-as: only a library of this ABI (lib:) takes semantics");
    return kind->open(options, rest);
}

std::string path_of_prompt(const std::string &path, size_t index) {
    std::string out = path;
    const size_t at = out.find("{}");
    if (at != std::string::npos) out.replace(at, 2, std::to_string(index));
    return out;
}

void compare_values(const float *ours, const float *theirs, size_t n_vocab, const bitnet_logits_limits_t &limits,
                    bitnet_logits_row_t &row) {
    row.struct_size = sizeof row;
    check(bitnet_compare_logits(ours, theirs, 1, n_vocab, &limits, &row, nullptr));
}

}  // namespace bitnet::crossval
