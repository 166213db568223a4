// bitnet trace -- PROGRAM: another engine's program, unchanged, with the interposer preloaded.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace bitnet {

struct TraceProgramOptions {
    std::vector<std::string> command;  // the program and its arguments
    std::string output;                // "": the default
    std::optional<std::string> select;
    std::vector<std::string> plugins;
    bool no_flash = false;
    bool deep = false;          // reach libraries opened with RTLD_DEEPBIND
    bool patch_static = false;  // lead the calls of a program that ggml is linked into
    bool self_check = false;    // run without and with, compare
    int in = -1, out = -1;      // files for its standard input and output; -1: ours. Not of self_check
};

// Returns the program's own exit status (128 + n when signal n ended it), or what the check found. Throws CommandError.
int trace_program(const TraceProgramOptions &options);

}  // namespace bitnet
