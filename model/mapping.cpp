#include "model/mapping.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "model/error.h"

namespace bitnet {

namespace {

[[noreturn]] void fail_with_reason(const std::string &path, const char *action, int reason) {
    fail(Status::io, "%s: cannot %s: %s", path.c_str(), action, std::generic_category().message(reason).c_str());
}

constexpr size_t huge_page = size_t(2) << 20;

struct Free {
    void operator()(uint8_t *p) const { std::free(p); }
};
using Bytes = std::unique_ptr<uint8_t, Free>;

// On huge pages where the system has them: the weights are read in order again and again.
Bytes allocate(size_t n) {
    if (n > SIZE_MAX - huge_page) throw std::bad_alloc();
    const size_t rounded = n < huge_page ? (n + 63) / 64 * 64 : (n + huge_page - 1) / huge_page * huge_page;
    Bytes bytes(static_cast<uint8_t *>(std::aligned_alloc(n < huge_page ? 64 : huge_page, rounded)));
    if (!bytes) throw std::bad_alloc();
    if (n >= huge_page) madvise(bytes.get(), rounded, MADV_HUGEPAGE);  // a wish
    return bytes;
}

// A regular file, open for reading.
class OpenFile {
public:
    explicit OpenFile(const std::string &path) : path_(path) {
        // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd_ < 0) fail_with_reason(path, "open", errno);
        try {
            find_size();
        } catch (...) {
            close(fd_);
            throw;
        }
    }
    ~OpenFile() { close(fd_); }
    OpenFile(const OpenFile &) = delete;
    OpenFile &operator=(const OpenFile &) = delete;

    size_t size() const { return size_; }

    // At a multiple of a huge page: only there can Linux show the file's cached pages with huge ones. Those exist where
    // the file system keeps large folios (ext4 since 6.16, XFS) and the file was written in large pieces, or is read
    // for the first time through this mapping, which the advice makes the kernel do in pieces of a huge page
    // (FORMAT.md).
    const uint8_t *map() const {
        const size_t room = size_ < huge_page || size_ > SIZE_MAX - huge_page ? size_ : size_ + huge_page;
        void *reserved = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (reserved == MAP_FAILED) fail_with_reason(path_, "map", errno);
        auto *begin = static_cast<uint8_t *>(reserved), *end = begin + room;
        uint8_t *start = begin + (room > size_ ? (huge_page - uintptr_t(begin) % huge_page) % huge_page : 0);
        if (mmap(start, size_, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd_, 0) == MAP_FAILED) {
            const int reason = errno;
            munmap(begin, room);
            fail_with_reason(path_, "map", reason);
        }
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        uint8_t *stop = start + (size_ + page - 1) / page * page;
        if (start > begin) munmap(begin, size_t(start - begin));
        if (end > stop) munmap(stop, size_t(end - stop));
        if (room > size_) madvise(start, size_, MADV_HUGEPAGE);  // a wish
        return start;
    }

    void read_all(uint8_t *out) const {
        size_t done = 0;
        while (done < size_) {
            const ssize_t n = read(fd_, out + done, size_ - done);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) fail_with_reason(path_, "read", errno);
            if (n == 0) fail(Status::io, "%s: ended after %zu of %zu bytes", path_.c_str(), done, size_);
            done += size_t(n);
        }
    }

private:
    void find_size() {
        struct stat info;
        if (fstat(fd_, &info) != 0) fail_with_reason(path_, "examine", errno);
        if (S_ISDIR(info.st_mode)) fail_with_reason(path_, "read", EISDIR);
        if (!S_ISREG(info.st_mode)) fail(Status::io, "%s: cannot read: not a regular file", path_.c_str());
        if (info.st_size == 0) fail(Status::format, "%s: the file is empty", path_.c_str());
        size_ = size_t(info.st_size);
    }

    const std::string &path_;
    int fd_ = -1;
    size_t size_ = 0;
};

}  // namespace

Mapping::Mapping(const uint8_t *data, size_t size, std::string name, Owner owner)
    : data_(data), size_(size), name_(std::move(name)), owner_(owner) {}

Mapping::~Mapping() {
    if (owner_ == Owner::heap) std::free(const_cast<uint8_t *>(data_));
    if (owner_ == Owner::map) munmap(const_cast<uint8_t *>(data_), size_);
}

std::shared_ptr<const Mapping> Mapping::map_file(const std::string &path) {
    const OpenFile file(path);
    // The handle exists before the mapping, so that a failed allocation cannot leak it.
    std::unique_ptr<Mapping> mapping(new Mapping(nullptr, file.size(), path, Owner::nobody));
    mapping->data_ = file.map();
    mapping->owner_ = Owner::map;
    return mapping;
}

std::shared_ptr<const Mapping> Mapping::read_file(const std::string &path) {
    const OpenFile file(path);
    Bytes bytes = allocate(file.size());
    file.read_all(bytes.get());
    std::unique_ptr<Mapping> mapping(new Mapping(bytes.get(), file.size(), path, Owner::heap));
    bytes.release();
    return mapping;
}

std::shared_ptr<const Mapping> Mapping::borrow(const void *data, size_t n_bytes, const std::string &name) {
    if (n_bytes == 0) fail(Status::format, "%s: the file is empty", name.c_str());
    const auto *bytes = static_cast<const uint8_t *>(data);
    return std::unique_ptr<Mapping>(new Mapping(bytes, n_bytes, name, Owner::nobody));
}

std::shared_ptr<const Mapping> Mapping::copy(const void *data, size_t n_bytes, const std::string &name) {
    if (n_bytes == 0) fail(Status::format, "%s: the file is empty", name.c_str());
    Bytes bytes = allocate(n_bytes);
    memcpy(bytes.get(), data, n_bytes);
    std::unique_ptr<Mapping> mapping(new Mapping(bytes.get(), n_bytes, name, Owner::heap));
    bytes.release();
    return mapping;
}

}  // namespace bitnet
