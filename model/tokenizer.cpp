#include "model/tokenizer.h"

#include <algorithm>
#include <array>

#include "model/bpe.h"
#include "model/error.h"
#include "model/gguf.h"
#include "model/pretokenizer.h"
#include "model/vocabulary.h"

namespace bitnet {
namespace {

constexpr size_t text_bytes_max = INT32_MAX;  // positions inside a word are 32 bits wide

// A trie of the tokens that are cut out of the text as they are spelled.
class SpecialTokens {
public:
    struct Match {
        int32_t token = -1;
        size_t n_bytes = 0;
    };

    void add(std::string_view text, int32_t token, bool is_control) {
        int32_t node = 0;
        for (const char byte : text) {
            int32_t child = find_child(node, byte);
            if (child < 0) {
                child = static_cast<int32_t>(nodes_.size());
                nodes_.push_back({.sibling = nodes_[node].child, .byte = byte});
                nodes_[node].child = child;
            }
            node = child;
        }
        if (node == 0 || nodes_[node].token >= 0) return;  // an empty spelling matches nothing; the first one wins
        nodes_[node].token = token;
        nodes_[node].is_control = is_control;
    }

    // The longest one at the front of `text`.
    Match match(std::string_view text, bool with_control) const {
        Match longest;
        int32_t node = 0;
        for (size_t i = 0; i < text.size(); i++) {
            node = find_child(node, text[i]);
            if (node < 0) break;
            const Node &found = nodes_[node];
            if (found.token >= 0 && (with_control || !found.is_control)) longest = {found.token, i + 1};
        }
        return longest;
    }

private:
    struct Node {
        int32_t child = -1;    // first of its children
        int32_t sibling = -1;  // next child of its parent
        int32_t token = -1;
        char byte = 0;
        bool is_control = false;
    };

    int32_t find_child(int32_t node, char byte) const {
        int32_t child = nodes_[node].child;
        while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
        return child;
    }

    std::vector<Node> nodes_ = std::vector<Node>(1);
};

}  // namespace

struct Tokenizer::Data {
    std::string spellings;                 // all tokens, a NUL after each
    std::vector<std::string_view> tokens;  // by id, into spellings
    std::vector<TokenType> types;          // by id
    std::vector<float> scores;             // by id; empty: none
    TokenIndex ids;                        // by spelling, every type
    size_t longest_token = 0;              // bytes
    std::array<int32_t, 256> byte_ids;     // -1: the vocabulary has no token for this byte
    SpecialTokens specials;
    MergeTable merges;
    int32_t bos = -1, eos = -1, eot = -1, pad = -1;
    std::vector<int32_t> end_ids;
    bool wants_bos = false;
    std::string chat_template;
    Pretokenizer pretokenizer;

    Data() { byte_ids.fill(-1); }
    bool has(int32_t token) const { return token >= 0 && static_cast<size_t>(token) < tokens.size(); }

    // The token that text may become: -1 when there is none, or when it is of a type that text never becomes by itself.
    int32_t text_token(std::string_view spelling) const {
        const int32_t token = ids.find(spelling);
        const TokenType type = token < 0 ? TokenType::unused : types[token];
        return type == TokenType::normal || type == TokenType::byte ? token : -1;
    }

    void copy_tokens(const Vocabulary &vocabulary);
    void index_tokens(std::vector<std::string> &warnings);
    void index_bytes(std::vector<std::string> &warnings);
    void index_merges(const std::vector<std::string_view> &pairs, std::vector<std::string> &warnings);
    void find_end_ids();

