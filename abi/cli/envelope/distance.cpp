#include "abi/cli/envelope/distance.h"

#include <cmath>
#include <limits>

namespace bitnet::envelope {

Distance distance_of(const float *a, const float *b, size_t n) {
    double a2 = 0, b2 = 0, d2 = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = double(a[i]), y = double(b[i]);
        a2 += x * x;
        b2 += y * y;
        d2 += (x - y) * (x - y);
    }
    if (!std::isfinite(a2) || !std::isfinite(b2)) {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        return {nan, nan};
    }
    if (d2 == 0) return {0, 0};
    if (a2 == 0 || b2 == 0) return {a2 == 0 ? std::numeric_limits<double>::infinity() : 1, 1};
    const double of_a = 1 / std::sqrt(a2), of_b = 1 / std::sqrt(b2);
    double unit2 = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = double(a[i]) * of_a - double(b[i]) * of_b;
        unit2 += d * d;
    }
    return {std::sqrt(d2 / a2), unit2 / 2};
}

}  // namespace bitnet::envelope
