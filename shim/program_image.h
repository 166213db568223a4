// The program's own file and where it lies in memory: symbols and code.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>

namespace bitnet::shim {

struct CodeSegment {
    uint8_t *from, *to;
    int protection;  // PROT_...
};

constexpr int kCodeSegmentsMax = 4;

struct ProgramImage {
    uintptr_t bias;             // of addresses in the file
    uint8_t *lowest, *highest;  // of what is mapped, from the beginning of a page
    CodeSegment code[kCodeSegmentsMax];
    int n_code;
    const Elf64_Sym *symbols;
    size_t n_symbols;
    const char *names;
    size_t n_names;
    bool is_stripped;  // only names for the dynamic linker are left

    const char *name_of(const Elf64_Sym &symbol) const;  // "" when it is no function
    uint8_t *address_of(const Elf64_Sym &symbol) const { return reinterpret_cast<uint8_t *>(bias + symbol.st_value); }
    const CodeSegment *segment_of(const uint8_t *address) const;     // NULL: none
    uint8_t *function(const char *name) const;                       // NULL: none, or not in its code
    bool is_shared(const uint8_t *address, const char *name) const;  // by a function of another name
    const Elf64_Sym *function_around(const uint8_t *address) const;
};

// NULL, or why not in one line. What the image points to stays mapped.
const char *read_program_image(ProgramImage *out);

}  // namespace bitnet::shim