    // Append to `out`; throw Error(unsupported) for a byte that the vocabulary lacks.
    void encode_plain(std::string_view text, WordMerger &merger, std::vector<int32_t> &out) const;
    void encode_word(std::string_view word, WordMerger &merger, std::vector<int32_t> &out) const;
    void encode_bytes(std::string_view bytes, std::vector<int32_t> &out) const;
};

void Tokenizer::Data::copy_tokens(const Vocabulary &vocabulary) {
    size_t n_bytes = 0;
    for (const std::string_view token : vocabulary.tokens) n_bytes += token.size() + 1;
    spellings.reserve(n_bytes);  // so that the views stay valid
    tokens.reserve(vocabulary.tokens.size());
    for (const std::string_view token : vocabulary.tokens) {
        const size_t begin = spellings.size();
        spellings.append(token).push_back('\0');
        tokens.emplace_back(spellings.data() + begin, token.size());
        longest_token = std::max(longest_token, token.size());
    }
    types = vocabulary.types;
    types.resize(tokens.size(), TokenType::normal);
    scores = vocabulary.scores;
}

void Tokenizer::Data::index_tokens(std::vector<std::string> &warnings) {
    ids = TokenIndex(tokens.size());
    size_t n_duplicates = 0;
    int32_t duplicate = -1;
    for (size_t i = 0; i < tokens.size(); i++) {
        const auto id = static_cast<int32_t>(i);
        if (!ids.add(tokens[i], id)) {
            if (n_duplicates++ == 0) duplicate = id;
            continue;
        }
        const bool is_control = types[i] == TokenType::control;
        if (is_control || types[i] == TokenType::user_defined) specials.add(tokens[i], id, is_control);
    }
    if (n_duplicates > 0) {
        const std::string_view text = tokens[duplicate];
        warnings.push_back(
            format_text("key 'tokenizer.ggml.tokens': %zu repeated tokens, first %d, '%s', which is also %d: "
                        "text becomes the lower id",
                        n_duplicates, duplicate, quoted(text.data(), text.size()).c_str(), ids.find(text)));
    }
}

void Tokenizer::Data::index_bytes(std::vector<std::string> &warnings) {
    int n_missing = 0, missing = -1;
    for (int byte = 0; byte < 256; byte++) {
        byte_ids[byte] = text_token(byte_alphabet().spelling(static_cast<unsigned char>(byte)));
        if (byte_ids[byte] < 0 && n_missing++ == 0) missing = byte;
    }
    if (n_missing > 0) {
        warnings.push_back(
            format_text("key 'tokenizer.ggml.tokens': %d of the 256 bytes are missing, first 0x%02x: text "
                        "that needs one of them cannot be encoded",
                        n_missing, missing));
    }
}

void Tokenizer::Data::index_merges(const std::vector<std::string_view> &pairs, std::vector<std::string> &warnings) {
    merges = MergeTable(pairs.size());
    size_t n_unknown = 0, unknown = 0;
    std::string joined;
    for (size_t rank = 0; rank < pairs.size(); rank++) {
        const std::string_view pair = pairs[rank];
        const size_t space = pair.find(' ');
        const std::string_view left = pair.substr(0, space);
        const std::string_view right = space == pair.npos ? std::string_view() : pair.substr(space + 1);
        joined.assign(left).append(right);
        const int32_t left_id = text_token(left), right_id = text_token(right), id = text_token(joined);
        if (left_id < 0 || right_id < 0 || id < 0) {
            if (n_unknown++ == 0) unknown = rank;
            continue;
        }
        merges.add(left_id, right_id, {static_cast<int32_t>(rank), id});
    }
    if (n_unknown > 0) {
        const std::string_view pair = pairs[unknown];
        warnings.push_back(
            format_text("key 'tokenizer.ggml.merges': %zu of %zu skipped, first %zu, '%s': a part or the "
                        "whole is no token of text",
                        n_unknown, pairs.size(), unknown, quoted(pair.data(), pair.size()).c_str()));
    }
}

void Tokenizer::Data::find_end_ids() {
    for (const int32_t id : {eos, eot}) {
        if (id >= 0) end_ids.push_back(id);
    }
    for (const std::string_view text :
         {"<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|endoftext|>", "</s>"}) {
        const int32_t id = ids.find(text);
        if (id >= 0 && types[id] == TokenType::control) end_ids.push_back(id);
    }
    std::sort(end_ids.begin(), end_ids.end());
    end_ids.erase(std::unique(end_ids.begin(), end_ids.end()), end_ids.end());
}

Tokenizer::Tokenizer() : data_(std::make_unique<Data>()) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer &&) noexcept = default;
Tokenizer &Tokenizer::operator=(Tokenizer &&) noexcept = default;

Tokenizer Tokenizer::from_gguf(const GgufFile &file, const std::string &architecture,
                               std::vector<std::string> &warnings) {
    return from_vocabulary(read_vocabulary(file, architecture, warnings), warnings);
}

