#include "abi/cli/certify/certificate.h"

#include <map>
#include <sstream>

#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet::certify {

namespace {

constexpr const char *magic = "bitnet-certificate/1";
constexpr size_t hash_digits = 64;
constexpr size_t line_shown = 40;

Certificate parse_line(const std::string &line, const std::string &name) {
    std::istringstream words(line);
    std::string word;
    words >> word;  // the magic
    std::map<std::string, std::string> fields;
    while (words >> word) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos)
            throw CommandError(text_of("%s: found '%.40s', expected KEY=VALUE", name.c_str(), word.c_str()));
        if (!fields.emplace(word.substr(0, equals), word.substr(equals + 1)).second)
            throw CommandError(text_of("%s: %.40s is there twice", name.c_str(), word.substr(0, equals).c_str()));
    }
    const auto hash = [&](const char *key) {
        const std::string &value = fields[key];
        if (value.size() != hash_digits || value.find_first_not_of("0123456789abcdef") != std::string::npos)
            throw CommandError(text_of("%s: %s is '%.80s', expected 64 hex digits", name.c_str(), key, value.c_str()));
        return value;
    };
    return {fields["engine"], fields["as"], hash("model"), hash("tokens"), hash("result")};
}

}  // namespace

std::string blake3_of(const void *data, size_t n_bytes) {
    char hex[hash_digits + 1];
    size_t n = sizeof(hex);
    check(bitnet_blake3(data, n_bytes, hex, &n));
    return hex;
}

std::string token_hash(const std::vector<int32_t> &tokens) {
    std::string bytes;
    for (const int32_t token : tokens)
        for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(static_cast<uint32_t>(token) >> shift);
    return blake3_of(bytes.data(), bytes.size());
}

std::string Certificate::line() const {
    return std::string(magic) + " engine=" + engine + (semantics.empty() ? "" : " as=" + semantics) +
           " model=" + model + " tokens=" + tokens + " result=" + result;
}

Certificate parse_certificate(const std::string &text, const std::string &name) {
    std::istringstream lines(text);
    std::string line, found;
    while (std::getline(lines, line)) {
        if (line.find_first_not_of(" \t\r") == std::string::npos || line[0] == '#') continue;
        if (line.substr(0, line.find_first_of(" \t\r")) != magic)
            throw CommandError(text_of("%s: a line begins with '%s', expected %s", name.c_str(),
                                       printable(line.substr(0, line_shown)).c_str(), magic));
        if (!found.empty()) throw CommandError(name + ": more than one line, expected one certificate");
        found = line;
    }
    if (found.empty()) throw CommandError(name + ": no certificate in it, expected a line that begins with " + magic);
    return parse_line(found, name);
}

std::string mismatch(const Certificate &expected, const Certificate &found) {
    const auto differ = [](const char *what, const std::string &a, const std::string &b) {
        return text_of("%s: expected %s, found %s", what, a.c_str(), b.c_str());
    };
    if (expected.model != found.model) return differ("other model", expected.model, found.model);
    if (expected.tokens != found.tokens) return differ("other tokens", expected.tokens, found.tokens);
    if (expected.result == found.result) return "";
    const std::string text = differ("other result of the same model and tokens", expected.result, found.result);
    if (expected.semantics == found.semantics) return text;
    const auto as = [](const std::string &overrides) { return overrides.empty() ? "the model's own" : overrides; };
    return text +
           text_of(" (semantics: expected %s, found %s)", as(expected.semantics).c_str(), as(found.semantics).c_str());
}

}  // namespace bitnet::certify
