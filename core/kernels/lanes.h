// The fixed tree that combines 16 virtual lanes: halves are added until one is left. Static: each ISA's file gets its
// own copy, compiled with its own flags (a shared inline function could be emitted with the wrong ones).
#pragma once

namespace bitnet {

template <class T> static inline T lane_tree(T *lane) {
    for (int half = 8; half >= 1; half /= 2)
        for (int i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

}  // namespace bitnet
