#include "abi/cli/certify/certificate.h"

#include <gtest/gtest.h>

#include "abi/cli/terminal.h"

namespace bitnet::certify {
namespace {

const std::string one(64, '1'), two(64, '2'), three(64, '3'), four(64, '4');
const std::string plain = "bitnet-certificate/1 engine=x/1 model=" + one + " tokens=" + two + " result=" + three;

std::string error_of(const std::string &text) {
    try {
        parse_certificate(text, "FILE");
        return "no error";
    } catch (const CommandError &error) {
        return error.what();
    }
}

TEST(Certificate, LineAndBack) {
    EXPECT_EQ((Certificate{"x/1", "", one, two, three}.line()), plain);
    const Certificate own = parse_certificate(plain + "\n", "FILE");
    EXPECT_EQ(own.line(), plain);
    const Certificate as{"x/1", "activation=silu,eps=1e-6", one, two, three};
    EXPECT_EQ(parse_certificate(as.line(), "FILE").line(), as.line());
    EXPECT_EQ(parse_certificate("# why\n\n" + as.line() + "\r\n \n", "FILE").line(), as.line());
    EXPECT_EQ(parse_certificate(plain + " later=field", "FILE").line(), plain);
}

TEST(Certificate, DamagedTextIsNamed) {
    EXPECT_EQ(error_of(""), "FILE: no certificate in it, expected a line that begins with bitnet-certificate/1");
    EXPECT_EQ(error_of("# only\n"), error_of(""));
    EXPECT_EQ(error_of("hello"), "FILE: a line begins with 'hello', expected bitnet-certificate/1");
    EXPECT_EQ(error_of("bitnet-certificate/2"),
              "FILE: a line begins with 'bitnet-certificate/2', expected bitnet-certificate/1");
    EXPECT_EQ(error_of(plain + "\n" + plain), "FILE: more than one line, expected one certificate");
    EXPECT_EQ(error_of(plain + " word"), "FILE: found 'word', expected KEY=VALUE");
    EXPECT_EQ(error_of(plain + " result=" + one), "FILE: result is there twice");
    EXPECT_EQ(error_of(plain.substr(0, plain.size() - 1)),
              "FILE: result is '" + three.substr(1) + "', expected 64 hex digits");
    EXPECT_EQ(error_of("bitnet-certificate/1 model=" + one), "FILE: tokens is '', expected 64 hex digits");
    std::string upper = plain;
    upper.back() = 'X';
    EXPECT_NE(error_of(upper).find("result is"), std::string::npos);
}

TEST(Certificate, MismatchNamesTheField) {
    const Certificate base{"x/1", "", one, two, three};
    EXPECT_EQ(mismatch(base, base), "");
    EXPECT_EQ(mismatch(base, {"y/2", "eps=1", one, two, three}), "");
    EXPECT_EQ(mismatch(base, {"x/1", "", four, four, four}), "other model: expected " + one + ", found " + four);
    EXPECT_EQ(mismatch(base, {"x/1", "", one, four, four}), "other tokens: expected " + two + ", found " + four);
    const std::string result = "other result of the same model and tokens: expected " + three + ", found " + four;
    EXPECT_EQ(mismatch(base, {"x/1", "", one, two, four}), result);
    EXPECT_EQ(mismatch(base, {"x/1", "eps=1", one, two, four}),
              result + " (semantics: expected the model's own, found eps=1)");
}

// Sums of b3sum.
TEST(Hashes, OfBytesAndTokens) {
    EXPECT_EQ(blake3_of("abc", 3), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
    EXPECT_EQ(token_hash({}), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    // printf '\x01\0\0\0\x02\x01\0\0\xff\xff\x01\0' | b3sum
    EXPECT_EQ(token_hash({1, 258, 131071}), "e440a0e0830bdeb1a2a75452f61940a8fdd2ef3ab6e12424e52ad8f91d56b33a");
}

}  // namespace
}  // namespace bitnet::certify
