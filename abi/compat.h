// What the compatibility interfaces share.
#pragma once

#include <cstdint>

#include "bitnet_c.h"

namespace bitnet {

// A failure of one of our own functions goes on as it is: Error of that status with its text.
void check(bitnet_status_t status);
// Error(invalid) naming the argument.
void require_positive(int32_t value, const char *name);

// The error buffer of bitnet_cpp.h. Zeroes all of it: its readers take all of it as UTF-8 and cut the zeros off.
void clear_error(char *err, int32_t err_len) noexcept;
// "<function>: <text>", as much as fits before the last byte and ends with a whole character; what is not UTF-8 becomes
// '?'.
void write_error(char *err, int32_t err_len, const char *function, const char *text) noexcept;

}  // namespace bitnet
