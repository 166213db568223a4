// I2_S codes: two bits a weight, code = weight + 1. Layouts: FORMAT.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

constexpr uint64_t i2_s_block_elements = 128;
constexpr size_t i2_s_block_bytes = 32;
constexpr size_t i2_s_tail_bytes = 32;  // f32 scale, then padding

// Index of the first element whose code is 3, or -1. `n_bytes` of codes in blocks of 128; multiple of 32.
int64_t find_invalid_code(const uint8_t *codes, size_t n_bytes);

// Copies codes in blocks of 64 (ARM files) into blocks of 128. `n_bytes`: multiple of 32; no overlap.
void repack_block64(const uint8_t *codes, size_t n_bytes, uint8_t *out);

}  // namespace bitnet
