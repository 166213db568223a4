// Text to token ids and back. LLaMA-3 byte-level BPE; see model/FORMAT.md for the rules and their sources.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet {

class GgufFile;
struct Vocabulary;

enum class TokenType : int8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

class Tokenizer {
public:
    Tokenizer();
    ~Tokenizer();
    Tokenizer(Tokenizer &&) noexcept;
    Tokenizer &operator=(Tokenizer &&) noexcept;

    // Reads the tokenizer.ggml.* keys. `architecture` and the vocabulary's size decide a missing pre-tokenizer; what
    // was assumed is appended to `warnings`. Throws Error(format or unsupported).
    static Tokenizer from_gguf(const GgufFile &file, const std::string &architecture,
                               std::vector<std::string> &warnings);

    // Copies what it needs. Ids in `vocabulary` must be in range and its arrays as long as its tokens or empty.
    static Tokenizer from_vocabulary(const Vocabulary &vocabulary, std::vector<std::string> &warnings);

    // `text` is any bytes. parse_special: control tokens spelled in the text become themselves.
    std::vector<int32_t> encode(std::string_view text, bool add_bos, bool parse_special) const;
    // Concatenated bytes; control tokens only with `special`. Throws Error(invalid) for an id out of range.
    std::string decode(const int32_t *tokens, size_t n, bool special) const;

    int n_tokens() const;
    const char *text(int32_t token) const;  // as the vocabulary spells it
    TokenType type(int32_t token) const;
    float score(int32_t token) const;  // 0 when the file has none
    int32_t bos() const;               // -1: none; likewise below
    int32_t eos() const;
    int32_t eot() const;
    int32_t pad() const;
    const std::vector<int32_t> &end_ids() const;  // ascending
    bool wants_bos() const;
    const std::string &chat_template() const;

private:
    struct Data;
    std::unique_ptr<Data> data_;
};

}  // namespace bitnet
