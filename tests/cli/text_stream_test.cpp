#include "abi/cli/text_stream.h"

#include <gtest/gtest.h>

namespace {

using bitnet::TextStream;

// What the sink got, piece by piece.
struct Sent {
    std::vector<std::string> pieces;
    TextStream stream;
    explicit Sent(std::vector<std::string> stops = {})
        : stream(std::move(stops), [this](std::string_view piece) { pieces.emplace_back(piece); }) {}
    std::string all() const {
        std::string text;
        for (const std::string &piece : pieces) text += piece;
        return text;
    }
};

TEST(TextStream, HoldsACharacterBackUntilItIsWhole) {
    const std::string text = "a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80z";
    Sent sent;
    for (const char byte : text) sent.stream.push(std::string_view(&byte, 1));
    const std::vector<std::string> whole = {"a", "\xC3\xA9", "\xE6\x97\xA5", "\xF0\x9F\x98\x80", "z"};
    EXPECT_EQ(sent.pieces, whole);
    sent.stream.finish();
    EXPECT_EQ(sent.pieces, whole);
}

TEST(TextStream, LetsBytesThroughThatCanNeverBeACharacter) {
    Sent sent;
    for (const char *piece : {"\xFF", "\x80", "\xC0", "\xF5", "\xE6", "x"}) sent.stream.push(piece);
    EXPECT_EQ(sent.all(), "\xFF\x80\xC0\xF5\xE6x");
    EXPECT_EQ(sent.pieces.back(), "\xE6x");
}

TEST(TextStream, SendsAnUnfinishedCharacterAtTheEnd) {
    Sent sent;
    sent.stream.push("ab\xE6\x97");
    EXPECT_EQ(sent.all(), "ab");
    sent.stream.finish();
    EXPECT_EQ(sent.all(), "ab\xE6\x97");
}

TEST(TextStream, NeverSendsAnyPartOfAStopString) {
    Sent sent({"END", "\n\n"});
    for (const char *piece : {"oneE", "N", "two", "\n", "E", "ND", "never"}) sent.stream.push(piece);
    EXPECT_TRUE(sent.stream.stopped());
    sent.stream.finish();
    EXPECT_EQ(sent.all(), "oneENtwo\n");
    EXPECT_EQ(sent.stream.text(), "oneENtwo\n");
    EXPECT_EQ(sent.pieces.front(), "one");
}

TEST(TextStream, TakesTheFirstOfSeveralStopStrings) {
    Sent sent({"cd", "bcde"});
    sent.stream.push("ab");
    sent.stream.push("cdef");
    EXPECT_TRUE(sent.stream.stopped());
    EXPECT_EQ(sent.all(), "a");
}

TEST(TextStream, FindsAStopStringOneByteAtATime) {
    const std::string stop = "aab", text = "xaaaby";
    Sent sent({stop});
    for (const char byte : text) sent.stream.push(std::string_view(&byte, 1));
    EXPECT_TRUE(sent.stream.stopped());
    EXPECT_EQ(sent.all(), "xa");
}

TEST(TextStream, WhatOnlyBeganLikeAStopStringIsSentAtTheEnd) {
    Sent sent({"stop", ""});
    sent.stream.push("do not sto");
    EXPECT_EQ(sent.all(), "do not ");
    sent.stream.finish();
    EXPECT_FALSE(sent.stream.stopped());
    EXPECT_EQ(sent.all(), "do not sto");
}

}  // namespace
