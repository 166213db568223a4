// The words of a text: the LLaMA-3 expression, and bytes that are not UTF-8.
#include "model/pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bitnet {
namespace {

using namespace std::string_literals;
using Strings = std::vector<std::string>;

std::vector<std::string> pieces(const std::string &text) {
    static const Pretokenizer pretokenizer;
    std::vector<std::string> found;
    PieceReader reader(pretokenizer, text);
    for (Piece piece; reader.next(piece);)
        found.push_back((piece.is_text ? ""s : "invalid:"s) + std::string(piece.bytes));
    return found;
}

TEST(Pretokenizer, SplitsAsTheExpressionSays) {
    EXPECT_EQ(pieces(""), Strings{});
    EXPECT_EQ(pieces("Hello world!"), (Strings{"Hello", " world", "!"}));
    EXPECT_EQ(pieces("1234567890"), (Strings{"123", "456", "789", "0"}));
    EXPECT_EQ(pieces(" 12 345"), (Strings{" ", "12", " ", "345"}));
    EXPECT_EQ(pieces("I'M x'LLy"), (Strings{"I", "'M", " x", "'LL", "y"}));
    EXPECT_EQ(pieces("  leading"), (Strings{" ", " leading"}));
    EXPECT_EQ(pieces("end  "), (Strings{"end", "  "}));
    EXPECT_EQ(pieces("a \n\n b\r\n"), (Strings{"a", " \n\n", " b", "\r\n"}));
    EXPECT_EQ(pieces("f(x);\n\n}"), (Strings{"f", "(x", ");\n\n", "}"}));
    EXPECT_EQ(pieces("é\u0301x"), (Strings{"é", "\u0301x"}));  // a mark is neither letter, number nor space
    EXPECT_EQ(pieces("日本語"), (Strings{"日本語"}));
    EXPECT_EQ(pieces("a\0b"s), (Strings{"a", "\0b"s}));
}

TEST(Pretokenizer, WhiteSpaceIsTheUnicodeProperty) {
    EXPECT_EQ(pieces("a\u3000\u0085b"), (Strings{"a", "\u3000", "\u0085b"}));
    EXPECT_EQ(pieces("a \u2003\u2003"), (Strings{"a", " \u2003\u2003"}));
    EXPECT_EQ(pieces("!\u180E!"), (Strings{"!\u180E!"}));  // white space for PCRE2's \s only
    EXPECT_EQ(pieces("  \u180E\n"), (Strings{" ", " \u180E\n"}));
    EXPECT_EQ(pieces("!\uFEFF!"), (Strings{"!\uFEFF!"}));      // white space for JavaScript only
    EXPECT_EQ(pieces("'\u017Fx"), (Strings{"'\u017F", "x"}));  // the long s is an s without case
}

TEST(Pretokenizer, BytesThatAreNotUtf8AreRunsOfTheirOwn) {
    EXPECT_EQ(pieces("a\xFF\xFE"
                     "b"),
              (Strings{"a", "invalid:\xFF\xFE", "b"}));
    EXPECT_EQ(pieces("\x80"), (Strings{"invalid:\x80"}));
    EXPECT_EQ(pieces("\xC0\x80"), (Strings{"invalid:\xC0\x80"}));                  // overlong NUL
    EXPECT_EQ(pieces("\xE0\x9F\xBF!"), (Strings{"invalid:\xE0\x9F\xBF", "!"}));    // overlong U+07FF
    EXPECT_EQ(pieces("\xF0\x8F\xBF\xBF"), (Strings{"invalid:\xF0\x8F\xBF\xBF"}));  // overlong U+FFFF
    EXPECT_EQ(pieces("\xED\xA0\x80z"), (Strings{"invalid:\xED\xA0\x80", "z"}));    // surrogate
    EXPECT_EQ(pieces("\xED\x9F\xBF"), (Strings{"\xED\x9F\xBF"}));                  // U+D7FF
    EXPECT_EQ(pieces("\xF4\x8F\xBF\xBF"), (Strings{"\xF4\x8F\xBF\xBF"}));          // U+10FFFF
    EXPECT_EQ(pieces("\xF4\x90\x80\x80"), (Strings{"invalid:\xF4\x90\x80\x80"}));  // U+110000
    EXPECT_EQ(pieces("\xF5\x80"), (Strings{"invalid:\xF5\x80"}));
    EXPECT_EQ(pieces("e\xE2\x82"), (Strings{"e", "invalid:\xE2\x82"}));  // cut at the end
    EXPECT_EQ(pieces("\xE2\x82\xE2\x82\xAC"), (Strings{"invalid:\xE2\x82", "€"}));
    EXPECT_EQ(pieces("a  \xFF"), (Strings{"a", "  ", "invalid:\xFF"}));  // the spaces end their text
}

TEST(Pretokenizer, LongPiecesDoNotFail) {
    const size_t n = 1 << 20;
    for (const std::string &unit : {"a"s, "é"s, "日"s, " "s, "!"s, "\n"s, "\u3000"s, "\xFF"s}) {
        std::string text;
        while (text.size() < n) text += unit;
        const Strings found = pieces(text);
        ASSERT_EQ(found.size(), 1u) << unit;
        EXPECT_EQ(found[0], unit == "\xFF" ? "invalid:"s + text : text);
    }
    EXPECT_EQ(pieces(std::string(n, ' ') + "a").size(), 2u);
    EXPECT_EQ(pieces("\n" + std::string(n, ' ') + "a").size(), 3u);
    EXPECT_EQ(pieces(std::string(3 * n, '7')).size(), n);
}

}  // namespace
}  // namespace bitnet
