#pragma once

#include <cstddef>

namespace bitnet::shim {

// Memory that grows, and is never given back before its owner ends.
struct Buffered {
    void *data;
    size_t capacity;
    void *get(size_t n_bytes);  // what it held stays; NULL: out of memory
};

}  // namespace bitnet::shim
