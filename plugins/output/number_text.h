// Numbers as text of nine significant digits, which bring every f32 back: what "%.9g" writes in the C locale, several
// times as fast, and whatever the locale is. Free of the C++ runtime (std::to_chars is part of it).
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bitnet {

constexpr size_t kNumberBytes = 24;  // "-1.23456789e-308" and room

namespace number_text {

constexpr int kSignificant = 9;
constexpr uint32_t kLimit = 1000000000;  // 10^kSignificant

// 10^n = mantissa x 2^exponent, the mantissa cut to its upper 64 bits; exact for n from 0 to 27. That covers every f32,
// and what is computed of them, as far as it is not much smaller or larger.
struct Power {
    uint64_t mantissa;
    int exponent;
};
constexpr int kFirstPower = -47, kLastPower = 55;  // 5^47 and 5^55 leave room in 128 bits

constexpr Power power_of_ten(int n) {
    unsigned __int128 five = 1;
    for (int i = 0; i < (n < 0 ? -n : n); ++i) five *= 5;
    if (n >= 0) {
        int exponent = n;
        while (five >> 64) five >>= 1, ++exponent;
        while (!(five >> 63)) five <<= 1, --exponent;
        return {uint64_t(five), exponent};
    }
    // 2^k / 5^-n, digit by binary digit until there are 64 of them.
    unsigned __int128 rest = 1;
    uint64_t mantissa = 0;
    int exponent = n;
    while (!(mantissa >> 63)) {
        rest <<= 1, mantissa <<= 1, --exponent;
        if (rest >= five) rest -= five, mantissa |= 1;
    }
    return {mantissa, exponent};
}

struct Powers {
    Power of[kLastPower - kFirstPower + 1];
    constexpr Powers() : of() {
        for (int n = kFirstPower; n <= kLastPower; ++n) of[n - kFirstPower] = power_of_ten(n);
    }
};
inline constexpr Powers kPowers;

struct Pairs {
    char of[100][2];
    constexpr Pairs() : of() {
        for (int i = 0; i < 100; ++i) of[i][0] = char('0' + i / 10), of[i][1] = char('0' + i % 10);
    }
};
inline constexpr Pairs kPairs;

// value = digits x 10^(exponent - 8), rounded to nearest, ties to even.
struct Decimal {
    uint32_t digits;  // from 10^8 to 10^9 - 1
    int exponent;
};

// By the C library, from the digits alone: its decimal point is the locale's.
inline Decimal decimal_of_snprintf(double value) {
    char text[48];
    snprintf(text, sizeof text, "%.8e", value);
    const char *e = strrchr(text, 'e');
    Decimal out = {uint32_t(text[0] - '0'), atoi(e + 1)};
    for (const char *p = e - (kSignificant - 1); p < e; ++p) out.digits = 10 * out.digits + uint32_t(*p - '0');
    return out;
}

// Positive and finite.
inline Decimal decimal_of(double value) {
    const uint64_t bits = std::bit_cast<uint64_t>(value);
    const int biased = int(bits >> 52);
    // value = mantissa x 2^exponent, the mantissa's upper bit set
    const uint64_t mantissa = (bits | uint64_t(1) << 52) << 11;
    const int exponent = biased - 1023 - 63;
    int decimal = (biased - 1023) * 78913 >> 18;  // of the value, or one less: 78913 / 2^18 is log10(2)
    if (biased == 0 || 8 - decimal > kLastPower || 8 - decimal - 1 < kFirstPower) return decimal_of_snprintf(value);
    for (;; ++decimal) {
        const int n = kSignificant - 1 - decimal;
        const Power &power = kPowers.of[n - kFirstPower];
        // The exact product is less than 2^64 above this one, and this one when the power is exact.
        const unsigned __int128 product = static_cast<unsigned __int128>(mantissa) * power.mantissa;
        const int shift = -(exponent + power.exponent);
        const uint64_t whole = uint64_t(product >> shift);
        if (whole >= kLimit) continue;
        const unsigned __int128 half = static_cast<unsigned __int128>(1) << (shift - 1);
        const unsigned __int128 rest = product & (2 * half - 1);
        const bool exact = n >= 0 && n <= 27;
        if (!exact && rest <= half && half - rest < static_cast<unsigned __int128>(1) << 64) {
            return decimal_of_snprintf(value);  // too close to a tie to tell: once in 2^30 times
        }
        const bool up = rest > half || (rest == half && (whole & 1));
        const uint32_t digits = uint32_t(whole) + up;
        return digits == kLimit ? Decimal{kLimit / 10, decimal + 1} : Decimal{digits, decimal};
    }
}

}  // namespace number_text

// Finite `value` as "%.9g" writes it; returns the length.
inline size_t number_text_of(double value, char out[kNumberBytes]) {
    using namespace number_text;
    char *p = out;
    if (std::bit_cast<uint64_t>(value) >> 63) *p++ = '-', value = -value;
    if (value == 0) {
        *p++ = '0';
        return size_t(p - out);
    }
    const Decimal decimal = decimal_of(value);
    char digits[kSignificant];
    uint32_t rest = decimal.digits;
    for (int i = kSignificant - 2; i > 0; i -= 2, rest /= 100) memcpy(digits + i, kPairs.of[rest % 100], 2);
    digits[0] = char('0' + rest);
    int n = kSignificant;
    while (n > 1 && digits[n - 1] == '0') --n;  // no zeros at the end of a fraction
    const int x = decimal.exponent;
    const auto put = [&](const char *from, int count) {
        memcpy(p, from, size_t(count));
        p += count;
    };
    if (x >= -4 && x < 0) {
        put("0.000", 1 - x);
        put(digits, n);
    } else if (x >= 0 && x < kSignificant) {
        put(digits, x + 1);  // zeros of the whole part stay
        if (n > x + 1) {
            *p++ = '.';
            put(digits + x + 1, n - x - 1);
        }
    } else {
        *p++ = digits[0];
        if (n > 1) {
            *p++ = '.';
            put(digits + 1, n - 1);
        }
        *p++ = 'e';
        *p++ = x < 0 ? '-' : '+';
        const int magnitude = x < 0 ? -x : x;
        if (magnitude >= 100) *p++ = char('0' + magnitude / 100);
        *p++ = char('0' + magnitude / 10 % 10);
        *p++ = char('0' + magnitude % 10);
    }
    return size_t(p - out);
}

}  // namespace bitnet
