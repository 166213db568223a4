// Byte-pair encoding of one word: the byte alphabet, the vocabulary's index, and the merging.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet {

// GPT-2's spelling of bytes: printable Latin-1 as itself, the others as U+0100 and up in the order of their values.
class ByteAlphabet {
public:
    ByteAlphabet();

    const std::string &spelling(unsigned char byte) const { return spelling_[byte]; }

    // Appends the bytes that `token` spells; false, with nothing appended, when a character is not of the alphabet.
    bool append_bytes(std::string_view token, std::string &out) const;

private:
    static constexpr int n_characters = 256 + 68;  // 68 bytes are not printable
    std::array<std::string, 256> spelling_;
    std::array<int16_t, n_characters> byte_of_;  // -1: of no byte
};

const ByteAlphabet &byte_alphabet();

// Token by spelling, and merge by pair, as hash tables with linear probing: a vocabulary has hundreds of thousands of
// entries, and node-based containers would take most of the time that a model needs to load.
class TokenIndex {
public:
    explicit TokenIndex(size_t n_tokens = 0);
    // `spelling` is borrowed. False, with nothing changed, when it is there already.
    bool add(std::string_view spelling, int32_t token);
    int32_t find(std::string_view spelling) const;  // -1: not there

private:
    struct Slot {
        std::string_view spelling;
        int32_t token = -1;
    };
    size_t slot_of(std::string_view spelling) const;
    std::vector<Slot> slots_;
};

struct Merge {
    int32_t rank;
    int32_t token;  // what the pair becomes
};

class MergeTable {
public:
    explicit MergeTable(size_t n_merges = 0);
    void add(int32_t left, int32_t right, Merge merge);    // the first of equal pairs stays
    const Merge *find(int32_t left, int32_t right) const;  // nullptr: no merge

private:
    struct Slot {
        uint64_t pair = 0;
        Merge merge{-1, -1};  // rank -1: free
    };
    size_t slot_of(uint64_t pair) const;
    std::vector<Slot> slots_;
};

// Merges the byte tokens of one word: always the pair of lowest rank, the leftmost of these. A linked list of symbols
// and a heap of candidate pairs make it O(n log n) in the length of the word. Keeps its memory from word to word.
class WordMerger {
public:
    explicit WordMerger(const MergeTable &merges) : merges_(merges) {}

    // `tokens` from `begin` on: the word, one token a byte, fewer than 2^31; replaced by the result.
    void merge(std::vector<int32_t> &tokens, size_t begin);

private:
    struct Symbol {
        int32_t token;     // -1: joined to the one before
        int32_t previous;  // -1: none
        int32_t next;
    };
    struct Candidate {
        int32_t rank;
        int32_t position;  // of the left symbol
        int32_t left, right, joined;
    };

    static bool later(const Candidate &a, const Candidate &b);
    bool add_candidate(int32_t position);
    void push_candidate(int32_t position);
    bool is_current(const Candidate &candidate) const;
    void join(const Candidate &candidate);

    const MergeTable &merges_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> candidates_;
};

}  // namespace bitnet
