// Shows a stage to the tracer, if there is one that wants it: the one predictable branch that a stage costs without.
#pragma once

#include "core/state.h"

namespace bitnet {

// The rows that are computed together: row r is token `first_row + r` of the eval, at position `first_position + r`.
struct Rows {
    int n;
    int first_row;
    int first_position;
};

inline bool wanted(const State &s, const Rows &rows, int stage, int layer) {
    return s.tracer && s.tracer->wants(stage, layer, rows.first_position, rows.n);
}

// `data` is rows.n rows of shape (heads, width / heads), or (width) when heads is 0, without gaps.
void emit(State &s, const Rows &rows, int stage, int layer, int dtype, void *data, int width, int heads,
          const char *kernel);

inline void show(State &s, const Rows &rows, int stage, int layer, float *data, int width, int heads = 0) {
    if (wanted(s, rows, stage, layer)) emit(s, rows, stage, layer, 0 /* f32 */, data, width, heads, s.kernels.isa);
}

}  // namespace bitnet
