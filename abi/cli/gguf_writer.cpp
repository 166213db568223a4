#include "abi/cli/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian and is written from memory as it is");

constexpr uint32_t gguf_version = 3;
constexpr uint64_t alignment = 32;
constexpr uint64_t i2_s_tail = 32;     // the scale and padding after the codes
constexpr uint64_t tq2_0_block = 256;  // elements, in 64 bytes of codes and a half
constexpr uint64_t tq2_0_block_bytes = 66;
constexpr size_t chunk_bytes = 4 << 20;  // memory of a write; a multiple of the alignment

enum ValueType : uint32_t { type_u32 = 4, type_i32 = 5, type_f32 = 6, type_bool = 7, type_string = 8, type_array = 9 };

template <typename Number> void append(std::string &out, Number value) {
    out.append(reinterpret_cast<const char *>(&value), sizeof(value));
}

void append_string(std::string &out, std::string_view text) {
    append(out, static_cast<uint64_t>(text.size()));
    out += text;
}

template <typename Number> void append_array(std::string &out, ValueType item_type, const std::vector<Number> &values) {
    append(out, static_cast<uint32_t>(item_type));
    append(out, static_cast<uint64_t>(values.size()));
    for (const Number value : values) append(out, value);
}

uint64_t aligned(uint64_t n) { return (n + alignment - 1) / alignment * alignment; }

// A file under another name until it is whole.
class NewFile {
public:
    explicit NewFile(const std::string &path) : path_(path), temporary_(path + ".part-" + std::to_string(getpid())) {
        struct stat found;
        if (stat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode)) {
            throw CommandError(path + ": is there and is no regular file");
        }
        fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd_ < 0) fail("cannot create", 0);
    }
    ~NewFile() {
        if (fd_ >= 0) close(fd_);
        if (!in_place_) unlink(temporary_.c_str());
    }
    NewFile(const NewFile &) = delete;
    NewFile &operator=(const NewFile &) = delete;

    // In whole pieces, at multiples of their size: what is written in large pieces Linux keeps in large pages, and a
    // model is read fastest through those (model/FORMAT.md).
    void write(const void *data, size_t n) {
        const char *at = static_cast<const char *>(data);
        while (n > 0) {
            const size_t taken = std::min(n, piece_.size() - n_waiting_);
            std::memcpy(piece_.data() + n_waiting_, at, taken);
            n_waiting_ += taken;
            at += taken;
            n -= taken;
            if (n_waiting_ == piece_.size()) flush();
        }
    }
    void put_in_place() {
        flush();
        const int closed = close(fd_);
        fd_ = -1;
        if (closed != 0) fail("cannot write", n_written_);
        if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be put in place", n_written_);
        in_place_ = true;
    }
    uint64_t n_written() const { return n_written_ + n_waiting_; }

private:
    void flush() {
        for (size_t done = 0; done < n_waiting_;) {
            const ssize_t written = ::write(fd_, piece_.data() + done, n_waiting_ - done);
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) fail("cannot write", n_written_ + done);
            done += static_cast<size_t>(written);
        }
        n_written_ += n_waiting_;
        n_waiting_ = 0;
    }
    [[noreturn]] void fail(const char *what, uint64_t after) {
        const char *reason = std::strerror(errno);
        throw CommandError(after == 0 ? text_of("%s: %s: %s", path_.c_str(), what, reason)
                                      : text_of("%s: %s: %s (after %s bytes)", path_.c_str(), what, reason,
                                                with_commas(after).c_str()));
    }

    std::string path_;
    std::string temporary_;
    int fd_ = -1;
    std::vector<char> piece_ = std::vector<char>(chunk_bytes);
    size_t n_waiting_ = 0;
    uint64_t n_written_ = 0;
    bool in_place_ = false;
};

}  // namespace

void GgufWriter::add_u32(std::string_view key, uint32_t value) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_u32));
    append(keys_, value);
    n_keys_++;
}

