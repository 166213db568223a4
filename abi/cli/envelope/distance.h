// How far apart two rows of a stage are.
#pragma once

#include <cstddef>

namespace bitnet::envelope {

struct Distance {
    double relative;         // |a - b| / |a|; infinite when only `a` is zeros
    double cosine_distance;  // 1 - cosine, as |a/|a| - b/|b||^2 / 2, which keeps its digits near 0; 1 when one side is
                             // zeros
};

// `a` is the reference. Sums are f64 in ascending order. NaN or infinities on either side: both are NaN.
Distance distance_of(const float *a, const float *b, size_t n);

}  // namespace bitnet::envelope
