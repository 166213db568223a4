// The environment variables that the program and the library read, for --help and the man page.
#pragma once

#include <string>

namespace bitnet {

struct EnvironmentVariable {
    const char *name;  // or several that belong together
    const char *text;
};

inline constexpr EnvironmentVariable environment_variables[] = {
    {"BITNET_ISA", "instruction set, as bitnet --version lists them; an error when this CPU has it not"},
    {"BITNET_SEED", "seed of the sampling when --seed is not given; default 0"},
    {"BITNET_DETERMINISTIC", "accepted; results are always a function of model, tokens, options and seed alone"},
    {"BITNET_DEBUG_LOGITS", "1: the five largest logits of each generated token on stderr"},
    {"BITNET_TRACE_PLUGIN", "plugins for every context: \"jsonl:path=a.jsonl;npy:dir=raw\""},
    {"BITNET_TRACE_SELECT", "what is traced, as --select of bitnet trace"},
    {"BITNET_TRACE_DIR", "folder for traces: bitnet run writes one there unless BITNET_TRACE_PLUGIN is set"},
    {"BITNET_PLUGIN_PATH", "folders in which plugins are looked for first, with ':' between them"},
    {"BITNET_SHIM_MODE, _PROGRAMS, _NO_FLASH, _INPUTS, _MEMORY_MB, _HASH_MODEL",
     "for programs traced with bitnet trace -- (shim/SHIM.md)"},
    {"BITNET_TRACE_VERBOSE", "1: each step of loading plugins on stderr"},
    {"NO_COLOR", "when set, no colour on a terminal either"},
};

}  // namespace bitnet
