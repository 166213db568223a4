// Writes a GGUF v3 file whose tensor data is made piece by piece: memory does not grow with the model.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet {

// Ids of the format.
enum class GgufTensorType : uint32_t { f32 = 0, f16 = 1, tq2_0 = 35, i2_s = 36 };

// A tensor's data, asked for in order: writes bytes [offset, offset + n) of it to `out`. Both are multiples of 32 but
// for the tensor's end.
using TensorSource = std::function<void(uint64_t offset, uint8_t *out, size_t n)>;

class GgufWriter {
public:
    // Keys and tensors stand in the file in the order in which they are added.
    void add_u32(std::string_view key, uint32_t value);
    void add_f32(std::string_view key, float value);
    void add_bool(std::string_view key, bool value);
    void add_string(std::string_view key, std::string_view value);
    void add_strings(std::string_view key, const std::vector<std::string> &values);
    void add_f32_array(std::string_view key, const std::vector<float> &values);
    void add_i32_array(std::string_view key, const std::vector<int32_t> &values);
    // `dims`: the contiguous dimension first.
    void add_tensor(std::string_view name, GgufTensorType type, std::vector<uint64_t> dims, TensorSource source);

    uint64_t n_tensors() const { return tensors_.size(); }
    // Writes beside `path` and renames, so that `path` is only ever a whole file; `progress` hears of bytes done and in
    // all. Returns the file's size. Throws CommandError with the system's reason; nothing is then left behind.
    uint64_t write(const std::string &path, const std::function<void(uint64_t, uint64_t)> &progress) const;
    std::string bytes() const;  // the whole file

private:
    struct Tensor {
        std::string name;
        GgufTensorType type;
        std::vector<uint64_t> dims;
        uint64_t n_bytes;
        TensorSource source;
    };
    std::string header() const;
    void each_piece(const std::function<void(const void *, size_t)> &take) const;

    std::string keys_;
    uint64_t n_keys_ = 0;
    std::vector<Tensor> tensors_;
};

}  // namespace bitnet
