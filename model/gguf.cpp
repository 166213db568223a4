// The structure of a GGUF file, read from bytes that nobody vouches for: every length is checked against what is left
// before it is used, and nothing is allocated that the file could not hold.
#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/error.h"
#include "model/i2_s.h"

namespace bitnet {

namespace {

using ull = unsigned long long;

constexpr uint32_t version_min = 2;
constexpr uint32_t version_max = 3;
constexpr uint64_t key_name_bytes_max = 65535;
constexpr uint64_t tensor_name_bytes_max = 63;  // ggml keeps 64 with the terminating zero
constexpr uint32_t dims_max = 4;
constexpr uint64_t alignment_default = 32;
// Of an entry with the shortest name and value: what a count must fit into.
constexpr uint64_t key_bytes_min = 8 + 1 + 4 + 1;
constexpr uint64_t tensor_bytes_min = 8 + 1 + 4 + 8 + 4 + 8;

struct TypeName {
    uint32_t id;
    const char *name;
};

// Well-known ids, so that a message can say what a file holds.
constexpr TypeName type_names[] = {
    {0, "F32"},      {1, "F16"},      {2, "Q4_0"},     {3, "Q4_1"},   {6, "Q5_0"},    {7, "Q5_1"},   {8, "Q8_0"},
    {9, "Q8_1"},     {10, "Q2_K"},    {11, "Q3_K"},    {12, "Q4_K"},  {13, "Q5_K"},   {14, "Q6_K"},  {15, "Q8_K"},
    {16, "IQ2_XXS"}, {17, "IQ2_XS"},  {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},
    {23, "IQ4_XS"},  {24, "I8"},      {25, "I16"},     {26, "I32"},   {27, "I64"},    {28, "F64"},   {29, "IQ1_M"},
    {30, "BF16"},    {34, "TQ1_0"},   {35, "TQ2_0"},   {36, "I2_S"},  {37, "I8_S"},   {38, "TL1"},   {39, "TL2"},
    {134, "IQ1_BN"}, {135, "IQ2_BN"},
};
constexpr uint32_t type_tl1 = 38;
constexpr uint32_t type_tl2 = 39;

const char *tensor_type_name(uint32_t id) {
    for (const TypeName &type : type_names) {
        if (type.id == id) return type.name;
    }
    return nullptr;
}

// Bytes of one item; 0 for strings and arrays, whose items have no fixed size.
uint64_t item_bytes(GgufType type) {
    switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64: return 8;
    case GgufType::string:
    case GgufType::array: break;
    }
    return 0;
}

std::string dims_text(const GgufTensor &tensor) {
    std::string text = "[";
    for (uint32_t i = 0; i < tensor.n_dims; i++) {
        text += (i > 0 ? ", " : "") + std::to_string(int64_t(tensor.dims[i]));
    }
    return text + "]";
}

// What is being read, for messages: "key 3" until the name is known, then "key 'general.name'".
struct Place {
    const char *kind;  // "key", "tensor"; "header" has neither number nor name
    uint64_t number = 0;
    std::string_view name = {};

    std::string text() const {
        if (!name.empty()) return format_text("%s '%s'", kind, quoted(name.data(), name.size()).c_str());
        if (std::string_view(kind) == "header") return kind;
        return format_text("%s %llu", kind, (ull)number);
    }
};

// Reads front to back and never past the end.
class Cursor {
public:
    explicit Cursor(const Mapping &bytes) : bytes_(bytes) {}

    uint64_t position() const { return position_; }
    uint64_t left() const { return bytes_.size() - position_; }
    const uint8_t *here() const { return bytes_.data() + position_; }

    template <typename T> T read(const Place &place, const char *what) {
        T value;
        memcpy(&value, take(sizeof(T), place, what), sizeof(T));
        return value;
    }

    // A length in bytes or items, checked against what is left of the file.
    uint64_t read_length(uint64_t bytes_each, const Place &place, const char *what) {
        const auto length = read<uint64_t>(place, what);
        if (length > left() / bytes_each) {
            fail(Status::format, "%s: %s: %s %llu: only %llu bytes of the file are left", bytes_.name().c_str(),
                 place.text().c_str(), what, (ull)length, (ull)left());
        }
        return length;
    }

    std::string_view read_string(const Place &place, const char *what) {
        const uint64_t length = read_length(1, place, what);
        return {reinterpret_cast<const char *>(take(length, place, what)), size_t(length)};
    }

