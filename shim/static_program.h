// A program that ggml is linked into: no call of it goes through the dynamic linker. When BITNET_SHIM_PATCH_STATIC=1
// asks for it, and the program has a symbol table, the calls themselves are led to the hooks, before main.
#pragma once

#include "shim/engine.h"

namespace bitnet::shim {

// What was done or why nothing was, in one line; "": nobody asked.
const char *static_program_report();
// Whether the library at `base` is the program, and its calls were led here.
bool is_static_program(const void *base);
// A function of that program by its name. NULL: it has none.
void *static_program_function(const char *name);

struct Hook {
    const char *name;
    const void *function;
};
extern const Hook hooks[];  // hooks.cpp; a NULL name ends it

}  // namespace bitnet::shim
