// The error buffer of bitnet_cpp.h.
#pragma once

#include <cstdint>

namespace bitnet {

// Zeroes the whole buffer: its readers take all of it as UTF-8 and cut the zeros off.
void clear_error(char *err, int32_t err_len) noexcept;
// "<function>: <text>", as much as fits before the last byte and ends with a whole character; what is not UTF-8 becomes '?'.
void write_error(char *err, int32_t err_len, const char *function, const char *text) noexcept;

}  // namespace bitnet
