// Cuts text into the words that BPE works on: the LLaMA-3 expression over well-formed UTF-8, other bytes by themselves.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace bitnet {

struct Piece {
    std::string_view bytes;  // never empty; a part of the reader's text
    bool is_text;            // false: a maximal run of bytes that belong to no well-formed UTF-8 sequence
};

// The compiled expression; immutable, usable by many threads at once.
class Pretokenizer {
public:
    Pretokenizer();  // throws Error(internal) when PCRE2 lacks Unicode properties
    ~Pretokenizer();
    Pretokenizer(const Pretokenizer &) = delete;
    Pretokenizer &operator=(const Pretokenizer &) = delete;

private:
    friend class PieceReader;
    struct Pattern;
    std::unique_ptr<const Pattern> pattern_;
};

// Reads the pieces of `text` in order; together they are `text`. Both arguments must outlive it. One thread.
class PieceReader {
public:
    PieceReader(const Pretokenizer &pretokenizer, std::string_view text);
    ~PieceReader();
    PieceReader(const PieceReader &) = delete;
    PieceReader &operator=(const PieceReader &) = delete;

    bool next(Piece &piece);  // false at the end

private:
    size_t match_end();  // of the word that begins at position_

    struct Match;
    const Pretokenizer &pretokenizer_;
    std::unique_ptr<Match> match_;
    std::string_view text_;
    size_t position_ = 0;
    size_t run_begin_ = 0;  // the run of well-formed UTF-8 around position_
    size_t run_end_ = 0;
};

// Length of the well-formed UTF-8 sequence at the front of `text`, 1 to 4; 0 when there is none (Unicode, table 3-7: no
// overlong forms, no surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view text);

}  // namespace bitnet
