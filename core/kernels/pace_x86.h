// Loops that read rows once, from memory, with little work for each line of 64 bytes.
#pragma once

namespace bitnet::BITNET_ISA {

// N instructions without a result, on ports that the products do not need. A processor looks as many instructions ahead
// as its window holds, and a software prefetch that finds no free miss buffer seems to be dropped: with 15 instructions
// a line, 30 lines' prefetches come at once, and the loop waits for each that is lost. With about 32
// instructions a line it keeps up with memory, 38 instead of 21 GB/s (core/DESIGN.md has the measurement; nop has no
// effect, it takes no place in the window).
template <int N> static inline void pace() {
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
        long nothing;
        asm volatile("lea 1(%%rsp), %0" : "=r"(nothing));
    }
}

}  // namespace bitnet::BITNET_ISA
