#include "abi/cli/synthetic_vocabulary.h"

#include <stdexcept>

namespace bitnet {

namespace {

constexpr int token_normal = 1;
constexpr int token_control = 3;
constexpr int n_letters = 26;
constexpr int four_letter_step = 5;  // spreads the words of four letters that there is room for over the alphabet

std::string utf8(uint32_t code_point) {  // below U+0800, which is all that bytes map to
    if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
    return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

// GPT-2's spelling of the bytes, in the order of its vocabulary: the printable ones stand for themselves, then come the
// others as U+0100 and up.
std::vector<std::string> byte_spellings() {
    std::vector<std::string> spellings;
    uint32_t n_others = 0;
    const auto printable_byte = [](uint32_t b) {
        return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    };
    for (uint32_t b = 0; b < 256; b++) {
        if (printable_byte(b)) spellings.push_back(utf8(b));
    }
    for (uint32_t b = 0; b < 256; b++) {
        if (!printable_byte(b)) spellings.push_back(utf8(0x100 + n_others++));
    }
    return spellings;
}

// Words as their symbols: a letter each, but the first may be a space (spelled U+0120).
using Word = std::vector<std::string>;

Word word_of(int first, int rest, int n_rest) {
    Word word(static_cast<size_t>(n_rest) + 1);
    for (int i = n_rest; i > 0; i--, rest /= n_letters)
        word[static_cast<size_t>(i)] = static_cast<char>('a' + rest % n_letters);
    word[0] = first == n_letters ? utf8(0x120) : std::string(1, static_cast<char>('a' + first));
    return word;
}

// All words of two letters, then of three, then as many of four as wanted, those behind a space first.
std::vector<Word> make_words(size_t n_words) {
    std::vector<Word> words;
    int n_rests = 1;
    for (int n_rest = 1; n_rest <= 2; n_rest++) {
        n_rests *= n_letters;
        for (int i = 0; i < (n_letters + 1) * n_rests && words.size() < n_words; i++) {
            words.push_back(word_of(i / n_rests, i % n_rests, n_rest));
        }
    }
    n_rests *= n_letters;
    for (int i = 0; i < n_rests && words.size() < n_words; i++) words.push_back(word_of(n_letters, i, 3));
    for (int i = 0; i < n_letters * n_rests && words.size() < n_words; i += four_letter_step) {
        words.push_back(word_of(i / n_rests, i % n_rests, 3));
    }
    if (words.size() < n_words) throw std::logic_error("not enough made-up words for this vocabulary");
    return words;
}

std::string joined(const Word &word, size_t from, size_t to) {
    std::string text;
    for (size_t i = from; i < to; i++) text += word[i];
    return text;
}

// Splits of words of `n_symbols` symbols after the first `n_left`.
void add_merges(std::vector<std::string> &merges, const std::vector<Word> &words, size_t n_symbols, size_t n_left,
                size_t merges_max) {
    for (const Word &word : words) {
        if (word.size() != n_symbols || merges.size() >= merges_max) continue;
        merges.push_back(joined(word, 0, n_left) + " " + joined(word, n_left, n_symbols));
    }
}

std::string special_name(int index) {
    switch (index) {
    case 0: return "<|begin_of_text|>";
    case 1: return "<|end_of_text|>";
    case 6: return "<|start_header_id|>";
    case 7: return "<|end_header_id|>";
    case 9: return "<|eot_id|>";
    default: break;
    }
    const int number = index < 6 ? index - 2 : index == 8 ? 4 : index - 5;
    return "<|reserved_special_token_" + std::to_string(number) + "|>";
}

}  // namespace

SyntheticVocabulary make_vocabulary(int n_vocab, size_t merges_max) {
    SyntheticVocabulary vocabulary;
    vocabulary.tokens = byte_spellings();
    const std::vector<Word> words = make_words(static_cast<size_t>(n_vocab - byte_tokens - special_tokens));
    for (const Word &word : words) vocabulary.tokens.push_back(joined(word, 0, word.size()));
    vocabulary.types.assign(vocabulary.tokens.size(), token_normal);
    vocabulary.bos = static_cast<int32_t>(vocabulary.tokens.size());
    vocabulary.eos = vocabulary.bos + 1;
    for (int i = 0; i < special_tokens; i++) vocabulary.tokens.push_back(special_name(i));
    vocabulary.types.resize(vocabulary.tokens.size(), token_control);
    // In this order no word is missed: of "wxyz", (x y) first leads over (w xy) to (wxy z), all else to (wx yz).
    add_merges(vocabulary.merges, words, 2, 1, merges_max);
    add_merges(vocabulary.merges, words, 3, 1, merges_max);
    add_merges(vocabulary.merges, words, 3, 2, merges_max);
    add_merges(vocabulary.merges, words, 4, 2, merges_max);
    add_merges(vocabulary.merges, words, 4, 3, merges_max);
    add_merges(vocabulary.merges, words, 4, 1, merges_max);
    return vocabulary;
}

}  // namespace bitnet
