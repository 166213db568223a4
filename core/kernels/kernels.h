// One table of kernel pointers per instruction set; a context holds one and never asks for the CPU again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

struct Kernels {
    const char *isa;
    const char *ternary_name;  // as traces name the kernel of a linear, "ternary.avx2"
    bool compact_pays;         // compact_rows is fast enough to be worth it (core/compact_head.h)
#define BITNET_KERNEL(group, type, name, arguments) type(*name) arguments;
#include "core/kernels/kernels.inc"
#undef BITNET_KERNEL
};

// Rows that ternary_batch unpacks at a time, and the bytes it needs for that. ternary_rows rearranges x in the same
// memory, twice at most.
constexpr int ternary_batch_rows = 64;
constexpr size_t ternary_scratch(int n_in) { return size_t(ternary_batch_rows) * size_t(n_in); }

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
