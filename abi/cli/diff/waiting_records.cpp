#include "abi/cli/diff/waiting_records.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unistd.h>

namespace bitnet::diff {

namespace {

static_assert(std::is_trivially_copyable_v<Record>, "records are written as they are");

// A file without a name: gone when this process is.
int open_temporary() {
    const char *folder = std::getenv("TMPDIR");
    std::string name = std::string(folder && *folder ? folder : "/tmp") + "/bitnet-diff-XXXXXX";
    const int fd = mkostemp(name.data(), O_CLOEXEC);
    if (fd >= 0) unlink(name.c_str());
    return fd;
}

// Whole records only; false: not all of it could be moved.
template <class Move> bool whole(Move move, int fd, char *bytes, off_t offset) {
    for (size_t done = 0; done < sizeof(Record);) {
        const ssize_t n = move(fd, bytes + done, sizeof(Record) - done, offset + off_t(done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += size_t(n);
    }
    return true;
}

off_t offset_of(uint32_t file_slot) { return off_t(file_slot) * off_t(sizeof(Record)); }

}  // namespace

WaitingRecords::~WaitingRecords() {
    if (file_ >= 0) close(file_);
}

bool WaitingRecords::put_into_file(const Record &record, uint32_t &slot) {
    if (no_file_) return false;
    if (file_ < 0) file_ = open_temporary();
    const uint32_t at = free_file_.empty() ? n_file_ : free_file_.back();
    auto *bytes = const_cast<char *>(reinterpret_cast<const char *>(&record));
    no_file_ = file_ < 0 || at >= kInFile || !whole(pwrite, file_, bytes, offset_of(at));
    if (no_file_) return false;
    free_file_.empty() ? void(++n_file_) : free_file_.pop_back();
    slot = at | kInFile;
    return true;
}

uint32_t WaitingRecords::put(const Record &record) {
    if (free_memory_.empty()) {
        uint32_t slot = 0;
        if (memory_.size() >= kInMemory && put_into_file(record, slot)) return slot;
        memory_.push_back(record);
        return uint32_t(memory_.size() - 1);
    }
    const uint32_t slot = free_memory_.back();
    free_memory_.pop_back();
    memory_[slot] = record;
    return slot;
}

void WaitingRecords::take(uint32_t slot, Record &record) {
    if (!(slot & kInFile)) {
        record = memory_[slot];
        free_memory_.push_back(slot);
        return;
    }
    slot &= ~kInFile;
    if (!whole(pread, file_, reinterpret_cast<char *>(&record), offset_of(slot)))
        throw std::runtime_error(std::string("the temporary file for records cannot be read: ") + std::strerror(errno));
    free_file_.push_back(slot);
}

}  // namespace bitnet::diff