    const uint8_t *take(uint64_t n_bytes, const Place &place, const char *what) {
        if (n_bytes > left()) {
            fail(Status::format, "%s: %s: %s: needs %llu bytes at byte %llu, but the file ends at %llu",
                 bytes_.name().c_str(), place.text().c_str(), what, (ull)n_bytes, (ull)position_, (ull)bytes_.size());
        }
        const uint8_t *data = here();
        position_ += n_bytes;
        return data;
    }

private:
    const Mapping &bytes_;
    uint64_t position_ = 0;
};

class Reader {
public:
    Reader(const Mapping &bytes, std::vector<GgufKey> &keys, std::vector<GgufTensor> &tensors)
        : bytes_(bytes), cursor_(bytes), keys_(keys), tensors_(tensors) {}

    // Returns the version.
    uint32_t read() {
        const uint32_t version = read_version();
        const uint64_t n_tensors = read_count("tensor count");
        const uint64_t n_keys = read_count("key count");
        check_count("tensor count", n_tensors, tensor_bytes_min);
        check_count("key count", n_keys, key_bytes_min);
        for (uint64_t i = 0; i < n_keys; i++) keys_.push_back(read_key(i));
        check_unique(keys_, "key");
        find_alignment();
        check_count("tensor count", n_tensors, tensor_bytes_min);
        for (uint64_t i = 0; i < n_tensors; i++) tensors_.push_back(read_tensor(i));
        check_unique(tensors_, "tensor");
        place_tensors();
        check_overlap();
        return version;
    }

private:
    const char *file() const { return bytes_.name().c_str(); }

    uint32_t read_version() {
        const Place header = {"header"};
        const char *magic = reinterpret_cast<const char *>(cursor_.take(4, header, "magic"));
        if (memcmp(magic, "GGUF", 4) != 0) {
            fail(Status::format, "%s: magic '%s': expected 'GGUF'", file(), quoted(magic, 4).c_str());
        }
        const auto version = cursor_.read<uint32_t>(header, "version");
        const uint32_t swapped = __builtin_bswap32(version);
        if (version >= version_min && version <= version_max) return version;
        if (swapped >= 1 && swapped <= version_max) {
            fail(Status::unsupported, "%s: version %u byte-swapped (0x%08x): big-endian files are not supported",
                 file(), swapped, version);
        }
        const char *remark = version == 1 ? " (version 1 is too old: convert the model again)" : "";
        fail(Status::unsupported, "%s: version %u: expected %u or %u%s", file(), version, version_min, version_max,
             remark);
    }

    uint64_t read_count(const char *what) { return cursor_.read<uint64_t>({"header"}, what); }

    void check_count(const char *what, uint64_t count, uint64_t bytes_each) {
        const uint64_t most = cursor_.left() / bytes_each;
        if (count <= most) return;
        fail(Status::format, "%s: %s %lld: the %llu bytes that follow hold at most %llu", file(), what,
             (long long)count, (ull)cursor_.left(), (ull)most);
    }

    std::string read_name(const Place &place, uint64_t bytes_max) {
        const std::string_view name = cursor_.read_string(place, "name length");
        if (name.empty()) fail(Status::format, "%s: %s: empty name", file(), place.text().c_str());
        if (name.size() > bytes_max) {
            fail(Status::format, "%s: %s '%s': name of %zu bytes: expected at most %llu", file(), place.kind,
                 quoted(name.data(), name.size()).c_str(), name.size(), (ull)bytes_max);
        }
        // The C ABI hands names out as C strings: a zero inside would make two names one.
        if (name.find('\0') != std::string_view::npos) {
            fail(Status::format, "%s: %s '%s': zero byte in the name", file(), place.kind,
                 quoted(name.data(), name.size()).c_str());
        }
        return std::string(name);
    }

    GgufType read_type(const Place &place, const char *what) {
        const auto id = cursor_.read<uint32_t>(place, what);
        if (id > uint32_t(GgufType::f64)) {
            fail(Status::format, "%s: %s: %s %u: expected 0 to %u", file(), place.text().c_str(), what, id,
                 uint32_t(GgufType::f64));
        }
        return GgufType(id);
    }

