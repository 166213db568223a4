// The other side of a comparison: logits from a file, a trace, a library or a program.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/cli/crossval/prompts.h"
#include "bitnet_c.h"

namespace bitnet::crossval {

using Ids = std::vector<int32_t>;

// How a prompt's text becomes ids.
struct TokenizeFlags {
    bool add_bos = false;
    bool parse_special = false;
};

// Positions of a prompt that the other side has logits of, ascending.
struct Offered {
    std::vector<int> positions;
    bool partial = false;  // its kind never holds all of them: what lacks is counted, and no error
};

class Source {
public:
    virtual ~Source() = default;
    // "npy:a.npy"; what is known of the engine behind it.
    virtual std::string name() const = 0;
    // What it cannot tell, or tells only roughly; "" when there is nothing to say.
    virtual std::string limitation() const { return ""; }
    // Called once, before everything below.
    virtual void open(const bitnet_model_t *) {}
    // Prompts that it holds itself, as ids; empty: it holds none.
    virtual std::vector<Ids> own_prompts() { return {}; }
    // Ids of its own of this prompt; none: it does not know.
    virtual std::optional<Ids> tokens(size_t /*index*/, const PromptItem &, const TokenizeFlags &) {
        return std::nullopt;
    }
    virtual Offered begin(size_t index, const Ids &tokens) = 0;
    // Measures our row against its row at this position; positions come in ascending order. Returns its row, borrowed
    // until the next call, or null when it has no values.
    virtual const float *compare(int position, const float *ours, const bitnet_logits_limits_t &limits,
                                 bitnet_logits_row_t &row) = 0;
};

struct SourceOptions {
    std::string spec;        // of --against
    std::string model_path;  // of the other side; "": the demo model
    std::string semantics;   // of lib: only
    int n_threads = 1;
    double timeout_seconds = 600;  // for each answer of another process
    size_t n_prompts = 0;          // 0: the source's own
};

// Throws CommandError when the spec says nothing that exists. Starts processes: call it before any thread.
std::unique_ptr<Source> make_source(const SourceOptions &options);

// `path` with {} replaced by the number of the prompt.
std::string path_of_prompt(const std::string &path, size_t index);

std::unique_ptr<Source> open_npy(const std::string &path);
std::unique_ptr<Source> open_raw(const std::string &path);
std::unique_ptr<Source> open_saved_logits(const std::string &path);
std::unique_ptr<Source> open_trace(const std::string &path);
std::unique_ptr<Source> start_library(const SourceOptions &options, const std::string &path);
std::unique_ptr<Source> start_crossval_library(const SourceOptions &options, const std::string &path);
std::unique_ptr<Source> start_command(const SourceOptions &options, const std::string &command);

// Values against values.
void compare_values(const float *ours, const float *theirs, size_t n_vocab, const bitnet_logits_limits_t &limits,
                    bitnet_logits_row_t &row);

}  // namespace bitnet::crossval
