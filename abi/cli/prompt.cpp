#include "abi/cli/prompt.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

#include "abi/cli/options.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr const char *chat_begin = "User: ";
constexpr const char *chat_end = "<|eot_id|>Assistant: ";

// The model's chat form. The user's own text is never read for special tokens: only the frame around it is.
Prompt chat_prompt(const bitnet_model_t *model, const std::string &text, uint32_t flags) {
    Prompt prompt;
    prompt.text = chat_begin + text + chat_end;
    prompt.tokens = tokenize(model, chat_begin + text, flags);
    const std::vector<int32_t> end = tokenize(model, chat_end, BITNET_TOKENIZE_PARSE_SPECIAL);
    if (end.empty() || bitnet_token_type(model, end[0]) != BITNET_TOKEN_CONTROL) {
        throw CommandError("--chat: the model has no control token <|eot_id|>, which its prompts need");
    }
    prompt.tokens.insert(prompt.tokens.end(), end.begin(), end.end());
    return prompt;
}

}  // namespace

std::string read_file(const std::string &path) {
    const bool is_stdin = path == "-";
    std::unique_ptr<FILE, int (*)(FILE *)> opened(nullptr, std::fclose);
    if (!is_stdin) opened.reset(std::fopen(path.c_str(), "rb"));
    FILE *file = is_stdin ? stdin : opened.get();
    const std::string name = is_stdin ? "stdin" : path;
    if (file == nullptr) throw CommandError(text_of("%s: cannot open: %s", name.c_str(), std::strerror(errno)));
    std::string bytes;
    char chunk[65536];
    while (const size_t n = std::fread(chunk, 1, sizeof(chunk), file)) bytes.append(chunk, n);
    if (std::ferror(file)) throw CommandError(text_of("%s: cannot read: %s", name.c_str(), std::strerror(errno)));
    return bytes;
}

std::vector<int32_t> parse_token_ids(const std::string &option, const std::string &text, int n_vocab) {
    std::vector<int32_t> tokens;
    const char *spaces = " \t\r\n";
    size_t at = text.find_first_not_of(spaces);
    while (at != std::string::npos) {
        const size_t end = std::min(text.find_first_of(" \t\r\n,", at), text.size());
        const std::string item = text.substr(at, end - at);
        int32_t id = -1;
        const auto [stop, error] = std::from_chars(item.data(), item.data() + item.size(), id);
        if (error != std::errc() || stop != item.data() + item.size() || id < 0 || id >= n_vocab) {
            throw CommandError(text_of("%s: item %zu is '%.40s', expected a token id from 0 to %d", option.c_str(),
                                       tokens.size() + 1, item.c_str(), n_vocab - 1));
        }
        tokens.push_back(id);
        at = text.find_first_not_of(spaces, end);
        if (at == std::string::npos || text[at] != ',') continue;
        // A comma promises another item; an empty one is reported as such.
        at = std::min(text.find_first_not_of(spaces, at + 1), text.size());
    }
    return tokens;
}

std::string join_ids(const std::vector<int32_t> &tokens, const char *separator) {
    std::string joined;
    for (const int32_t token : tokens) joined += (joined.empty() ? "" : separator) + std::to_string(token);
    return joined;
}

void TextOptions::add_to(CLI::App &command) {
    command.add_option("-p,--prompt", text, "The text");
    command.add_option("-f,--file", file, "A file with the text, taken byte by byte")->type_name("FILE");
    command.add_option("stdin", dash, "'-' reads the text from standard input")->option_text("-")->check(one_of({"-"}));
}

std::string TextOptions::read(const char *others) const {
    const int n_given = int(text.has_value()) + int(file.has_value()) + int(!dash.empty());
    if (n_given != 1) {
        throw CommandError(text_of("%s: give one of -p TEXT, -f FILE, - (standard input)%s",
                                   n_given == 0 ? "no text" : "more than one text", others));
    }
    return text ? *text : read_file(file ? *file : dash);
}

void PromptOptions::add_to(CLI::App &command) {
    source.add_to(command);
    command.add_option("--tokens", tokens, "Token ids in place of text, taken as they are: \"1,2,3\"")
        ->type_name("IDS");
    command.add_flag(
        "--chat", chat,
        "Wrap the text in the model's chat form, User: {text}<|eot_id|>Assistant: (with a space at the end)");
    command.add_flag("--no-bos", no_bos, "Do not begin with the BOS token, even when the model asks for it");
    command.add_flag("--parse-special", parse_special,
                     "Control tokens spelled in the text, <|eot_id|>, become themselves");
}

std::optional<std::string> PromptOptions::read() const {
    if (!tokens) return source.read(", --tokens IDS");
    if (source.given()) throw CommandError("more than one text: --tokens stands in place of -p, -f and -");
    if (chat) throw CommandError("--chat: needs text, but --tokens was given");
    return std::nullopt;
}

Prompt PromptOptions::tokenized(const bitnet_model_t *model, const std::optional<std::string> &given) const {
    Prompt prompt;
    const uint32_t flags = (bitnet_token_wants_bos(model) && !no_bos ? BITNET_TOKENIZE_ADD_BOS : 0) |
                           (parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
    if (!given) {
        prompt.tokens = parse_token_ids("--tokens", *tokens, model_info(model).n_vocab);
    } else if (chat) {
        prompt = chat_prompt(model, *given, flags);
    } else {
        prompt.text = *given;
        prompt.tokens = tokenize(model, *given, flags);
    }
    if (prompt.tokens.empty()) throw CommandError("the prompt has no tokens: at least one is needed");
    return prompt;
}

}  // namespace bitnet