    GgufKey read_key(uint64_t i) {
        GgufKey key;
        Place place = {"key", i};
        key.name = read_name(place, key_name_bytes_max);
        place.name = key.name;
        key.type = key.item_type = read_type(place, "value type");
        uint64_t count = 1;
        if (key.type == GgufType::array) {
            key.item_type = read_type(place, "item type");
            if (key.item_type == GgufType::array) {
                fail(Status::unsupported, "%s: %s: an array of arrays: expected numbers or strings", file(),
                     place.text().c_str());
            }
            const uint64_t bytes_each = item_bytes(key.item_type);
            count = cursor_.read_length(bytes_each ? bytes_each : sizeof(uint64_t), place, "array length");
        }
        key.length = count;
        key.data = cursor_.here();
        if (key.item_type == GgufType::string) {
            for (uint64_t k = 0; k < count; k++) key.strings.push_back(cursor_.read_string(place, "string length"));
        } else {
            cursor_.take(count * item_bytes(key.item_type), place, "value");
        }
        if (key.item_type == GgufType::boolean) check_booleans(key, place);
        return key;
    }

    void check_booleans(const GgufKey &key, const Place &place) {
        for (uint64_t k = 0; k < key.length; k++) {
            if (key.data[k] > 1) {
                fail(Status::format, "%s: %s: bool %u: expected 0 or 1", file(), place.text().c_str(), key.data[k]);
            }
        }
    }

    void find_alignment() {
        const auto key = std::find_if(keys_.begin(), keys_.end(),
                                      [](const GgufKey &item) { return item.name == "general.alignment"; });
        if (key == keys_.end()) return;
        if (key->type != GgufType::u32) {
            fail(Status::format, "%s: key 'general.alignment': type %s: expected u32", file(),
                 key->type_text().c_str());
        }
        alignment_ = uint64_t(key->integer());
        if (alignment_ == 0 || (alignment_ & (alignment_ - 1)) != 0) {
            fail(Status::format, "%s: key 'general.alignment': %llu: expected a power of two", file(), (ull)alignment_);
        }
    }

    GgufTensor read_tensor(uint64_t i) {
        GgufTensor tensor = {};
        Place place = {"tensor", i};
        tensor.name = read_name(place, tensor_name_bytes_max);
        place.name = tensor.name;
        tensor.n_dims = cursor_.read<uint32_t>(place, "number of dimensions");
        if (tensor.n_dims < 1 || tensor.n_dims > dims_max) {
            fail(Status::format, "%s: %s: %u dimensions: expected 1 to %u", file(), place.text().c_str(), tensor.n_dims,
                 dims_max);
        }
        std::fill(std::begin(tensor.dims), std::end(tensor.dims), 1);
        for (uint32_t k = 0; k < tensor.n_dims; k++) {
            tensor.dims[k] = cursor_.read<uint64_t>(place, "dimension");
            if (int64_t(tensor.dims[k]) <= 0) {
                fail(Status::format, "%s: %s: ne[%u] = %lld: expected 1 or more", file(), place.text().c_str(), k,
                     (long long)tensor.dims[k]);
            }
        }
        tensor.type_id = cursor_.read<uint32_t>(place, "type");
        tensor.offset = cursor_.read<uint64_t>(place, "offset");
        check_type(tensor, place);
        find_size(tensor, place);
        return tensor;
    }

    void check_type(GgufTensor &tensor, const Place &place) {
        const char *name = tensor_type_name(tensor.type_id);
        switch (tensor.type_id) {
        case uint32_t(TensorType::f32):
        case uint32_t(TensorType::f16):
        case uint32_t(TensorType::bf16):
        case uint32_t(TensorType::i2_s): tensor.type_name = name; return;
        case type_tl1:
        case type_tl2:
            fail(
                Status::unsupported,
                "%s: %s: type %u (%s) is laid out for one generated kernel and not portable: convert the model to I2_S "
                "with bitnet.cpp (convert-hf-to-gguf-bitnet.py --outtype f32, then llama-quantize ... i2_s)",
                file(), place.text().c_str(), tensor.type_id, name);
        default:
            fail(Status::unsupported, "%s: %s: type %u (%s) is not supported: expected F32, F16, BF16 or I2_S", file(),
                 place.text().c_str(), tensor.type_id, name ? name : "unknown");
        }
    }

