// The tables of kernels.h, filled from the one list. Each says which namespace its groups come from: an ISA that
// differs from another in the ternary products alone shares the rest.
#include "core/kernels/kernels.h"

#define BITNET_ISA scalar
#include "core/kernels/declare.h"
#undef BITNET_ISA
#if defined(__x86_64__)
#include "core/kernels/ternary_x86.h"
#define BITNET_ISA sse2
#include "core/kernels/declare.h"
#undef BITNET_ISA
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#undef BITNET_ISA
#define BITNET_ISA avxvnni
#include "core/kernels/declare.h"
#undef BITNET_ISA
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#undef BITNET_ISA
#elif defined(__aarch64__)
#define BITNET_ISA neon
#include "core/kernels/declare.h"
#undef BITNET_ISA
#define BITNET_ISA neon_dotprod
#include "core/kernels/declare.h"
#undef BITNET_ISA
#endif

namespace bitnet {

// clang-format off
// {isa, ternary_name, compact_pays, few_tokens, batch_rows, table_tokens, the kernels}
#define BITNET_KERNEL(group, type, name, arguments) &group::name,
namespace scalar {
namespace row = scalar;
namespace ternary = scalar;
namespace batch = scalar;
namespace dot = scalar;
namespace compact = scalar;
const Kernels kernels = {"scalar", "ternary.scalar", false, 3, 64, 0,
#include "core/kernels/kernels.inc"
};
}
#if defined(__x86_64__)
namespace sse2 {
namespace row = sse2;
namespace ternary = sse2;
namespace batch = sse2;
namespace dot = sse2;
namespace compact = scalar;
const Kernels kernels = {"sse2", "ternary.sse2", false, 2, table_rows, 8,
#include "core/kernels/kernels.inc"
};
}
namespace avx2 {
namespace row = avx2;
namespace ternary = avx2;
namespace batch = avx2;
namespace dot = avx2;
namespace compact = avx2;
const Kernels kernels = {"avx2", "ternary.avx2", true, 10, table_rows, 16,
#include "core/kernels/kernels.inc"
};
}
namespace avxvnni {
namespace row = avx2;
namespace ternary = avxvnni;
namespace batch = avx2;
namespace dot = avx2;
namespace compact = avx2;
const Kernels kernels = {"avxvnni", "ternary.avxvnni", true, 12, table_rows, 16,
#include "core/kernels/kernels.inc"
};
}
namespace avx512vnni {
namespace row = avx512vnni;
namespace ternary = avx512vnni;
namespace batch = avx512vnni;
namespace dot = avx512vnni;
namespace compact = avx512vnni;
const Kernels kernels = {"avx512vnni", "ternary.avx512vnni", true, 8, 64, 0,
#include "core/kernels/kernels.inc"
};
}
#elif defined(__aarch64__)
namespace neon {
namespace row = neon;
namespace ternary = neon;
namespace batch = neon;
namespace dot = neon;
namespace compact = scalar;
const Kernels kernels = {"neon", "ternary.neon", false, 3, 64, 0,
#include "core/kernels/kernels.inc"
};
}
namespace neon_dotprod {
namespace row = neon;
namespace ternary = neon_dotprod;
namespace batch = neon_dotprod;
namespace dot = neon;
namespace compact = scalar;
const Kernels kernels = {"neon-dotprod", "ternary.neon-dotprod", false, 3, 64, 0,
#include "core/kernels/kernels.inc"
};
}
#endif
#undef BITNET_KERNEL
// clang-format on

}  // namespace bitnet
