// Records of one side that wait for the other. The first few thousand wait in memory, the rest in a temporary file.
#pragma once

#include "abi/cli/diff/trace.h"

#include <cstdint>
#include <vector>

namespace bitnet::diff {

class WaitingRecords {
public:
    WaitingRecords() = default;
    ~WaitingRecords();
    WaitingRecords(const WaitingRecords &) = delete;
    WaitingRecords &operator=(const WaitingRecords &) = delete;

    // A slot, free again once its record was taken.
    uint32_t put(const Record &record);
    void take(uint32_t slot, Record &record);

private:
    // 32 MB. Two traces in the same order need a few hundred.
    static constexpr uint32_t kInMemory = 1 << 16;
    static constexpr uint32_t kInFile = uint32_t(1) << 31;  // bit of a slot of the file

    bool put_into_file(const Record &record, uint32_t &slot);

    std::vector<Record> memory_;
    std::vector<uint32_t> free_memory_, free_file_;
    uint32_t n_file_ = 0;  // slots of the file that were ever used
    int file_ = -1;
    bool no_file_ = false;  // there is no room on disk: everything waits in memory
};

}  // namespace bitnet::diff