Tokenizer Tokenizer::from_vocabulary(const Vocabulary &vocabulary, std::vector<std::string> &warnings) {
    Tokenizer tokenizer;
    Data &data = *tokenizer.data_;
    data.copy_tokens(vocabulary);
    data.index_tokens(warnings);
    data.index_bytes(warnings);
    data.index_merges(vocabulary.merges, warnings);
    data.bos = vocabulary.bos;
    data.eos = vocabulary.eos;
    data.eot = vocabulary.eot;
    data.pad = vocabulary.pad;
    data.find_end_ids();
    data.wants_bos = vocabulary.add_bos && vocabulary.bos >= 0;
    data.chat_template = vocabulary.chat_template;
    return tokenizer;
}

void Tokenizer::Data::encode_word(std::string_view word, WordMerger &merger, std::vector<int32_t> &out) const {
    if (word.size() <= longest_token) {  // a spelling is never shorter than its bytes
        std::string spelling;
        for (const char byte : word) spelling += byte_alphabet().spelling(static_cast<unsigned char>(byte));
        const int32_t whole = text_token(spelling);
        if (whole >= 0) {  // even where merges would not lead to it (ignore_merges)
            out.push_back(whole);
            return;
        }
    }
    const size_t n_before = out.size();
    encode_bytes(word, out);
    merger.merge(out, n_before);
}

void Tokenizer::Data::encode_bytes(std::string_view bytes, std::vector<int32_t> &out) const {
    for (const char byte : bytes) {
        const int32_t id = byte_ids[static_cast<unsigned char>(byte)];
        if (id < 0) {
            fail(Status::unsupported, "text: byte 0x%02x: expected only bytes that the vocabulary has tokens for",
                 static_cast<unsigned char>(byte));
        }
        out.push_back(id);
    }
}

void Tokenizer::Data::encode_plain(std::string_view text, WordMerger &merger, std::vector<int32_t> &out) const {
    PieceReader reader(pretokenizer, text);
    for (Piece piece; reader.next(piece);) {
        if (piece.is_text) {
            encode_word(piece.bytes, merger, out);
        } else {
            encode_bytes(piece.bytes, out);
        }
    }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_bos, bool parse_special) const {
    if (text.size() > text_bytes_max) {
        fail(Status::invalid, "text: %zu bytes: expected at most %zu", text.size(), text_bytes_max);
    }
    std::vector<int32_t> out;
    if (add_bos && data_->bos >= 0) out.push_back(data_->bos);
    WordMerger merger(data_->merges);
    size_t plain_begin = 0;
    for (size_t i = 0; i < text.size();) {
        const SpecialTokens::Match special = data_->specials.match(text.substr(i), parse_special);
        if (special.n_bytes == 0) {
            i++;
            continue;
        }
        data_->encode_plain(text.substr(plain_begin, i - plain_begin), merger, out);
        out.push_back(special.token);
        i += special.n_bytes;
        plain_begin = i;
    }
    data_->encode_plain(text.substr(plain_begin), merger, out);
    return out;
}

std::string Tokenizer::decode(const int32_t *tokens, size_t n, bool special) const {
    std::string out;
    for (size_t i = 0; i < n; i++) {
        if (!data_->has(tokens[i])) {
            fail(Status::invalid, "token %d at index %zu: expected 0 to %d", tokens[i], i, n_tokens() - 1);
        }
        const std::string_view text = data_->tokens[tokens[i]];
        const TokenType type = data_->types[tokens[i]];
        if (type == TokenType::control || type == TokenType::unknown) {
            if (special) out += text;
        } else if (type == TokenType::user_defined || !byte_alphabet().append_bytes(text, out)) {
            out += text;
        }
    }
    return out;
}

int Tokenizer::n_tokens() const { return static_cast<int>(data_->tokens.size()); }
const char *Tokenizer::text(int32_t token) const { return data_->has(token) ? data_->tokens[token].data() : nullptr; }
TokenType Tokenizer::type(int32_t token) const { return data_->has(token) ? data_->types[token] : TokenType{}; }
float Tokenizer::score(int32_t token) const {
    return data_->has(token) && !data_->scores.empty() ? data_->scores[token] : 0.0f;
}
int32_t Tokenizer::bos() const { return data_->bos; }
int32_t Tokenizer::eos() const { return data_->eos; }
int32_t Tokenizer::eot() const { return data_->eot; }
int32_t Tokenizer::pad() const { return data_->pad; }
const std::vector<int32_t> &Tokenizer::end_ids() const { return data_->end_ids; }
bool Tokenizer::wants_bos() const { return data_->wants_bos; }
const std::string &Tokenizer::chat_template() const { return data_->chat_template; }

}  // namespace bitnet
