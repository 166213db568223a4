// Compares the tokenizer with independent ones on the real LLaMA-3 vocabulary:
//     tokenizer_parity llama3.gguf a.cases b.cases ...
// llama3_vocab.mjs writes these files. Exit status 1 when anything differs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "model/error.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

namespace {

using bitnet::Tokenizer;
using Ids = std::vector<int32_t>;

// The values of one .cases file, in order.
class CasesReader {
public:
    explicit CasesReader(const std::string &path) : bytes_(bitnet::Mapping::read_file(path)) {}

    uint32_t number() {
        uint32_t value;
        memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }

    std::string_view text() {
        const uint32_t n = number();
        return {reinterpret_cast<const char *>(take(n)), n};
    }

    Ids ids() {
        Ids ids(number());
        const uint8_t *values = take(ids.size() * sizeof(int32_t));
        if (!ids.empty()) memcpy(ids.data(), values, ids.size() * sizeof(int32_t));
        return ids;
    }

private:
    const uint8_t *take(size_t n) {
        if (n > bytes_->size() - position_) {
            bitnet::fail(bitnet::Status::format, "%s: %zu bytes at %zu: expected at most %zu", bytes_->name().c_str(),
                         n, position_, bytes_->size() - position_);
        }
        position_ += n;
        return bytes_->data() + position_ - n;
    }

    std::shared_ptr<const bitnet::Mapping> bytes_;
    size_t position_ = 0;
};

std::string text_of(const Ids &ids) {
    std::string text;
    for (const int32_t id : ids) text.append(" ").append(std::to_string(id));
    return text.empty() ? " (none)" : text;
}

// What one text's ids should be, from three sides: the oracle, plain encoding, and decoding.
const char *difference(const Tokenizer &tokenizer, std::string_view text, const Ids &expected, Ids &found) {
    found = tokenizer.encode(text, false, true);
    if (found != expected) return "ids";
    const bool has_special = std::any_of(expected.begin(), expected.end(),
                                         [&](int32_t id) { return tokenizer.type(id) == bitnet::TokenType::control; });
    found = tokenizer.encode(text, false, false);
    if (has_special == (found == expected)) return has_special ? "ids, which have control tokens" : "ids of plain text";
    if (tokenizer.decode(found.data(), found.size(), false) != text) return "decoded plain text";
    if (tokenizer.decode(expected.data(), expected.size(), true) != text) return "decoded text";
    return nullptr;
}

bool compare_file(const Tokenizer &tokenizer, const std::string &path) {
    CasesReader reader(path);
    const uint32_t n_texts = reader.number();
    uint32_t n_different = 0;
    uint64_t n_ids = 0;
    for (uint32_t i = 0; i < n_texts; i++) {
        const std::string_view text = reader.text();
        const Ids expected = reader.ids();
        Ids found;
        const char *what = difference(tokenizer, text, expected, found);
        n_ids += expected.size();
        if (what && n_different++ == 0) {
            printf("%s: text %u: '%s': %s differ\n  expected%s\n  found   %s\n", path.c_str(), i,
                   bitnet::quoted(text.data(), text.size()).c_str(), what, text_of(expected).c_str(),
                   text_of(found).c_str());
        }
    }
    printf("%s: %u texts, %llu ids, %u different\n", path.c_str(), n_texts, static_cast<unsigned long long>(n_ids),
           n_different);
    return n_texts > 0 && n_different == 0;
}

struct Vector {
    const char *text;
    Ids ids;
};

// Published encodings of LLaMA-3.
const Vector vectors[] = {
    {"Hello world!", {9906, 1917, 0}},
    {"The capital of France is", {791, 6864, 315, 9822, 374}},
    {"1234567890", {4513, 10961, 16474, 15}},
    {" 12 345", {220, 717, 220, 12901}},
    {"I'M", {40, 28703}},
    {"x'LLy", {87, 6, 4178, 88}},
    {"  leading", {220, 6522}},
    {"日本語テスト", {102433, 102158, 57933, 71634}},
    {"User: How are you?", {1502, 25, 2650, 527, 499, 30}},
};

bool compare_vectors(const Tokenizer &tokenizer) {
    int n_different = 0;
    for (const Vector &vector : vectors) {
        Ids found;
        if (!difference(tokenizer, vector.text, vector.ids, found)) continue;
        n_different++;
        printf("vector '%s'\n  expected%s\n  found   %s\n", vector.text, text_of(vector.ids).c_str(),
               text_of(found).c_str());
    }
    printf("vectors: %zu texts, %d different\n", std::size(vectors), n_different);
    return n_different == 0;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool compare_all(const char *vocabulary, const std::vector<std::string> &files) {
    const bitnet::GgufFile file(bitnet::Mapping::map_file(vocabulary));
    std::vector<std::string> warnings;
    const auto start = std::chrono::steady_clock::now();
    const Tokenizer tokenizer = Tokenizer::from_gguf(file, "bitnet-b1.58", warnings);
    printf("%d tokens indexed in %.3f s\n", tokenizer.n_tokens(), seconds_since(start));
    for (const std::string &warning : warnings) printf("unexpected warning: %s\n", warning.c_str());
    bool equal = warnings.empty() && compare_vectors(tokenizer);
    for (const std::string &path : files) equal = compare_file(tokenizer, path) && equal;
    return equal;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: tokenizer_parity vocabulary.gguf cases...\n");
        return 2;
    }
    try {
        return compare_all(argv[1], {argv + 2, argv + argc}) ? 0 : 1;
    } catch (const std::exception &error) {
        fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
