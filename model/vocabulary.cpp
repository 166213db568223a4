#include "model/vocabulary.h"

#include "model/error.h"
#include "model/gguf.h"

namespace bitnet {
namespace {

constexpr size_t n_tokens_llama3 = 128256;

// Typed access to keys; every message begins with the file and the key.
class KeyReader {
public:
    explicit KeyReader(const GgufFile &file) : file_(file) {}

    [[noreturn]] void fail_key(Status status, const char *name, const std::string &text) const {
        fail(status, "%s: key '%s': %s", file_.name().c_str(), name, text.c_str());
    }

    [[noreturn]] void fail_missing(const char *name, const char *expected) const {
        fail(Status::format, "%s: key '%s' is missing: expected %s", file_.name().c_str(), name, expected);
    }

    // nullptr when the key is missing.
    const GgufKey *find(const char *name, GgufType type) const {
        const GgufKey *key = file_.find_key(name);
        if (key && key->type != type) wrong_type(*key, gguf_type_name(type));
        return key;
    }

    const GgufKey *find_array(const char *name, GgufType item_type) const {
        const GgufKey *key = file_.find_key(name);
        if (key && (key->type != GgufType::array || key->item_type != item_type)) {
            wrong_type(*key, format_text("arr[%s]", gguf_type_name(item_type)));
        }
        return key;
    }

    // The array `name` with one item a token, or nullptr.
    const GgufKey *find_per_token(const char *name, GgufType item_type, size_t n_tokens) const {
        const GgufKey *key = find_array(name, item_type);
        if (key && key->length != n_tokens) {
            fail_key(Status::format, name,
                     format_text("%llu items: expected %zu, one for each token",
                                 static_cast<unsigned long long>(key->length), n_tokens));
        }
        return key;
    }

    const std::vector<std::string_view> &need_strings(const char *name, size_t n_min) const {
        const GgufKey *key = find_array(name, GgufType::string);
        if (!key) fail_missing(name, "arr[str]");
        if (key->strings.size() < n_min || key->strings.size() > INT32_MAX) {
            fail_key(Status::format, name,
                     format_text("%zu items: expected %zu to %d", key->strings.size(), n_min, INT32_MAX));
        }
        return key->strings;
    }

    std::string text(const char *name) const {
        const GgufKey *key = find(name, GgufType::string);
        return key ? std::string(key->strings[0]) : std::string();
    }

    bool flag(const char *name, bool otherwise) const {
        const GgufKey *key = find(name, GgufType::boolean);
        return key ? key->integer() != 0 : otherwise;
    }

    // -1 when the key is missing.
    int32_t token_id(const char *name, size_t n_tokens) const {
        const GgufKey *key = file_.find_key(name);
        if (!key) return -1;
        if (key->type != GgufType::u32 && key->type != GgufType::i32 && key->type != GgufType::u64 &&
            key->type != GgufType::i64) {
            wrong_type(*key, "u32");
        }
        const int64_t id = key->integer();
        if (id < 0 || static_cast<uint64_t>(id) >= n_tokens) {
            fail_key(Status::format, name,
                     format_text("token %s: expected 0 to %zu", key->text(1).c_str(), n_tokens - 1));
        }
        return static_cast<int32_t>(id);
    }

private:
    [[noreturn]] void wrong_type(const GgufKey &key, const std::string &expected) const {
        fail_key(Status::format, key.name.c_str(),
                 format_text("type %s: expected %s", key.type_text().c_str(), expected.c_str()));
    }

