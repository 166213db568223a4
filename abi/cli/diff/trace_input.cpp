#include "abi/cli/diff/trace_input.h"

#include "abi/cli/diff/text.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

namespace bitnet::diff {

namespace {

constexpr size_t kPackedBytes = size_t(1) << 17;
constexpr unsigned char kMagic[] = {0x28, 0xb5, 0x2f, 0xfd};  // of a zstd frame

}  // namespace

TraceInput::TraceInput(const std::string &path) : packed_(kPackedBytes), zstd_(nullptr, ZSTD_freeDCtx) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) {
        problem_ = std::strerror(errno);
        return;
    }
    while (end_ < sizeof kMagic) {
        const size_t got = read_file(packed_.data() + end_, packed_.size() - end_);
        if (got == 0) break;
        end_ += got;
    }
    const bool has_magic = end_ >= sizeof kMagic && std::memcmp(packed_.data(), kMagic, sizeof kMagic) == 0;
    if (has_magic || (path.ends_with(".zst") && end_ > 0)) {
        zstd_.reset(ZSTD_createDCtx());
        if (!zstd_) throw std::bad_alloc();
    }
}

TraceInput::~TraceInput() {
    if (fd_ >= 0) close(fd_);
}

size_t TraceInput::read_file(char *out, size_t n) {
    for (;;) {
        const ssize_t got = ::read(fd_, out, n);
        if (got >= 0) return size_t(got);
        if (errno == EINTR) continue;
        problem_ = std::strerror(errno);
        return 0;
    }
}

size_t TraceInput::read(char *out, size_t n) {
    if (!problem_.empty() || n == 0) return 0;
    if (zstd_) return read_packed(out, n);
    if (begin_ == end_) return read_file(out, n);
    const size_t taken = std::min(n, end_ - begin_);  // what was read to look at the first bytes
    std::memcpy(out, packed_.data() + begin_, taken);
    begin_ += taken;
    return taken;
}

size_t TraceInput::read_packed(char *out, size_t n) {
    ZSTD_outBuffer to = {out, n, 0};
    while (to.pos == 0) {
        if (begin_ == end_) {
            begin_ = 0;
            end_ = read_file(packed_.data(), packed_.size());
        }
        if (begin_ == end_) {
            if (wanted_ != 0 && problem_.empty()) problem_ = "cut short: its zstd stream has no end";
            return 0;
        }
        ZSTD_inBuffer from = {packed_.data(), end_, begin_};
        wanted_ = ZSTD_decompressStream(zstd_.get(), &to, &from);
        n_used_ += from.pos - begin_;
        begin_ = from.pos;
        if (ZSTD_isError(wanted_)) {
            problem_ = format_text("damaged zstd stream near byte %llu: %s", static_cast<unsigned long long>(n_used_),
                                   ZSTD_getErrorName(wanted_));
            return to.pos;
        }
    }
    return to.pos;
}

}  // namespace bitnet::diff
