// Which instruction sets this library has and this CPU can run. The only place that asks the CPU.
#pragma once

#include <string>

#include "core/kernels/kernels.h"

namespace bitnet {

struct Isa {
    const Kernels *kernels;
    bool usable;
};

int isa_count();
const Isa &isa_at(int index);  // from plain to best

// `name` empty: the best usable one. Throws Error(isa) naming what was asked for and what there is.
const Kernels &select_kernels(const std::string &name);

// x86-64: byte permutations beside what "avx512vnni" needs.
bool has_avx512vbmi();

// Processors this process may run on.
int processor_count();

}  // namespace bitnet
