#include "core/math.h"

namespace bitnet {

double exp_f64(double x) {
    if (x > 709.782712893384) return __builtin_bit_cast(double, 0x7ff0000000000000ull);
    if (x < -708.396418532264) return 0.0;  // would be subnormal
    if (x != x) return x;
    const double n = (x * 1.4426950408889634074 + 6755399441055744.0) - 6755399441055744.0;  // nearest even, 1.5 * 2^52
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;  // ln 2, fdlibm's split
    // Taylor: |r| <= 0.347, so the first term left out is below 5e-18.
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    const double y = (p * (r * r) + r) + 1.0;
    const int64_t k = int64_t(n);
    const int64_t half = k >> 1;
    const double a = __builtin_bit_cast(double, uint64_t(half + 1023) << 52);
    const double b = __builtin_bit_cast(double, uint64_t(k - half + 1023) << 52);
    return (y * a) * b;
}

double log_f64(double x) {
    const uint64_t bits = __builtin_bit_cast(uint64_t, x);
    int64_t k = int64_t(bits >> 52) - 1023;
    double m = __builtin_bit_cast(double, (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);  // [1, 2)
    if (m > 1.4142135623730951) {
        m = m * 0.5;
        k += 1;
    }
    // log m = 2 atanh(s), |s| <= 0.1716; s^23 / 23 is below 2e-19.
    const double s = (m - 1.0) / (m + 1.0);
    const double z = s * s;
    double p = 1.0 / 21.0;
    for (int odd = 19; odd >= 3; odd -= 2) p = p * z + 1.0 / odd;
    const double log_m = 2.0 * s + (2.0 * s) * (z * p);
    return double(k) * 6.93147180369123816490e-01 + (log_m + double(k) * 1.90821492927058770002e-10);
}

void sin_cos_f64(double x, double &sine, double &cosine) {
    // x = k pi/2 + r with pi/2 in three parts (fdlibm's): the first two products are exact for |k| < 2^20.
    const double k = (x * 0.63661977236758134308 + 6755399441055744.0) - 6755399441055744.0;
    const double r =
        ((x - k * 1.57079632673412561417e+00) - k * 6.07710050630396597660e-11) - k * 2.02226624879595063154e-21;
    const double z = r * r;
    double s = 1.0 / 355687428096000.0;  // Taylor to r^17 and r^18 on |r| <= pi/4
    s = s * z - 1.0 / 1307674368000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    const double sin_r = r + (r * z) * s;
    double c = -1.0 / 6402373705728000.0;
    c = c * z + 1.0 / 20922789888000.0;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    const double cos_r = 1.0 + z * c;
    switch (int64_t(k) & 3) {
    case 0: sine = sin_r, cosine = cos_r; break;
    case 1: sine = cos_r, cosine = -sin_r; break;
    case 2: sine = -sin_r, cosine = -cos_r; break;
    default: sine = -cos_r, cosine = sin_r; break;
    }
}

}  // namespace bitnet
