// What a command is asked to work on: text from an option, a file or stdin, or token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bitnet_c.h"

namespace CLI {
class App;
}

namespace bitnet {

// All of a file's bytes; "-" is stdin. Throws CommandError with the system's reason.
std::string read_file(const std::string &path);

// "1,2,3" or "1 2 3". Throws CommandError naming `option`, the item and the range of ids.
std::vector<int32_t> parse_token_ids(const std::string &option, const std::string &text, int n_vocab);
std::string join_ids(const std::vector<int32_t> &tokens, const char *separator);

// Where text comes from: exactly one of -p, -f and "-".
struct TextOptions {
    std::optional<std::string> text;
    std::optional<std::string> file;
    std::string dash;  // the positional "-"

    void add_to(CLI::App &command);
    bool given() const { return text || file || !dash.empty(); }
    // Throws CommandError unless exactly one source is given; `others` continues the list of what could be ("").
    std::string read(const char *others) const;
};

struct Prompt {
    std::optional<std::string> text;  // as tokenized; none when token ids were given
    std::vector<int32_t> tokens;      // at least one
};

struct PromptOptions {
    TextOptions source;
    std::optional<std::string> tokens;
    bool chat = false;
    bool no_bos = false;
    bool parse_special = false;

    void add_to(CLI::App &command);
    // Reads the text, nothing else, so that a missing file is found before a model is loaded.
    std::optional<std::string> read() const;
    // `text`: what read() returned.
    Prompt tokenized(const bitnet_model_t *model, const std::optional<std::string> &text) const;
};

}  // namespace bitnet
