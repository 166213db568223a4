#include "abi/cli/synthetic_vocabulary.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

namespace {

using bitnet::make_vocabulary;
using bitnet::SyntheticVocabulary;

constexpr int llama3_tokens = 128256;
constexpr size_t llama3_merges = 280147;
constexpr size_t n_specials = 256;

using Ranks = std::map<std::pair<std::string, std::string>, size_t>;

Ranks ranks_of(const SyntheticVocabulary &vocabulary) {
    Ranks ranks;
    for (const std::string &merge : vocabulary.merges) {
        const size_t space = merge.find(' ');
        EXPECT_TRUE(ranks.emplace(std::pair(merge.substr(0, space), merge.substr(space + 1)), ranks.size()).second)
            << merge;
    }
    return ranks;
}

std::vector<std::string> characters(const std::string &text) {
    std::vector<std::string> out;
    for (const char byte : text) {
        if ((static_cast<unsigned char>(byte) & 0xC0) != 0x80) out.emplace_back();
        out.back() += byte;
    }
    return out;
}

// Byte-pair encoding without the rule that takes whole words of the vocabulary as they are.
size_t parts_after_merging(const Ranks &ranks, std::vector<std::string> parts) {
    for (;;) {
        size_t best_rank = SIZE_MAX, best = 0;
        for (size_t i = 0; i + 1 < parts.size(); i++) {
            const auto found = ranks.find({parts[i], parts[i + 1]});
            if (found != ranks.end() && found->second < best_rank) best_rank = found->second, best = i;
        }
        if (best_rank == SIZE_MAX) return parts.size();
        parts[best] += parts[best + 1];
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
}

TEST(SyntheticVocabulary, HasTheSizesOfLlama3AndNoDuplicates) {
    const SyntheticVocabulary vocabulary = make_vocabulary(llama3_tokens, llama3_merges);
    EXPECT_EQ(vocabulary.tokens.size(), size_t(llama3_tokens));
    EXPECT_EQ(vocabulary.types.size(), vocabulary.tokens.size());
    EXPECT_EQ(vocabulary.merges.size(), llama3_merges);
    EXPECT_EQ(std::set<std::string>(vocabulary.tokens.begin(), vocabulary.tokens.end()).size(),
              vocabulary.tokens.size());
}

TEST(SyntheticVocabulary, NamesSpecialsAsLlama3Does) {
    const SyntheticVocabulary vocabulary = make_vocabulary(llama3_tokens, llama3_merges);
    EXPECT_EQ(vocabulary.bos, 128000);
    EXPECT_EQ(vocabulary.eos, 128001);
    const std::map<size_t, std::string> names = {
        {128000, "<|begin_of_text|>"},
        {128001, "<|end_of_text|>"},
        {128002, "<|reserved_special_token_0|>"},
        {128005, "<|reserved_special_token_3|>"},
        {128006, "<|start_header_id|>"},
        {128007, "<|end_header_id|>"},
        {128008, "<|reserved_special_token_4|>"},
        {128009, "<|eot_id|>"},
        {128010, "<|reserved_special_token_5|>"},
        {128255, "<|reserved_special_token_250|>"},
    };
    for (const auto &[id, name] : names) EXPECT_EQ(vocabulary.tokens[id], name);
    for (size_t id = 0; id < vocabulary.types.size(); id++) EXPECT_EQ(vocabulary.types[id], id < 128000 ? 1 : 3) << id;
}

TEST(SyntheticVocabulary, SpellsBytesInTheOrderOfGpt2) {
    const SyntheticVocabulary vocabulary = make_vocabulary(1024, llama3_merges);
    EXPECT_EQ(vocabulary.tokens[0], "!");
    EXPECT_EQ(vocabulary.tokens[15], "0");
    EXPECT_EQ(vocabulary.tokens[93], "~");
    EXPECT_EQ(vocabulary.tokens[94], "\xC2\xA1");   // U+00A1
    EXPECT_EQ(vocabulary.tokens[187], "\xC3\xBF");  // U+00FF
    EXPECT_EQ(vocabulary.tokens[188], "\xC4\x80");  // byte 0 is U+0100
    EXPECT_EQ(vocabulary.tokens[220], "\xC4\xA0");  // the space is U+0120
}

TEST(SyntheticVocabulary, EveryTokenIsReachedByMergesAlone) {
    for (const int n_vocab : {1024, llama3_tokens}) {
        const SyntheticVocabulary vocabulary = make_vocabulary(n_vocab, llama3_merges);
        const std::set<std::string> tokens(vocabulary.tokens.begin(), vocabulary.tokens.end());
        const Ranks ranks = ranks_of(vocabulary);
        for (const auto &[parts, rank] : ranks) {
            ASSERT_TRUE(tokens.contains(parts.first) && tokens.contains(parts.second))
                << parts.first << " " << parts.second;
            ASSERT_TRUE(tokens.contains(parts.first + parts.second)) << parts.first << " " << parts.second;
        }
        for (size_t id = 0; id < vocabulary.tokens.size() - n_specials; id++) {
            ASSERT_EQ(parts_after_merging(ranks, characters(vocabulary.tokens[id])), 1u) << vocabulary.tokens[id];
        }
    }
}

}  // namespace
