// The legal variations: what an engine may do differently from this one and still be right.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace bitnet::envelope {

// One way to compute that belongs to a class, as overrides of the semantics.
struct Variation {
    const char *semantics;  // "": the engine's own arithmetic
    const char *instead;    // when the engine already does that: what its counterpart does; "": nothing to vary
    bool held;              // with every activation code held (codes.h): float32 rounding that flips none
    bool seeded;  // also once for each seed, with norms rounded otherwise or, where codes are not held, flipped codes
};

struct LegalClass {
    const char *name;
    const char *text;  // for people
    std::span<const Variation> variations;
};

// From the smallest to the largest. An engine of a class may do what the smaller ones do as well.
std::span<const LegalClass> legal_classes();

// How many seeds a prompt of `n_tokens` gets unless one asks for another number.
int default_seeds(size_t n_tokens);

}  // namespace bitnet::envelope
