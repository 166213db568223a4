#include "model/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace bitnet {
namespace {

// A power of two that leaves at least half of the slots free, so that probing ends soon, and ends.
size_t slot_count(size_t n_entries) { return std::bit_ceil(2 * n_entries + 1); }

}  // namespace

ByteAlphabet::ByteAlphabet() {
    byte_of_.fill(-1);
    int next_other = 256;
    for (int byte = 0; byte < 256; byte++) {
        const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        const int character = printable ? byte : next_other++;
        byte_of_[character] = static_cast<int16_t>(byte);
        if (character < 0x80) {
            spelling_[byte].assign(1, static_cast<char>(character));
        } else {
            spelling_[byte] = {static_cast<char>(0xC0 | character >> 6), static_cast<char>(0x80 | (character & 0x3F))};
        }
    }
}

bool ByteAlphabet::append_bytes(std::string_view token, std::string &out) const {
    const size_t size_before = out.size();
    for (size_t i = 0; i < token.size(); i++) {
        int character = static_cast<unsigned char>(token[i]);
        if (character >= 0xC2 && character <= 0xC5 && i + 1 < token.size()) {
            const int second = static_cast<unsigned char>(token[++i]);
            character = (second & 0xC0) == 0x80 ? (character & 0x1F) << 6 | (second & 0x3F) : -1;
        } else if (character >= 0x80) {
            character = -1;
        }
        if (character < 0 || character >= n_characters || byte_of_[character] < 0) {
            out.resize(size_before);
            return false;
        }
        out.push_back(static_cast<char>(byte_of_[character]));
    }
    return true;
}

const ByteAlphabet &byte_alphabet() {
    static const ByteAlphabet alphabet;
    return alphabet;
}

TokenIndex::TokenIndex(size_t n_tokens) : slots_(slot_count(n_tokens)) {}

size_t TokenIndex::slot_of(std::string_view spelling) const {
    const size_t mask = slots_.size() - 1;
    size_t i = std::hash<std::string_view>()(spelling) & mask;
    while (slots_[i].token >= 0 && slots_[i].spelling != spelling) i = (i + 1) & mask;
    return i;
}

bool TokenIndex::add(std::string_view spelling, int32_t token) {
    Slot &slot = slots_[slot_of(spelling)];
    if (slot.token >= 0) return false;
    slot = {spelling, token};
    return true;
}

int32_t TokenIndex::find(std::string_view spelling) const { return slots_[slot_of(spelling)].token; }

MergeTable::MergeTable(size_t n_merges) : slots_(slot_count(n_merges)) {}

size_t MergeTable::slot_of(uint64_t pair) const {
    const size_t mask = slots_.size() - 1;
    const uint64_t mixed = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    size_t i = (mixed >> 32) & mask;
    while (slots_[i].merge.rank >= 0 && slots_[i].pair != pair) i = (i + 1) & mask;
    return i;
}

void MergeTable::add(int32_t left, int32_t right, Merge merge) {
    const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    Slot &slot = slots_[slot_of(pair)];
    if (slot.merge.rank < 0) slot = {pair, merge};
}

const Merge *MergeTable::find(int32_t left, int32_t right) const {
    const Slot &slot = slots_[slot_of(static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right))];
    return slot.merge.rank < 0 ? nullptr : &slot.merge;
}

void WordMerger::merge(std::vector<int32_t> &tokens, size_t begin) {
    symbols_.clear();
    candidates_.clear();
    const auto n = static_cast<int32_t>(tokens.size() - begin);
    for (int32_t i = 0; i < n; i++) symbols_.push_back({tokens[begin + i], i - 1, i + 1 < n ? i + 1 : -1});
    for (int32_t i = 0; i + 1 < n; i++) add_candidate(i);
    std::make_heap(candidates_.begin(), candidates_.end(), later);
    while (!candidates_.empty()) {
        std::pop_heap(candidates_.begin(), candidates_.end(), later);
        const Candidate candidate = candidates_.back();
        candidates_.pop_back();
        if (is_current(candidate)) join(candidate);
    }
    tokens.resize(begin);
    for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols_[i].next) tokens.push_back(symbols_[i].token);
}

bool WordMerger::later(const Candidate &a, const Candidate &b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

// Appends the pair that begins at `position` if it is a merge.
bool WordMerger::add_candidate(int32_t position) {
    const int32_t left = symbols_[position].token, right = symbols_[symbols_[position].next].token;
    const Merge *merge = merges_.find(left, right);
    if (merge) candidates_.push_back({merge->rank, position, left, right, merge->token});
    return merge != nullptr;
}

void WordMerger::push_candidate(int32_t position) {
    if (add_candidate(position)) std::push_heap(candidates_.begin(), candidates_.end(), later);
}

// A candidate is left behind in the heap when one of its symbols was joined to another.
bool WordMerger::is_current(const Candidate &candidate) const {
    const Symbol &left = symbols_[candidate.position];
    return left.token == candidate.left && left.next >= 0 && symbols_[left.next].token == candidate.right;
}

void WordMerger::join(const Candidate &candidate) {
    Symbol &left = symbols_[candidate.position];
    Symbol &right = symbols_[left.next];
    left.token = candidate.joined;
    left.next = right.next;
    right.token = -1;
    if (left.next >= 0) {
        symbols_[left.next].previous = candidate.position;
        push_candidate(candidate.position);
    }
    if (left.previous >= 0) push_candidate(left.previous);
}

}  // namespace bitnet
