// What this machine can do at most, whoever computes: reading memory in order, and multiplying bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitnet {

// Memory that is only read, with its owner's release.
class ReadBuffer {
public:
    static ReadBuffer anonymous(size_t n_bytes);             // filled, on huge pages where the system gives them
    static ReadBuffer mapped_file(const std::string &path);  // as a model is mapped, every page touched
    static ReadBuffer borrowed(const void *data, size_t n_bytes);
    ReadBuffer(ReadBuffer &&other) noexcept;
    ReadBuffer &operator=(ReadBuffer &&) = delete;
    ~ReadBuffer();

    const uint8_t *data() const { return data_; }
    size_t size() const { return n_bytes_; }

private:
    ReadBuffer(const void *data, size_t n_bytes, bool owned)
        : data_(static_cast<const uint8_t *>(data)), n_bytes_(n_bytes), owned_(owned) {}
    const uint8_t *data_;
    size_t n_bytes_;
    bool owned_;
};

// The loops to read with; which is fastest differs between machines.
struct ReadLoop {
    const char *name;                                       // "prefetch 4 KB ahead"
    uint64_t (*read)(const uint8_t *data, size_t n_bytes);  // n_bytes: a multiple of read_step
};
constexpr size_t read_step = 1024;
// Those of the widest registers of this CPU.
const std::vector<ReadLoop> &read_loops();
// Bytes per second of n threads that together read the first `n_bytes_min` bytes of a buffer, each its own part; a
// buffer that is smaller is read again until so much has been read. It holds at least read_step bytes for each thread.
double read_bandwidth(const ReadBuffer &buffer, const ReadLoop &loop, int n_threads, size_t n_bytes_min);

// Products of bytes summed in registers, without memory.
struct ByteProducts {
    const char *name;  // "vpdpbusd, 512 bits"
    double macs_per_turn;
    void (*run)(uint64_t n_turns);
};
// Of the best instruction set that this CPU has.
const ByteProducts &byte_products();
// Multiply-adds per second of n threads.
double byte_product_rate(const ByteProducts &products, int n_threads);

}  // namespace bitnet