    void find_size(GgufTensor &tensor, const Place &place) {
        uint64_t n = 1;
        bool overflow = false;
        for (const uint64_t dim : tensor.dims) overflow |= __builtin_mul_overflow(n, dim, &n);
        uint64_t n_bytes = 0;
        const uint64_t bytes_each = tensor.type() == TensorType::f32 ? 4 : 2;
        overflow |= __builtin_mul_overflow(n, bytes_each, &n_bytes);
        if (overflow) {
            fail(Status::format, "%s: %s: dims %s: the size does not fit in 64 bits", file(), place.text().c_str(),
                 dims_text(tensor).c_str());
        }
        if (tensor.type() == TensorType::i2_s) {
            if (tensor.dims[0] % i2_s_block_elements != 0) {
                fail(Status::unsupported, "%s: %s: ne[0] = %llu is not a multiple of %llu, the block of I2_S", file(),
                     place.text().c_str(), (ull)tensor.dims[0], (ull)i2_s_block_elements);
            }
            n_bytes = n / 4 + i2_s_tail_bytes;
        }
        tensor.n_bytes = n_bytes;
    }

    // Turns offsets within the tensor data into offsets within the file.
    void place_tensors() {
        const uint64_t begin = (cursor_.position() + alignment_ - 1) / alignment_ * alignment_;
        const uint64_t n_data = bytes_.size() > begin ? bytes_.size() - begin : 0;
        for (GgufTensor &tensor : tensors_) {
            if (tensor.offset % alignment_ != 0) {
                fail(Status::format, "%s: tensor '%s': offset %llu is not a multiple of the alignment %llu", file(),
                     quoted(tensor.name).c_str(), (ull)tensor.offset, (ull)alignment_);
            }
            if (tensor.offset > n_data || tensor.n_bytes > n_data - tensor.offset) {
                fail(Status::format,
                     "%s: tensor '%s': %llu bytes at offset %llu reach beyond the %llu bytes of tensor data", file(),
                     quoted(tensor.name).c_str(), (ull)tensor.n_bytes, (ull)tensor.offset, (ull)n_data);
            }
            tensor.offset += begin;
            tensor.data = bytes_.data() + tensor.offset;
        }
    }

    void check_overlap() {
        std::vector<const GgufTensor *> sorted;
        sorted.reserve(tensors_.size());
        for (const GgufTensor &tensor : tensors_) sorted.push_back(&tensor);
        std::sort(sorted.begin(), sorted.end(), [](const GgufTensor *a, const GgufTensor *b) {
            return std::pair(a->offset, a) < std::pair(b->offset, b);
        });
        for (size_t i = 1; i < sorted.size(); i++) {
            const GgufTensor &before = *sorted[i - 1], &tensor = *sorted[i];
            if (before.offset + before.n_bytes <= tensor.offset) continue;
            fail(Status::format, "%s: tensor '%s': begins at byte %llu, inside tensor '%s' (bytes %llu to %llu)",
                 file(), quoted(tensor.name).c_str(), (ull)tensor.offset, quoted(before.name).c_str(),
                 (ull)before.offset, (ull)(before.offset + before.n_bytes - 1));
        }
    }

    // By sorting: a hash table could be driven into quadratic time by chosen names.
    template <typename Item> void check_unique(const std::vector<Item> &items, const char *kind) {
        std::vector<const Item *> sorted;
        sorted.reserve(items.size());
        for (const Item &item : items) sorted.push_back(&item);
        std::sort(sorted.begin(), sorted.end(), [](const Item *a, const Item *b) {
            const int order = a->name.compare(b->name);
            return order != 0 ? order < 0 : a < b;
        });
        for (size_t i = 1; i < sorted.size(); i++) {
            if (sorted[i]->name != sorted[i - 1]->name) continue;
            fail(Status::format, "%s: %s '%s' occurs twice: as number %llu and number %llu", file(), kind,
                 quoted(sorted[i]->name).c_str(), (ull)(sorted[i - 1] - items.data()), (ull)(sorted[i] - items.data()));
        }
    }

    const Mapping &bytes_;
    Cursor cursor_;
    std::vector<GgufKey> &keys_;
    std::vector<GgufTensor> &tensors_;
    uint64_t alignment_ = alignment_default;
};

}  // namespace

GgufFile::GgufFile(std::shared_ptr<const Mapping> bytes) : bytes_(std::move(bytes)) {
    version_ = Reader(*bytes_, keys_, tensors_).read();
}

const GgufKey *GgufFile::find_key(std::string_view name) const {
    for (const GgufKey &key : keys_) {
        if (key.name == name) return &key;
    }
    return nullptr;
}

const GgufTensor *GgufFile::find_tensor(std::string_view name) const {
    for (const GgufTensor &tensor : tensors_) {
        if (tensor.name == name) return &tensor;
    }
    return nullptr;
}

}  // namespace bitnet
