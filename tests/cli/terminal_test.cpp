#include "abi/cli/terminal.h"

#include <gtest/gtest.h>

#include "abi/cli/options.h"

namespace {

TEST(Printable, KeepsValidTextAndEscapesTheRest) {
    EXPECT_EQ(bitnet::printable("a \xC3\xA9 \xE6\x97\xA5 \xF0\x9F\x98\x80"),
              "a \xC3\xA9 \xE6\x97\xA5 \xF0\x9F\x98\x80");
    EXPECT_EQ(bitnet::printable("\n\t\r\\"), "\\n\\t\\r\\\\");
    EXPECT_EQ(bitnet::printable(std::string_view("\0\x1B\x7F", 3)), "\\x00\\x1B\\x7F");
    EXPECT_EQ(bitnet::printable("\xC2\x9B"), "\\xC2\\x9B");                    // CSI of 8-bit terminals
    EXPECT_EQ(bitnet::printable("\xE6\x97"), "\\xE6\\x97");                    // cut short
    EXPECT_EQ(bitnet::printable("\xC0\xAF"), "\\xC0\\xAF");                    // overlong
    EXPECT_EQ(bitnet::printable("\xED\xA0\x80"), "\\xED\\xA0\\x80");           // a surrogate
    EXPECT_EQ(bitnet::printable("\xF4\x90\x80\x80"), "\\xF4\\x90\\x80\\x80");  // beyond U+10FFFF
}

TEST(WithCommas, GroupsByThree) {
    EXPECT_EQ(bitnet::with_commas(0), "0");
    EXPECT_EQ(bitnet::with_commas(999), "999");
    EXPECT_EQ(bitnet::with_commas(1000), "1,000");
    EXPECT_EQ(bitnet::with_commas(1187310112), "1,187,310,112");
    EXPECT_EQ(bitnet::with_commas(UINT64_MAX), "18,446,744,073,709,551,615");
}

TEST(Options, NumbersAreWholeTextInRange) {
    const CLI::Validator number = bitnet::number_between(0, 2);
    for (std::string good : {"0", "2", "1.5", "1e-3"}) EXPECT_EQ(number(good), "") << good;
    for (std::string bad : {"", "nan", "inf", "-0.1", "2.1", "1x", " 1"}) EXPECT_NE(number(bad), "") << bad;
    const CLI::Validator whole = bitnet::whole_number_between(1, UINT64_MAX);
    for (std::string good : {"1", "18446744073709551615"}) EXPECT_EQ(whole(good), "") << good;
    for (std::string bad : {"", "0", "-1", "+1", "1.0", "0x10", "18446744073709551616"})
        EXPECT_NE(whole(bad), "") << bad;
    std::string bad = "x";
    EXPECT_EQ(bitnet::one_of({"f32", "f16"})(bad), "found 'x', expected one of f32, f16");
}

}  // namespace
