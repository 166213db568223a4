// A GGUF file as bounds-checked views: keys and tensor infos, nothing interpreted. Format: model/FORMAT.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/mapping.h"

namespace bitnet {

enum class GgufType : uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12,
};
const char *gguf_type_name(GgufType type);  // "u32", "str", "bool"

// A key's value stays where it is in the file; the accessors decode it on demand (nothing is aligned in a GGUF).
struct GgufKey {
    std::string name;
    GgufType type;
    GgufType item_type;                     // of an array; else == type
    uint64_t length = 1;                    // items
    const uint8_t *data;                    // first item
    std::vector<std::string_view> strings;  // items of a string or an array of strings

    std::string type_text() const;               // "u32", "arr[str]"
    std::string text(uint64_t max_items) const;  // value for people
    double number(uint64_t i = 0) const;         // numeric and boolean types
    int64_t integer(uint64_t i = 0) const;
};

enum class TensorType : uint32_t { f32 = 0, f16 = 1, bf16 = 30, i2_s = 36 };

struct GgufTensor {
    std::string name;
    uint32_t type_id;  // as in the file; one of TensorType after GgufFile accepted it
    std::string type_name;
    uint32_t n_dims;
    uint64_t dims[4];  // dims[0] is contiguous; unused ones are 1
    uint64_t offset;   // from the start of the file
    uint64_t n_bytes;
    const uint8_t *data;

    TensorType type() const { return static_cast<TensorType>(type_id); }
    uint64_t n_elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
};

// Reads and checks the whole structure. Throws Error(format or unsupported) with the file's name, the offending key or
// tensor, what was found and what was expected.
class GgufFile {
public:
    explicit GgufFile(std::shared_ptr<const Mapping> bytes);

    const std::string &name() const { return bytes_->name(); }
    const Mapping &bytes() const { return *bytes_; }
    std::shared_ptr<const Mapping> shared_bytes() const { return bytes_; }
    uint32_t version() const { return version_; }
    const std::vector<GgufKey> &keys() const { return keys_; }
    const std::vector<GgufTensor> &tensors() const { return tensors_; }
    const GgufKey *find_key(std::string_view name) const;  // nullptr: not there
    const GgufTensor *find_tensor(std::string_view name) const;

private:
    std::shared_ptr<const Mapping> bytes_;
    uint32_t version_ = 0;
    std::vector<GgufKey> keys_;
    std::vector<GgufTensor> tensors_;
};

}  // namespace bitnet
