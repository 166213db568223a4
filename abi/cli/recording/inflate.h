// DEFLATE (RFC 1951) and the ZIP files of NumPy's savez: just enough to read arrays.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet::recording {

// The `n_bytes` that the deflated `data` stands for. Throws CommandError when it is damaged or of another size.
std::string inflate(std::string_view data, size_t n_bytes);

struct ZipEntry {
    std::string name;
    std::string bytes;
};

// Every file of an archive, in its order, checked by its CRC-32. Throws CommandError beginning with `path`.
std::vector<ZipEntry> read_zip(const std::string &path, std::string_view archive);

}  // namespace bitnet::recording
