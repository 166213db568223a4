// What the interposer left behind: one file per process, "key=value" lines (shim/SHIM.md), and what it means.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bitnet {

struct ProcessStatus {
    std::map<std::string, std::string> values;
    std::vector<std::string> libraries;  // of the engine, loaded when the process ended

    uint64_t number(const char *key) const;
    std::string text(const char *key) const;
};

std::vector<ProcessStatus> read_statuses(const std::string &folder);
// A row of logits that the interposer saw: in which run of a context, at which position, and its BLAKE3.
struct LogitsRow {
    uint64_t run = 0, position = 0;
    std::string hash;
    auto operator<=>(const LogitsRow &) const = default;
};

// Those of all processes in order: threads and processes come as they like.
std::vector<LogitsRow> read_logits(const std::string &folder);
// The first row that is not the same on both sides, in words; "" when all are.
std::string difference(const std::vector<LogitsRow> &alone, const std::vector<LogitsRow> &traced);

// "llama.cpp (pid 12): 3 steps, ..." of a process that was traced.
std::string summary_of(const ProcessStatus &status);
// Why nothing was traced: of all processes of `program`. Never empty.
struct HowReached {
    bool deep, patch_static;  // asked for
};
std::string why_nothing(const std::vector<ProcessStatus> &statuses, const std::string &program, HowReached how);
// What else a user should know of a process that was traced; "" when nothing.
std::string advice_of(const ProcessStatus &status, bool wants_softmax);

}  // namespace bitnet
