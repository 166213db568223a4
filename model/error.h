// The one way model/ and core/ fail: an exception with a status and one line of text. abi/ turns it into a status and
// bitnet_last_error(); nothing above abi/ ever sees it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace bitnet {

// Same values as BITNET_E_* of the public header (abi/boundary.cpp asserts it).
enum class Status : int32_t {
    ok = 0,
    invalid = -1,
    nomem = -2,
    io = -3,
    format = -4,
    unsupported = -5,
    buffer = -6,
    isa = -7,
    abi = -8,
    plugin = -9,
    busy = -10,
    overflow = -11,
    cancelled = -12,
    user = -13,
    internal = -14,
};

class Error : public std::runtime_error {
public:
    Error(Status s, const std::string &text) : std::runtime_error(text), status(s) {}
    Status status;
};

// printf-style text for messages; never throws anything but bad_alloc.
std::string format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Text from a file, made fit for one line of an error: control bytes as \xNN, at most 64 bytes, then "...".
std::string quoted(const char *data, size_t n_bytes);
inline std::string quoted(const std::string &text) { return quoted(text.data(), text.size()); }

}  // namespace bitnet