    const GgufFile &file_;
};

std::string quoted_view(std::string_view text) { return quoted(text.data(), text.size()); }

void check_model(const KeyReader &keys) {
    constexpr char name[] = "tokenizer.ggml.model";
    const GgufKey *key = keys.find(name, GgufType::string);
    if (!key) keys.fail_missing(name, "'gpt2'");
    const std::string_view model = key->strings[0];
    if (model == "gpt2") return;
    const char *remark = model == "llama" ? " (SentencePiece) is not supported yet" : "";
    keys.fail_key(Status::unsupported, name,
                  format_text("'%s'%s: expected 'gpt2' (byte-level BPE)", quoted_view(model).c_str(), remark));
}

void check_pretokenizer(const KeyReader &keys, const std::string &architecture, size_t n_tokens,
                        std::vector<std::string> &warnings) {
    constexpr char name[] = "tokenizer.ggml.pre";
    if (const GgufKey *key = keys.find(name, GgufType::string)) {
        const std::string_view pre = key->strings[0];
        if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") return;
        keys.fail_key(Status::unsupported, name,
                      format_text("'%s': expected 'llama-bpe', 'llama3' or 'llama-v3'", quoted_view(pre).c_str()));
    }
    const bool is_known = architecture.starts_with("bitnet") && n_tokens == n_tokens_llama3;
    warnings.push_back(format_text("key '%s' is missing: %s (architecture '%s', %zu tokens)", name,
                                   is_known ? "llama-bpe, as models of this kind use"
                                            : "llama-bpe was assumed, which nothing in the file confirms",
                                   quoted(architecture).c_str(), n_tokens));
}

std::vector<TokenType> read_types(const KeyReader &keys, size_t n_tokens) {
    constexpr char name[] = "tokenizer.ggml.token_type";
    std::vector<TokenType> types;
    const GgufKey *key = keys.find_per_token(name, GgufType::i32, n_tokens);
    if (!key) return types;
    types.reserve(n_tokens);
    for (size_t i = 0; i < n_tokens; i++) {
        const int64_t type = key->integer(i);
        if (type < 1 || type > 6) {
            keys.fail_key(Status::format, name,
                          format_text("item %zu: type %lld: expected 1 to 6", i, static_cast<long long>(type)));
        }
        types.push_back(static_cast<TokenType>(type));
    }
    return types;
}

std::vector<std::string_view> read_merges(const KeyReader &keys) {
    constexpr char name[] = "tokenizer.ggml.merges";
    const std::vector<std::string_view> &merges = keys.need_strings(name, 0);
    for (size_t i = 0; i < merges.size(); i++) {
        const size_t space = merges[i].find(' ');
        if (space == 0 || space >= merges[i].size() - 1 || merges[i].find(' ', space + 1) != merges[i].npos) {
            keys.fail_key(Status::format, name,
                          format_text("item %zu: '%s': expected two parts with one space between", i,
                                      quoted_view(merges[i]).c_str()));
        }
    }
    return merges;
}

// Published files of 2B-4T lack the key; the token that ends a turn is still in their vocabulary.
int32_t find_eot(const std::vector<std::string_view> &tokens, std::vector<std::string> &warnings) {
    for (size_t i = 0; i < tokens.size(); i++) {
        if (tokens[i] == "<|eot_id|>") {
            warnings.push_back(
                format_text("key 'tokenizer.ggml.eot_token_id' is missing: token %zu, <|eot_id|>, by its text", i));
            return static_cast<int32_t>(i);
        }
    }
    return -1;
}

}  // namespace

Vocabulary read_vocabulary(const GgufFile &file, const std::string &architecture, std::vector<std::string> &warnings) {
    const KeyReader keys(file);
    check_model(keys);
    Vocabulary vocabulary;
    vocabulary.tokens = keys.need_strings("tokenizer.ggml.tokens", 1);
    const size_t n_tokens = vocabulary.tokens.size();
    check_pretokenizer(keys, architecture, n_tokens, warnings);
    vocabulary.merges = read_merges(keys);
    vocabulary.types = read_types(keys, n_tokens);
    if (const GgufKey *scores = keys.find_per_token("tokenizer.ggml.scores", GgufType::f32, n_tokens)) {
        vocabulary.scores.resize(n_tokens);
        for (size_t i = 0; i < n_tokens; i++) vocabulary.scores[i] = static_cast<float>(scores->number(i));
    }
    vocabulary.bos = keys.token_id("tokenizer.ggml.bos_token_id", n_tokens);
    vocabulary.eos = keys.token_id("tokenizer.ggml.eos_token_id", n_tokens);
    vocabulary.eot = keys.token_id("tokenizer.ggml.eot_token_id", n_tokens);
    vocabulary.pad = keys.token_id("tokenizer.ggml.padding_token_id", n_tokens);
    if (vocabulary.eot < 0) vocabulary.eot = find_eot(vocabulary.tokens, warnings);
    vocabulary.add_bos = keys.flag("tokenizer.ggml.add_bos_token", vocabulary.bos >= 0);
    vocabulary.chat_template = keys.text("tokenizer.chat_template");
    return vocabulary;
}

}  // namespace bitnet
