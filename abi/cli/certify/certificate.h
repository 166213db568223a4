// The certificate: one line that says which bits a model and some tokens give.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitnet::certify {

// BLAKE3 as 64 hex digits.
std::string blake3_of(const void *data, size_t n_bytes);
// Of the ids as little-endian int32.
std::string token_hash(const std::vector<int32_t> &tokens);

struct Certificate {
    std::string engine;     // "bitnet-c/0.1.0"; who made it, not compared
    std::string semantics;  // overrides in force, "activation=silu"; "": the model's own. Explains, not compared
    std::string model;      // hashes, 64 hex digits
    std::string tokens;
    std::string result;

    // "bitnet-certificate/1 engine=... [as=...] model=... tokens=... result=..."
    std::string line() const;
};

// Of a file's text: one certificate line; empty lines and lines that begin with '#' are skipped. Throws CommandError
// that begins with `name`.
Certificate parse_certificate(const std::string &text, const std::string &name);

// What keeps `found` from being what was expected, "" when nothing does. A field that makes the following ones differ
// is named alone.
std::string mismatch(const Certificate &expected, const Certificate &found);

}  // namespace bitnet::certify
