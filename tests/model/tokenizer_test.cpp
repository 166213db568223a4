// The tokenizer on small made vocabularies. The real one of LLaMA-3: tests/npm.
#include "model/tokenizer.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "model/error.h"
#include "model/vocabulary.h"

namespace bitnet {
namespace {

using Ids = std::vector<int32_t>;
using Strings = std::vector<std::string>;
using namespace std::string_literals;

std::string spelled(const std::string &bytes) {
    std::string text;
    int others = 0;
    std::string spelling[256];
    for (int byte = 0; byte < 256; byte++) {
        const bool printable = ('!' <= byte && byte <= '~') || (0xA1 <= byte && byte <= 0xAC) || byte >= 0xAE;
        const int character = printable ? byte : 256 + others++;
        if (character < 0x80)
            spelling[byte] = std::string(1, static_cast<char>(character));
        else
            spelling[byte] = {static_cast<char>(0xC0 + character / 64), static_cast<char>(0x80 + character % 64)};
    }
    for (const char byte : bytes) text += spelling[static_cast<unsigned char>(byte)];
    return text;
}

// 256 byte tokens with id == byte, then one token a merge, then what is added by hand.
class VocabularyMaker {
public:
    VocabularyMaker() {
        for (int byte = 0; byte < 256; byte++) add(spelled(std::string(1, static_cast<char>(byte))));
    }

    int32_t add(const std::string &text, TokenType type = TokenType::normal) {
        tokens.push_back(text);
        types.push_back(type);
        return static_cast<int32_t>(tokens.size()) - 1;
    }

    int32_t merge(const std::string &left, const std::string &right) {
        merges.push_back(spelled(left) + " " + spelled(right));
        return add(spelled(left + right));
    }

    Tokenizer make() {
        Vocabulary vocabulary = settings;
        vocabulary.tokens.assign(tokens.begin(), tokens.end());
        vocabulary.types = types;
        vocabulary.merges.assign(merges.begin(), merges.end());
        warnings.clear();
        return Tokenizer::from_vocabulary(vocabulary, warnings);
    }

