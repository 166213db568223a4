// One array in NumPy's NPY format.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet::recording {

struct Array {
    int32_t dtype = 0;            // BITNET_DTYPE_...; int64 becomes I32
    std::vector<uint64_t> shape;  // () has one element
    std::string bytes;            // C order, little-endian
    uint64_t n_elements() const;
};

size_t dtype_bytes(int32_t dtype);
// Element `i` of little-endian values of this type.
double value_at(const char *data, int32_t dtype, size_t i);

// Throws CommandError: what is wrong with these bytes, without a name. '<u2' is bf16, as plugins/TRACE_FORMAT.md has
// it;
// '<f8' is rounded to f32.
Array parse_npy(std::string_view file);

}  // namespace bitnet::recording
