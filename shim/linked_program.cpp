// In place of static_program.cpp where the interposer is linked into the program: the linker has found the functions.
#include <cstring>

#include "shim/static_program.h"

// Weak: a version may lack some. What is hooked has the name here that `--wrap` gives the real function.
#define BITNET_USED(name) extern "C" __attribute__((weak)) void name();
#define BITNET_HOOKED(name) BITNET_USED(__real_##name)
#include "shim/hooked_functions.inc"
#include "shim/used_functions.inc"
#undef BITNET_USED
#undef BITNET_HOOKED

namespace bitnet::shim {

namespace {

struct Function {
    const char *name;
    void (*address)();
};

const Function functions[] = {
#define BITNET_USED(name) {#name, &name},
#define BITNET_HOOKED(name) {#name, &__real_##name},
#include "shim/hooked_functions.inc"
#include "shim/used_functions.inc"
#undef BITNET_USED
#undef BITNET_HOOKED
};

}  // namespace

const char *static_program_report() { return ""; }

bool is_static_program(const void *) { return true; }

void *static_program_function(const char *name) {
    for (const Function &function : functions) {
        if (strcmp(function.name, name) == 0) return reinterpret_cast<void *>(function.address);
    }
    return nullptr;
}

}  // namespace bitnet::shim
