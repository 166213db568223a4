// One table of kernel pointers per instruction set; a context holds one and never asks for the CPU again.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

struct Kernels {
    const char *isa;
    const char *ternary_name;  // as traces name the kernel of a linear, "ternary.avx2"
#define BITNET_KERNEL(type, name, arguments) type(*name) arguments;
#include "core/kernels/kernels.inc"
#undef BITNET_KERNEL
};

// Rows that ternary_batch unpacks at a time, and the bytes it needs for that.
constexpr int ternary_batch_rows = 4;
constexpr size_t ternary_scratch(int n_in) { return size_t(ternary_batch_rows) * size_t(n_in); }

#define BITNET_DECLARE_ISA(isa)                                                                                        \
    namespace isa {                                                                                                    \
    extern const Kernels kernels;                                                                                      \
    }
BITNET_DECLARE_ISA(scalar)
#if defined(__x86_64__)
BITNET_DECLARE_ISA(avx2)
BITNET_DECLARE_ISA(avx512vnni)
#endif
#undef BITNET_DECLARE_ISA

}  // namespace bitnet
