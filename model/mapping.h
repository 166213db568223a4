// The bytes of a model: a file mapped read-only, a file read into memory, or memory of the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace bitnet {

class Mapping {
public:
    static std::shared_ptr<const Mapping> map_file(const std::string &path);  // Error(io) with the system's reason
    static std::shared_ptr<const Mapping> read_file(const std::string &path);
    static std::shared_ptr<const Mapping> borrow(const void *data, size_t n_bytes, const std::string &name);
    static std::shared_ptr<const Mapping> copy(const void *data, size_t n_bytes, const std::string &name);
    ~Mapping();
    Mapping(const Mapping &) = delete;
    Mapping &operator=(const Mapping &) = delete;

    const uint8_t *data() const { return data_; }
    size_t size() const { return size_; }
    const std::string &name() const { return name_; }

private:
    enum class Owner { nobody, heap, map };
    Mapping(const uint8_t *data, size_t size, std::string name, Owner owner);
    const uint8_t *data_;
    size_t size_;
    std::string name_;
    Owner owner_;
};

}  // namespace bitnet
