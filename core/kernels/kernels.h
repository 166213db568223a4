// One table of kernel pointers per instruction set; a context holds one and never asks for the CPU again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

struct Kernels {
    const char *isa;
    const char *ternary_name;  // as traces name the kernel of a linear, "ternary.avx2"
    bool compact_pays;         // compact_rows is fast enough to be worth it (core/compact_head.h)
    int few_tokens;            // up to so many, ternary_rows for each costs less than ternary_batch
    int batch_rows;            // rows that ternary_batch works on at a time
    int table_tokens;          // tokens of its tables (kernels/ternary_x86.h); 0: it multiplies
#define BITNET_KERNEL(group, type, name, arguments) type(*name) arguments;
#include "core/kernels/kernels.inc"
#undef BITNET_KERNEL
};

// Bytes that ternary_batch needs for its work; ternary_rows rearranges x in the same memory, twice at most.
constexpr size_t ternary_scratch(const Kernels &k, int n_in) {
    const size_t rows = size_t(k.batch_rows), tokens = size_t(k.table_tokens);
    if (tokens == 0) return rows * size_t(n_in);  // codes, unpacked
    // 8 tables, the activations of a group, sums of each row (int16 and int32), its offsets in the tables.
    return (8 * 81 + 40 + 128) * 2 * tokens + rows * (6 * tokens + size_t(n_in) / 2);
}

#define BITNET_DECLARE_ISA(isa)                                                                                        \
    namespace isa {                                                                                                    \
    extern const Kernels kernels;                                                                                      \
    }
BITNET_DECLARE_ISA(scalar)
#if defined(__x86_64__)
BITNET_DECLARE_ISA(sse2)
BITNET_DECLARE_ISA(avx2)
BITNET_DECLARE_ISA(avxvnni)
BITNET_DECLARE_ISA(avx512vnni)
#elif defined(__aarch64__)
BITNET_DECLARE_ISA(neon)
BITNET_DECLARE_ISA(neon_dotprod)
#endif
#undef BITNET_DECLARE_ISA

}  // namespace bitnet
