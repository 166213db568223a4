// The tables of kernels.h, filled from the one list.
#include "core/kernels/kernels.h"

#define BITNET_ISA scalar
#include "core/kernels/declare.h"
#undef BITNET_ISA
#if defined(__x86_64__)
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#undef BITNET_ISA
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#undef BITNET_ISA
#endif

namespace bitnet {

// clang-format off
#define BITNET_KERNEL(type, name, arguments) &name,
namespace scalar {
const Kernels kernels = {"scalar", "ternary.scalar",
#include "core/kernels/kernels.inc"
};
}
#if defined(__x86_64__)
namespace avx2 {
const Kernels kernels = {"avx2", "ternary.avx2",
#include "core/kernels/kernels.inc"
};
}
namespace avx512vnni {
const Kernels kernels = {"avx512vnni", "ternary.avx512vnni",
#include "core/kernels/kernels.inc"
};
}
#endif
#undef BITNET_KERNEL
// clang-format on

}  // namespace bitnet
