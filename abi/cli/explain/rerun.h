// A program that can be run again is recorded twice: records first, to find the position; then the raw values there.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/recording/recording.h"
#include "abi/cli/temporary_folder.h"
#include "bitnet_c.h"

namespace bitnet::explain {

struct RerunOptions {
    std::vector<std::string> command;  // the program and its arguments
    bool no_flash = false, deep = false, patch_static = false;
};

struct Rerun {
    recording::Recording recording;
    std::string found;  // "position 5, ..." and why there
};

// The program gets no input, its output goes to standard error. Throws CommandError: it records nothing, or not the same
// tokens again. `folder` keeps what it wrote.
Rerun record_twice(const bitnet_model_t *model, const RerunOptions &options, const TemporaryFolder &folder);

}  // namespace bitnet::explain
