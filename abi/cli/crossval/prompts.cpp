#include "abi/cli/crossval/prompts.h"

#include <nlohmann/json.hpp>

#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

using nlohmann::json;

std::vector<int64_t> ids_of(const json &value, const std::string &where) {
    std::vector<int64_t> ids;
    const bool good = value.is_array() &&
                      std::all_of(value.begin(), value.end(), [](const json &id) { return id.is_number_integer(); });
    if (!good) throw CommandError(where + ": \"tokens\" is no array of token ids");
    for (const json &id : value) ids.push_back(id.get<int64_t>());
    return ids;
}

PromptItem parse_object(const std::string &line, const std::string &where) {
    const json object = json::parse(line, nullptr, false);
    if (!object.is_object()) throw CommandError(where + ": expected a JSON object, as the first line is one");
    PromptItem item;
    const bool has_text = object.contains("prompt"), has_tokens = object.contains("tokens");
    if (has_text == has_tokens)
        throw CommandError(where + ": expected \"prompt\" or \"tokens\", found " + (has_text ? "both" : "neither"));
    if (has_tokens) {
        item.given = ids_of(object["tokens"], where);
    } else if (object["prompt"].is_string()) {
        item.text = object["prompt"].get<std::string>();
    } else {
        throw CommandError(where + ": \"prompt\" is no string");
    }
    if (object.contains("id"))
        item.id = object["id"].is_string() ? object["id"].get<std::string>() : object["id"].dump();
    return item;
}

}  // namespace

std::vector<PromptItem> read_prompts(const std::string &path) {
    const std::string bytes = read_file(path);
    const bool is_jsonl = bytes.starts_with('{');
    std::vector<PromptItem> items;
    int line_number = 0;
    for (size_t at = 0; at < bytes.size();) {
        const size_t end = std::min(bytes.find('\n', at), bytes.size());
        std::string line = bytes.substr(at, end - at);
        at = end + 1;
        line_number++;
        if (line.ends_with('\r')) line.pop_back();
        if (line.empty()) continue;
        PromptItem item;
        if (is_jsonl) {
            item = parse_object(line, text_of("%s:%d", printable(path).c_str(), line_number));
        } else {
            item.text = line;
        }
        if (item.id.empty()) item.id = std::to_string(items.size());
        item.line = line_number;
        items.push_back(std::move(item));
    }
    if (items.empty()) throw CommandError(printable(path) + ": no prompt in it: one a line is expected");
    return items;
}

}  // namespace bitnet::crossval