    std::vector<std::string> tokens;
    std::vector<TokenType> types;
    std::vector<std::string> merges;
    Vocabulary settings;
    std::vector<std::string> warnings;
};

std::string decode(const Tokenizer &tokenizer, const Ids &ids, bool special = true) {
    return tokenizer.decode(ids.data(), ids.size(), special);
}

Ids bytes_of(const std::string &text) {
    Ids ids;
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
}

double seconds_of(const std::function<void()> &work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(Tokenizer, MergesLowestRankFirstThenLeftmost) {
    VocabularyMaker maker;
    const int32_t bc = maker.merge("b", "c");
    const int32_t ab = maker.merge("a", "b");
    const int32_t aa = maker.merge("a", "a");
    const int32_t aaaa = maker.merge("aa", "aa");
    const Tokenizer tokenizer = maker.make();
    EXPECT_TRUE(maker.warnings.empty());
    EXPECT_EQ(tokenizer.encode("abc", false, false), (Ids{'a', bc}));
    EXPECT_EQ(tokenizer.encode("abx", false, false), (Ids{ab, 'x'}));
    EXPECT_EQ(tokenizer.encode("aaax", false, false), (Ids{aa, 'a', 'x'}));
    EXPECT_EQ(tokenizer.encode("aaaaaaax", false, false), (Ids{aaaa, aa, 'a', 'x'}));
    EXPECT_EQ(tokenizer.encode("aab", false, false), (Ids{'a', ab}));
    EXPECT_EQ(tokenizer.encode("aa\xFF"
                               "aa",
                               false, false),
              (Ids{aa, 0xFF, aa}));
}

// Merges by the definition: repeatedly the pair of lowest rank, the leftmost of these.
Ids merge_by_definition(const std::string &word, const std::vector<std::pair<std::string, std::string>> &merges) {
    Strings parts;
    for (const char byte : word) parts.emplace_back(1, byte);
    for (;;) {
        size_t best = merges.size(), at = 0;
        for (size_t i = 0; i + 1 < parts.size(); i++) {
            const auto rank = static_cast<size_t>(
                std::find(merges.begin(), merges.end(), std::pair(parts[i], parts[i + 1])) - merges.begin());
            if (rank < best) best = rank, at = i;
        }
        if (best == merges.size()) break;
        parts[at] += parts[at + 1];
        parts.erase(parts.begin() + static_cast<long>(at) + 1);
    }
    Ids ids;
    for (const std::string &part : parts) {
        const auto merged = std::find_if(merges.begin(), merges.end(),
                                         [&](const auto &merge) { return merge.first + merge.second == part; });
        ids.push_back(part.size() == 1 ? part[0] : 256 + static_cast<int32_t>(merged - merges.begin()));
    }
    return ids;
}

TEST(Tokenizer, MergesAsDefinedOnRandomVocabularies) {
    std::mt19937 random(1);
    for (int round = 0; round < 60; round++) {
        VocabularyMaker maker;
        std::vector<std::pair<std::string, std::string>> merges;
        Strings parts{"a", "b", "c"};
        while (merges.size() < 25) {
            const std::string left = parts[random() % parts.size()], right = parts[random() % parts.size()];
            if (std::find(parts.begin(), parts.end(), left + right) != parts.end()) continue;
            merges.emplace_back(left, right);
            parts.push_back(left + right);
            maker.merge(left, right);
        }
        const Tokenizer tokenizer = maker.make();
        for (int i = 0; i < 50; i++) {
            std::string word;
            for (size_t n = 1 + random() % 40; n > 0; n--) word += "abc"[random() % 3];
            if (std::find(parts.begin(), parts.end(), word) != parts.end()) continue;  // taken whole
            ASSERT_EQ(tokenizer.encode(word, false, false), merge_by_definition(word, merges)) << word;
        }
    }
}

TEST(Tokenizer, WholeWordsNeedNoMerges) {
    VocabularyMaker maker;
    const int32_t ab = maker.merge("a", "b");
    const int32_t abc = maker.add("abc");  // no merge makes it
    const int32_t space_abc = maker.add(spelled(" abc"));
    const Tokenizer tokenizer = maker.make();
    EXPECT_EQ(tokenizer.encode("abc abc", false, false), (Ids{abc, space_abc}));
    EXPECT_EQ(tokenizer.encode("abcx", false, false), (Ids{ab, 'c', 'x'}));
}

TEST(Tokenizer, RandomBytesComeBack) {
    VocabularyMaker maker;
    maker.settings.bos = maker.add("<|bos|>", TokenType::control);
    maker.merge("a", "b");
    maker.merge("\xE6", "\x97");
    maker.merge(" ", " ");
    maker.merge("\xC3", "\xA9");
    maker.add("<user>", TokenType::user_defined);
    const Tokenizer tokenizer = maker.make();
    std::mt19937 random(2);
    const Strings frequent{"ab", "  ", "é", "日本", "\n", "<user>", "<|bos|>", "\xE6\x97", "\0"s, "12", "'s"};
    for (int i = 0; i < 5000; i++) {
        std::string text;
        for (size_t n = random() % 40; n > 0; n--) {
            if (random() % 2)
                text += frequent[random() % frequent.size()];
            else
                text += static_cast<char>(random());
        }
        for (const bool parse_special : {false, true}) {
            const Ids ids = tokenizer.encode(text, false, parse_special);
            ASSERT_EQ(decode(tokenizer, ids), text);
            ASSERT_LE(ids.size(), text.size());
        }
    }
    std::string all;
    for (int byte = 0; byte < 256; byte++) all += static_cast<char>(byte);
    EXPECT_EQ(decode(tokenizer, tokenizer.encode(all, false, false)), all);
}

TEST(Tokenizer, ControlTokensOnlyOnRequest) {
    VocabularyMaker maker;
    const int32_t eot = maker.add("<|eot|>", TokenType::control);
    const int32_t word = maker.add("plain", TokenType::control);  // a whole word, but never from plain text
    maker.merges.push_back("p lain");
    const Tokenizer tokenizer = maker.make();
    EXPECT_EQ(maker.warnings.size(), 1u);
    EXPECT_EQ(tokenizer.encode("a<|eot|>plain", false, true), (Ids{'a', eot, word}));
    EXPECT_EQ(tokenizer.encode("a<|eot|>plain", false, false), bytes_of("a<|eot|>plain"));
    EXPECT_EQ(decode(tokenizer, {'a', eot, 'b'}, true), "a<|eot|>b");
    EXPECT_EQ(decode(tokenizer, {'a', eot, 'b'}, false), "ab");
}

TEST(Tokenizer, SpecialsAreCutOutLongestFirst) {
    VocabularyMaker maker;
    const int32_t x = maker.add("<x", TokenType::user_defined);
    const int32_t xy = maker.add("<xy", TokenType::control);
    const int32_t xyz = maker.add("<xyz >", TokenType::user_defined);
    maker.add("", TokenType::control);
    maker.add("unused", TokenType::unused);
    const int32_t unknown = maker.add("<unk>", TokenType::unknown);
    const int32_t ab = maker.merge("a", "b");
    const Tokenizer tokenizer = maker.make();
    EXPECT_EQ(tokenizer.encode("<xyz ><xyz<x", false, true), (Ids{xyz, xy, 'z', x}));
    EXPECT_EQ(tokenizer.encode("<xyz ><xyz<x", false, false), (Ids{xyz, x, 'y', 'z', x}));
    EXPECT_EQ(tokenizer.encode("<<xa<xb", false, false), (Ids{'<', x, 'a', x, 'b'}));  // no merge across
    EXPECT_EQ(tokenizer.encode("ab<xab", false, false), (Ids{ab, x, ab}));
    EXPECT_EQ(tokenizer.encode("a  <x", false, false), (Ids{'a', ' ', ' ', x}));
    EXPECT_EQ(tokenizer.encode("unused<unk>", false, true), bytes_of("unused<unk>"));
    EXPECT_EQ(decode(tokenizer, {xyz, unknown}, false), "<xyz >");
    EXPECT_EQ(decode(tokenizer, {xyz, unknown}, true), "<xyz ><unk>");
}

TEST(Tokenizer, BosAndRoles) {
    VocabularyMaker maker;
    EXPECT_EQ(maker.make().encode("a", true, false), (Ids{'a'}));  // there is none
    maker.settings.add_bos = true;
    EXPECT_FALSE(maker.make().wants_bos());
    const int32_t bos = maker.settings.bos = maker.add("<s>", TokenType::control);
    const int32_t im_end = maker.add("<|im_end|>", TokenType::control);
    maker.add("</s>");  // a normal token ends nothing
    const int32_t eot = maker.settings.eot = maker.add("<|eot_id|>", TokenType::control);
    const int32_t eos = maker.settings.eos = maker.add("<end>", TokenType::control);
    maker.settings.chat_template = "{{ x }}";
    const Tokenizer tokenizer = maker.make();
    EXPECT_EQ(tokenizer.encode("a", true, false), (Ids{bos, 'a'}));
    EXPECT_EQ(tokenizer.encode("", true, false), (Ids{bos}));
    EXPECT_EQ(tokenizer.encode("", false, false), Ids{});
    EXPECT_TRUE(tokenizer.wants_bos());
    EXPECT_EQ(tokenizer.end_ids(), (Ids{im_end, eot, eos}));
    EXPECT_EQ(tokenizer.eos(), eos);
    EXPECT_EQ(tokenizer.eot(), eot);
    EXPECT_EQ(tokenizer.pad(), -1);
    EXPECT_EQ(tokenizer.chat_template(), "{{ x }}");
}

TEST(Tokenizer, TokensAreReadable) {
    VocabularyMaker maker;
    const int32_t raw = maker.add("a b");  // not of the byte alphabet: decoded as it is spelled
    const Tokenizer tokenizer = maker.make();
    EXPECT_EQ(tokenizer.n_tokens(), 257);
    EXPECT_STREQ(tokenizer.text(' '), "Ġ");
    EXPECT_EQ(tokenizer.type(raw), TokenType::normal);
    EXPECT_EQ(tokenizer.score(raw), 0.0f);
    EXPECT_EQ(decode(tokenizer, {raw, ' '}), "a b ");
    EXPECT_EQ(tokenizer.text(257), nullptr);
    EXPECT_EQ(tokenizer.text(-1), nullptr);
    EXPECT_EQ(Tokenizer().n_tokens(), 0);
}

std::string error_of(Status status, const std::function<void()> &work) {
    try {
        work();
    } catch (const Error &error) {
        EXPECT_EQ(error.status, status) << error.what();
        return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
}

TEST(Tokenizer, DecodeRefusesIdsOutOfRange) {
    const Tokenizer tokenizer = VocabularyMaker().make();
    EXPECT_EQ(error_of(Status::invalid,
                       [&] {
                           decode(tokenizer, {1, 256});
                       }),
              "token 256 at index 1: expected 0 to 255");
    EXPECT_EQ(error_of(Status::invalid, [&] { decode(tokenizer, {-1}); }), "token -1 at index 0: expected 0 to 255");
}

TEST(Tokenizer, MissingBytesAreToldAndRefused) {
    VocabularyMaker maker;
    maker.types['b'] = TokenType::unused;
    maker.types[0xF5] = TokenType::control;
    const Tokenizer tokenizer = maker.make();
    ASSERT_EQ(maker.warnings.size(), 1u);
    EXPECT_EQ(maker.warnings[0],
              "key 'tokenizer.ggml.tokens': 2 of the 256 bytes are missing, first 0x62: text that needs "
              "one of them cannot be encoded");
    EXPECT_EQ(tokenizer.encode("ac", false, false), (Ids{'a', 'c'}));
    EXPECT_EQ(error_of(Status::unsupported, [&] { tokenizer.encode("abc", false, false); }),
              "text: byte 0x62: expected only bytes that the vocabulary has tokens for");
    EXPECT_EQ(error_of(Status::unsupported, [&] { tokenizer.encode("\xF5", false, false); }),
              "text: byte 0xf5: expected only bytes that the vocabulary has tokens for");
    EXPECT_EQ(error_of(Status::unsupported, [&] { Tokenizer().encode("a", false, false); }),
              "text: byte 0x61: expected only bytes that the vocabulary has tokens for");
}

TEST(Tokenizer, DuplicatesAndUnknownMergesAreTold) {
    VocabularyMaker maker;
    const int32_t first = maker.add("xy");
    const int32_t again = maker.add("xy");
    maker.merges = {"x y", "y z", "y zz", "x y"};
    maker.add("yz");
    const Tokenizer tokenizer = maker.make();
    ASSERT_EQ(maker.warnings.size(), 2u);
    EXPECT_EQ(maker.warnings[0],
              "key 'tokenizer.ggml.tokens': 1 repeated tokens, first 257, 'xy', which is also 256: text "
              "becomes the lower id");
    EXPECT_EQ(maker.warnings[1],
              "key 'tokenizer.ggml.merges': 1 of 4 skipped, first 2, 'y zz': a part or the whole is no "
              "token of text");
    EXPECT_EQ(tokenizer.encode("xy xyz", false, false), (Ids{first, ' ', first, 'z'}));
    EXPECT_EQ(decode(tokenizer, {again}), "xy");
}

TEST(Tokenizer, ThreadsShareIt) {
    VocabularyMaker maker;
    maker.merge("a", "b");
    maker.merge("ab", "ab");
    maker.add("<x>", TokenType::user_defined);
    const Tokenizer tokenizer = maker.make();
    std::string text;
    for (int i = 0; i < 2000; i++) text += "abababa  <x>\n日本 " + std::to_string(i) + "\xFF";
    const Ids expected = tokenizer.encode(text, false, true);
    std::vector<Ids> found(4);
    std::vector<std::thread> threads;
    for (Ids &ids : found) threads.emplace_back([&] { ids = tokenizer.encode(text, false, true); });
    for (std::thread &thread : threads) thread.join();
    for (const Ids &ids : found) EXPECT_EQ(ids, expected);
}

TEST(Tokenizer, OneLongWordIsNotQuadratic) {
    VocabularyMaker maker;
    for (std::string part = "a"; part.size() < 64; part += part) maker.merge(part, part);
    const Tokenizer tokenizer = maker.make();
    const std::string text(1 << 20, 'a');
    Ids ids;
    const double seconds = seconds_of([&] { ids = tokenizer.encode(text, false, true); });
    EXPECT_EQ(ids.size(), text.size() / 64);
    EXPECT_LT(seconds, 20.0);  // a quadratic algorithm takes minutes; this one less than a second
    EXPECT_EQ(decode(tokenizer, ids), text);
}

}  // namespace
}  // namespace bitnet
