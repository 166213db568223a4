// Loops that read rows once, from memory, with little work for each line of 64 bytes.
#pragma once

namespace bitnet::BITNET_ISA {

// N instructions without a result, on ports that the products do not need. What they change is found by measuring: the
// dense weights read memory at 37 instead of 20 GB/s with 14 of them, at 28 with 12, at 33 with 17; the weighted sum
// over values at 36 instead of 30 with 32; the I2_S codes and the head, whose loops are shorter, gain nothing. nop has
// no effect: it takes no place in the window of instructions that the processor looks ahead in.
template <int N> static inline void pace() {
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) {
        long nothing;
        asm volatile("lea 1(%%rsp), %0" : "=r"(nothing));
    }
}

}  // namespace bitnet::BITNET_ISA
