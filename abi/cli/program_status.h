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
// "llama.cpp (pid 12): 3 steps, ..." of a process that was traced.
std::string summary_of(const ProcessStatus &status);
// Why nothing was traced: of all processes of `program`. Never empty.
std::string why_nothing(const std::vector<ProcessStatus> &statuses, const std::string &program, bool deep);
// What else a user should know of a process that was traced; "" when nothing.
std::string advice_of(const ProcessStatus &status, bool wants_softmax);

}  // namespace bitnet
