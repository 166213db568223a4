// Section 6 of the header: text to tokens and back.
#include <random>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

std::vector<int32_t> tokenize(const bitnet_model_t *model, const std::string &text, uint32_t flags = 0) {
    std::vector<int32_t> tokens(bitnet_tokenize_bound(text.size()));
    size_t n = tokens.size();
    EXPECT_OK(bitnet_tokenize_text(model, text.data(), text.size(), flags, tokens.data(), &n));
    tokens.resize(n);
    return tokens;
}

std::string detokenize(const bitnet_model_t *model, const std::vector<int32_t> &tokens, uint32_t flags = 0) {
    size_t n = 0;
    EXPECT_OK(bitnet_detokenize(model, tokens.data(), tokens.size(), flags, nullptr, &n));
    std::string text(n, '?');
    EXPECT_OK(bitnet_detokenize(model, tokens.data(), tokens.size(), flags, text.data(), &n));
    EXPECT_EQ(text.back(), '\0');
    text.pop_back();
    return text;
}

TEST(Tokens, RoundTripOfAnyBytesWithinTheBound) {
    const Model model = load();
    std::mt19937 random(1);
    for (int length = 0; length < 300; ++length) {
        std::string text;
        for (int i = 0; i < length; ++i) text += char(random());
        EXPECT_EQ(detokenize(model.get(), tokenize(model.get(), text)), text) << "length " << length;
        EXPECT_LE(tokenize(model.get(), text, BITNET_TOKENIZE_ADD_BOS).size(), bitnet_tokenize_bound(text.size()));
    }
}

TEST(Tokens, Flags) {
    const Model model = load();
    const int32_t bos = bitnet_token_special(model.get(), BITNET_SPECIAL_BOS);
    const int32_t eos = bitnet_token_special(model.get(), BITNET_SPECIAL_EOS);
    EXPECT_EQ(bos, 509);
    EXPECT_EQ(eos, 510);
    EXPECT_EQ(bitnet_token_wants_bos(model.get()), 1);
    EXPECT_EQ(bitnet_token_special(model.get(), BITNET_SPECIAL_PAD), -1);
    int32_t ends[2];
    size_t n_ends = 2;
    ASSERT_OK(bitnet_token_end_ids(model.get(), ends, &n_ends));
    EXPECT_EQ(ends[0], eos);
    EXPECT_EQ(ends[1], 511);  // <|eot_id|>, which no key of this file names
    EXPECT_STREQ(bitnet_token_text(model.get(), ends[1]), "<|eot_id|>");
    EXPECT_EQ(bitnet_token_special(model.get(), 99), -1);
    EXPECT_EQ(bitnet_token_special(model.get(), -1), -1);
    std::vector<int32_t> with_bos = tokenize(model.get(), "a b", BITNET_TOKENIZE_ADD_BOS);
    EXPECT_EQ(with_bos.front(), bos);
    with_bos.erase(with_bos.begin());
    EXPECT_EQ(with_bos, tokenize(model.get(), "a b"));

    const std::string special = bitnet_token_text(model.get(), eos);
    ASSERT_FALSE(special.empty());
    EXPECT_EQ(tokenize(model.get(), special, BITNET_TOKENIZE_PARSE_SPECIAL), std::vector<int32_t>{eos});
    EXPECT_GT(tokenize(model.get(), special).size(), 1u);
    EXPECT_EQ(detokenize(model.get(), {eos}), "");
    EXPECT_EQ(detokenize(model.get(), {eos}, BITNET_DETOKENIZE_SPECIAL), special);
    EXPECT_EQ(bitnet_token_type(model.get(), eos), BITNET_TOKEN_CONTROL);
    EXPECT_EQ(bitnet_token_type(model.get(), 65), BITNET_TOKEN_NORMAL);
    size_t n = 0;
    expect_error(bitnet_tokenize_text(model.get(), "a", 1, 4, nullptr, &n), BITNET_E_INVALID, {"flags", "0x4"});
    expect_error(bitnet_detokenize(model.get(), &eos, 1, 2, nullptr, &n), BITNET_E_INVALID, {"flags", "0x2"});
}

TEST(Tokens, LengthIsTheCallersOrUpToTheNul) {
    const Model model = load();
    EXPECT_EQ(tokenize(model.get(), std::string("a\0b", 3)).size(), 3u);
    size_t n = 0;
    ASSERT_OK(bitnet_tokenize_text(model.get(), "a\0b", SIZE_MAX, 0, nullptr, &n));
    EXPECT_EQ(n, 1u);
    ASSERT_OK(bitnet_tokenize_text(model.get(), "abc", 2, 0, nullptr, &n));
    EXPECT_EQ(n, 2u);
}

TEST(Tokens, OutOfRange) {
    const Model model = load();
    for (const int32_t token : {-1, n_vocab, INT32_MAX, INT32_MIN}) {
        EXPECT_EQ(bitnet_token_text(model.get(), token), nullptr);
        EXPECT_EQ(bitnet_token_type(model.get(), token), 0);
        EXPECT_EQ(bitnet_token_score(model.get(), token), 0.0f);
        size_t n = 0;
        expect_error(bitnet_detokenize(model.get(), &token, 1, 0, nullptr, &n), BITNET_E_INVALID,
                     {std::to_string(token)});
    }
    for (int32_t token = 0; token < n_vocab; ++token) EXPECT_NE(bitnet_token_text(model.get(), token), nullptr);
    EXPECT_STREQ(bitnet_chat_template(model.get()), "");
}

}  // namespace
}  // namespace bitnet_test
