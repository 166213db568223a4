// What the last bits of a float do to a BitNet: nothing, until an int8 code of a row becomes its neighbour.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet::envelope {

// Moves one element of `row`, the input of a quantiser, just across the rounding tie that it is nearest to, so that its
// code with the row's scale changes by one. Which of the few nearest it is follows from `seed`. False, and nothing
// changed, when the row has no code to flip (zeros, or all elements as large as the largest).
bool flip_one_code(float *row, size_t n, uint64_t seed);

// Multiplies `row` by one or two units in the last place more or less than 1, as another order of summation in an
// RMSNorm does.
void round_otherwise(float *row, size_t n, uint64_t seed);

// Takes the elements of `own` whose codes `row` does not keep, or may not (the largest, and those at a tie): afterwards
// the codes and the scale of `row` are those of `own`.
void hold_codes(float *row, const float *own, size_t n);

}  // namespace bitnet::envelope
