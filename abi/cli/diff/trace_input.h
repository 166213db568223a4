// The bytes of a trace file, which may be compressed with zstd.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct ZSTD_DCtx_s;

namespace bitnet::diff {

class TraceInput {
public:
    // A file is taken for compressed by its first bytes, or by its name. Never throws but for memory: see problem().
    explicit TraceInput(const std::string &path);
    ~TraceInput();
    TraceInput(const TraceInput &) = delete;
    TraceInput &operator=(const TraceInput &) = delete;

    bool is_open() const { return fd_ >= 0; }
    // Up to `n` bytes, at least one; 0 at the end, and when it cannot go on.
    size_t read(char *out, size_t n);
    // What is wrong with the file so far, "" when nothing: it cannot be read, is damaged, or ends too early.
    const std::string &problem() const { return problem_; }

private:
    size_t read_file(char *out, size_t n);
    size_t read_packed(char *out, size_t n);

    int fd_ = -1;
    std::string problem_;
    std::vector<char> packed_;  // bytes of the file that are not used yet
    size_t begin_ = 0, end_ = 0;
    std::unique_ptr<ZSTD_DCtx_s, size_t (*)(ZSTD_DCtx_s *)> zstd_;  // null: not compressed
    size_t wanted_ = 0;                                             // 0: at the end of a frame
    uint64_t n_used_ = 0;                                           // bytes of the file that were decompressed
};

}  // namespace bitnet::diff
