#include "model/i2_s.h"

#include <algorithm>
#include <cstring>

namespace bitnet {

namespace {

constexpr size_t chunk_bytes = 4096;  // looked at as a whole before a closer look; a multiple of the block

bool has_invalid_code(const uint8_t *codes, size_t n_bytes) {
    uint64_t found = 0;
    for (size_t i = 0; i < n_bytes; i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, codes + i, sizeof word);
        found |= word & (word >> 1) & 0x5555555555555555;  // both bits of a pair
    }
    return found != 0;
}

// Element 0 to 127 of a block of 128.
int code_at(const uint8_t *block, int element) { return block[element % 32] >> (6 - element / 32 * 2) & 3; }

}  // namespace

int64_t find_invalid_code(const uint8_t *codes, size_t n_bytes) {
    for (size_t chunk = 0; chunk < n_bytes; chunk += chunk_bytes) {
        const size_t end = std::min(n_bytes, chunk + chunk_bytes);
        if (!has_invalid_code(codes + chunk, end - chunk)) continue;
        for (size_t block = chunk; block < end; block += i2_s_block_bytes) {
            for (int element = 0; element < int(i2_s_block_elements); element++) {
                if (code_at(codes + block, element) == 3) return int64_t(block * 4) + element;
            }
        }
    }
    return -1;
}

void repack_block64(const uint8_t *codes, size_t n_bytes, uint8_t *out) {
    for (size_t block = 0; block < n_bytes; block += i2_s_block_bytes) {
        for (size_t p = 0; p < 16; p++) {
            // Elements p, p+16, p+32, p+48 of the first group of 64 and of the second, the first in the highest bits.
            const unsigned first = codes[block + p], second = codes[block + 16 + p];
            out[block + p] =
                uint8_t((first & 0xc0) | (first << 2 & 0x30) | (second >> 4 & 0x0c) | (second >> 2 & 0x03));
            out[block + 16 + p] =
                uint8_t((first << 2 & 0xc0) | (first << 4 & 0x30) | (second >> 2 & 0x0c) | (second & 0x03));
        }
    }
}

}  // namespace bitnet
