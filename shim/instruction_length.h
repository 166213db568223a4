// How many bytes an instruction of x86-64 takes: as much of it as shows where the next one begins.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet::shim {

// 0: not known, or cut short after `n` bytes.
size_t instruction_length(const uint8_t *code, size_t n);

}  // namespace bitnet::shim
