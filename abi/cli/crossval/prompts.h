// What is compared: texts or token ids, from options or from a file with one of them a line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "abi/cli/prompt.h"

namespace bitnet::crossval {

struct PromptItem {
    std::string id;                             // "0", or what a JSONL line calls it
    std::optional<std::string> text;            // none when ids were given
    std::optional<std::vector<int64_t>> given;  // ids as they stand there; checked against the vocabulary later
    int line = 0;                               // in the file of prompts, from 1; 0: not from a file
};

// One prompt a line: plain text, or, when the first line begins with '{', JSON objects with "prompt" or "tokens" and
// maybe "id". Empty lines of plain text are skipped. Throws CommandError naming the line.
std::vector<PromptItem> read_prompts(const std::string &path);

}  // namespace bitnet::crossval
