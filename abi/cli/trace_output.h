// Where a command's trace goes, and how it went.
#pragma once

#include <cstdint>
#include <string>

#include "bitnet_c.h"

namespace bitnet {

inline constexpr const char *default_trace_path = "bitnet-trace.jsonl";

// <folder of BITNET_TRACE_DIR>/bitnet-<UTC time>-<pid>.jsonl, the folder made when missing; "" when it is not set.
std::string trace_path_in_environment_folder();

// Attaches the jsonl plugin. Throws CommandError.
void attach_jsonl(bitnet_ctx_t *ctx, const std::string &path);

// A file that appears whole or not at all: written under another name, renamed by commit(), otherwise removed. What is
// no regular file (a pipe, a device) is written directly.
class TraceFile {
public:
    explicit TraceFile(std::string path);
    ~TraceFile();
    TraceFile(const TraceFile &) = delete;
    TraceFile &operator=(const TraceFile &) = delete;
    const std::string &write_path() const { return write_path_; }
    const std::string &path() const { return path_; }
    uint64_t commit();  // returns its bytes, 0 when it is no regular file; throws CommandError

private:
    std::string path_;
    std::string write_path_;
    bool committed_ = false;
};

// Ends the run and flushes. Throws CommandError when a plugin was lost on the way: the trace is then incomplete.
bitnet_trace_stats_t finish_trace(bitnet_ctx_t *ctx);

}  // namespace bitnet