void GgufWriter::add_f32(std::string_view key, float value) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_f32));
    append(keys_, value);
    n_keys_++;
}

void GgufWriter::add_bool(std::string_view key, bool value) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_bool));
    append(keys_, static_cast<uint8_t>(value));
    n_keys_++;
}

void GgufWriter::add_string(std::string_view key, std::string_view value) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_string));
    append_string(keys_, value);
    n_keys_++;
}

void GgufWriter::add_strings(std::string_view key, const std::vector<std::string> &values) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_array));
    append(keys_, static_cast<uint32_t>(type_string));
    append(keys_, static_cast<uint64_t>(values.size()));
    for (const std::string &value : values) append_string(keys_, value);
    n_keys_++;
}

void GgufWriter::add_f32_array(std::string_view key, const std::vector<float> &values) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_array));
    append_array(keys_, type_f32, values);
    n_keys_++;
}

void GgufWriter::add_i32_array(std::string_view key, const std::vector<int32_t> &values) {
    append_string(keys_, key);
    append(keys_, static_cast<uint32_t>(type_array));
    append_array(keys_, type_i32, values);
    n_keys_++;
}

void GgufWriter::add_tensor(std::string_view name, GgufTensorType type, std::vector<uint64_t> dims,
                            TensorSource source) {
    uint64_t n_elements = 1;
    for (const uint64_t dim : dims) n_elements *= dim;
    const uint64_t n_bytes = type == GgufTensorType::f32     ? n_elements * 4
                             : type == GgufTensorType::f16   ? n_elements * 2
                             : type == GgufTensorType::tq2_0 ? n_elements / tq2_0_block * tq2_0_block_bytes
                                                             : n_elements / 4 + i2_s_tail;
    tensors_.push_back({std::string(name), type, std::move(dims), n_bytes, std::move(source)});
}

std::string GgufWriter::header() const {
    std::string out = "GGUF";
    append(out, gguf_version);
    append(out, static_cast<uint64_t>(tensors_.size()));
    append(out, n_keys_);
    out += keys_;
    uint64_t offset = 0;
    for (const Tensor &tensor : tensors_) {
        append_string(out, tensor.name);
        append(out, static_cast<uint32_t>(tensor.dims.size()));
        for (const uint64_t dim : tensor.dims) append(out, dim);
        append(out, static_cast<uint32_t>(tensor.type));
        append(out, offset);
        offset += aligned(tensor.n_bytes);
    }
    out.resize(aligned(out.size()), '\0');
    return out;
}

void GgufWriter::each_piece(const std::function<void(const void *, size_t)> &take) const {
    const std::string head = header();
    take(head.data(), head.size());
    std::vector<uint8_t> chunk(chunk_bytes);
    for (const Tensor &tensor : tensors_) {
        for (uint64_t offset = 0; offset < tensor.n_bytes; offset += chunk_bytes) {
            const size_t n = static_cast<size_t>(std::min<uint64_t>(chunk_bytes, tensor.n_bytes - offset));
            tensor.source(offset, chunk.data(), n);
            std::fill(chunk.begin() + static_cast<std::ptrdiff_t>(n),
                      chunk.begin() + static_cast<std::ptrdiff_t>(aligned(n)), 0);
            take(chunk.data(), aligned(n));
        }
    }
}

uint64_t GgufWriter::write(const std::string &path, const std::function<void(uint64_t, uint64_t)> &progress) const {
    uint64_t total = header().size();
    for (const Tensor &tensor : tensors_) total += aligned(tensor.n_bytes);
    NewFile file(path);
    each_piece([&](const void *data, size_t n) {
        file.write(data, n);
        progress(file.n_written(), total);
    });
    file.put_in_place();
    return total;
}

std::string GgufWriter::bytes() const {
    std::string out;
    each_piece([&out](const void *data, size_t n) { out.append(static_cast<const char *>(data), n); });
    return out;
}

}  // namespace bitnet
