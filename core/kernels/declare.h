// Declarations of one ISA's kernels: #define BITNET_ISA, include this, define them. No inline function may live here or
// in anything a kernel file includes: the linker could keep a copy with this file's instructions for everybody.
#include <cstddef>
#include <cstdint>

namespace bitnet::BITNET_ISA {
#define BITNET_KERNEL(group, type, name, arguments) type name arguments;
#include "core/kernels/kernels.inc"
#undef BITNET_KERNEL
}  // namespace bitnet::BITNET_ISA
