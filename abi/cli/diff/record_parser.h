// One line of a trace to a typed value. The only file that knows JSON's spelling of schema 1.
#pragma once

#include "abi/cli/diff/trace.h"

#include <memory>
#include <stdexcept>
#include <variant>

namespace bitnet::diff {

// What is wrong with a line, without its file and number.
class LineError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

struct RunLine {
    uint64_t number = 0;  // as in the file
    Run run;              // its tokens are those of the run record: the first eval's
};
struct StepLine {
    uint64_t run = 0;
    int64_t position = 0;
    bool has_tokens = false;  // false: embeddings were given
    std::vector<int32_t> tokens;
};
struct TensorLine {
    uint64_t run = 0;
    int64_t position = 0;
    int64_t layer = 0;             // kAllLayersOutLayer is left for the reader, who knows the number of layers
    const Stage *stage = nullptr;  // never NULL
    Record record;                 // without key, line and file
};
// One of BitNet-rs's records, as its *.trace files and its JSONL hold them.
struct BareLine {
    TensorLine tensor;  // run is not set
};
struct RunEndLine {
    uint64_t run = 0, n_records = 0;
    bool overridden = false;
};
using Line = std::variant<RunLine, StepLine, TensorLine, BareLine, RunEndLine>;

class RecordParser {
public:
    // Bytes after a line that must be readable (their values do not matter).
    static const size_t kPadding;

    RecordParser();
    ~RecordParser();
    // Throws LineError. Unknown fields are skipped, unknown kinds of records are errors.
    Line parse(const char *line, size_t n_bytes);

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace bitnet::diff
