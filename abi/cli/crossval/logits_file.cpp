// npy: and raw: rows of float32, one after another.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "abi/cli/crossval/source.h"
#include "abi/cli/options.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr size_t npy_header_max = 4096;  // of a plain array it is about a hundred bytes

class RowFile : public Source {
public:
    RowFile(const char *prefix, std::string path) : prefix_(prefix), path_(std::move(path)) {}

    std::string name() const override { return prefix_ + path_; }
    void open(const bitnet_model_t *model) override { n_vocab_ = size_t(model_info(model).n_vocab); }

    Offered begin(size_t index, const Ids &tokens) override {
        current_ = path_of_prompt(path_, index);
        file_.reset(std::fopen(current_.c_str(), "rb"));
        if (!file_) throw CommandError(text_of("%s: cannot open: %s", shown().c_str(), std::strerror(errno)));
        const size_t n_rows = read_header();
        data_begin_ = std::ftell(file_.get());
        Offered offered;
        if (n_rows == 1 && tokens.size() > 1) {  // an engine that gives the last row only
            first_ = int(tokens.size()) - 1;
            offered.partial = true;
        } else if (n_rows == tokens.size()) {
            first_ = 0;
        } else {
            throw CommandError(text_of("%s: %zu rows, but the prompt has %zu tokens: expected one row for each, or "
                                       "one for the last",
                                       shown().c_str(), n_rows, tokens.size()));
        }
        for (size_t i = 0; i < n_rows; i++) offered.positions.push_back(first_ + int(i));
        row_.resize(n_vocab_);
        return offered;
    }

    const float *compare(int position, const float *ours, const bitnet_logits_limits_t &limits,
                         bitnet_logits_row_t &row) override {
        const size_t row_bytes = n_vocab_ * sizeof(float);
        const long offset = data_begin_ + long(row_bytes) * (position - first_);
        if (std::fseek(file_.get(), offset, SEEK_SET) != 0 ||
            std::fread(row_.data(), 1, row_bytes, file_.get()) != row_bytes)
            throw CommandError(text_of("%s: cut short: row %d is not whole", shown().c_str(), position - first_));
        compare_values(ours, row_.data(), n_vocab_, limits, row);
        return row_.data();
    }

protected:
    // Leaves the file where the rows begin; returns how many there are.
    virtual size_t read_header() = 0;
    std::string shown() const { return printable(current_); }
    FILE *file() const { return file_.get(); }
    size_t n_vocab() const { return n_vocab_; }

    size_t bytes_left() const {
        const long at = std::ftell(file());
        std::fseek(file(), 0, SEEK_END);
        const long end = std::ftell(file());
        std::fseek(file(), at, SEEK_SET);
        if (at < 0 || end < at) throw CommandError(shown() + ": its size cannot be told: expected a regular file");
        return size_t(end - at);
    }

private:
    std::string prefix_, path_, current_;
    std::unique_ptr<FILE, int (*)(FILE *)> file_{nullptr, std::fclose};
    size_t n_vocab_ = 0;
    long data_begin_ = 0;
    int first_ = 0;
    std::vector<float> row_;
};

class RawFile : public RowFile {
public:
    explicit RawFile(const std::string &path) : RowFile("raw:", path) {}

protected:
    size_t read_header() override {
        const size_t n = bytes_left(), row_bytes = n_vocab() * sizeof(float);
        if (n == 0 || n % row_bytes != 0)
            throw CommandError(text_of("%s: %zu bytes, expected a multiple of %zu: rows of %zu float32",
                                       shown().c_str(), n, row_bytes, n_vocab()));
        return n / row_bytes;
    }
};

// NumPy's format 1.0, 2.0 and 3.0.
class NpyFile : public RowFile {
public:
    explicit NpyFile(const std::string &path) : RowFile("npy:", path) {}

protected:
    size_t read_header() override {
        const std::string header = header_text();
        const std::string type = field(header, "'descr':", "'", "'");
        if (type != "<f4")
            throw CommandError(
                text_of("%s: values of type '%s', expected '<f4' (float32)", shown().c_str(), printable(type).c_str()));
        const std::string shape = field(header, "'shape':", "(", ")");
        std::vector<size_t> dims = numbers_of(shape);
        while (dims.size() > 2 && dims.front() == 1) dims.erase(dims.begin());  // a batch of one
        if (dims.size() == 1) dims.insert(dims.begin(), 1);
        if (field(header, "'fortran_order':", " ", ",") == "True" && dims.size() == 2 && dims.front() != 1)
            throw CommandError(shown() + ": Fortran order, expected C order: rows of logits");
        if (dims.size() != 2 || dims[1] != n_vocab() || dims[0] == 0)
            throw CommandError(
                text_of("%s: shape (%s), expected (positions, %zu)", shown().c_str(), shape.c_str(), n_vocab()));
        if (bytes_left() / sizeof(float) / n_vocab() < dims[0])
            throw CommandError(text_of("%s: cut short: %zu bytes of data, expected %zu rows of %zu float32",
                                       shown().c_str(), bytes_left(), dims[0], n_vocab()));
        return dims[0];
    }

private:
    // What stands behind `key` between `open` and `close`.
    std::string field(const std::string &header, const char *key, const char *open, const char *close) const {
        const size_t at = header.find(key);
        const size_t begin = at == std::string::npos ? at : header.find(open, at + std::strlen(key));
        const size_t end = begin == std::string::npos ? begin : header.find(close, begin + 1);
        if (end == std::string::npos)
            throw CommandError(shown() + ": a NumPy header without descr, fortran_order or shape");
        return header.substr(begin + 1, end - begin - 1);
    }

    static std::vector<size_t> numbers_of(const std::string &list) {
        std::vector<size_t> numbers;
        for (size_t at = list.find_first_not_of(" ,"); at != std::string::npos;) {
            const size_t end = std::min(list.find_first_of(" ,", at), list.size());
            uint64_t number = 0;
            // What is no number, or too large for one, is a shape that no model has.
            if (!parse_whole_number(list.substr(at, end - at), number)) return {0, 0};
            numbers.push_back(size_t(number));
            at = list.find_first_not_of(" ,", end);
        }
        return numbers;
    }

    std::string header_text() const {
        unsigned char begin[12];
        if (std::fread(begin, 1, 10, file()) != 10 || std::memcmp(begin, "\x93NUMPY", 6) != 0)
            throw CommandError(shown() + ": no NumPy file: it does not begin with \\x93NUMPY");
        size_t n = size_t(begin[8]) | size_t(begin[9]) << 8;
        if (begin[6] > 1) {
            if (std::fread(begin + 10, 1, 2, file()) != 2) n = 0;
            n |= size_t(begin[10]) << 16 | size_t(begin[11]) << 24;
        }
        std::string header(std::min(n, npy_header_max), '\0');
        if (n == 0 || n > npy_header_max || std::fread(header.data(), 1, n, file()) != n)
            throw CommandError(shown() + ": the NumPy header is damaged");
        return header;
    }
};

}  // namespace

std::unique_ptr<Source> open_npy(const std::string &path) { return std::make_unique<NpyFile>(path); }
std::unique_ptr<Source> open_raw(const std::string &path) { return std::make_unique<RawFile>(path); }

}  // namespace bitnet::crossval
