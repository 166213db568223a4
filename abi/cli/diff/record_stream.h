// A trace that is read by a thread of its own, a bounded number of records ahead of who compares them.
#pragma once

#include "abi/cli/diff/trace.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace bitnet::diff {

using Batch = std::vector<Record>;

class RecordStream {
public:
    // Begins to read; `trace` belongs to the reading thread until next() has returned false.
    RecordStream(const std::string &path, Trace &trace);
    // Waits for the thread, which stops at its next record.
    ~RecordStream();
    RecordStream(const RecordStream &) = delete;
    RecordStream &operator=(const RecordStream &) = delete;

    // The next records, at least one; false at the end. Throws what the thread threw.
    bool next(Batch &batch);

private:
    struct Cancelled {};

    void read(const std::string &path, Trace &trace);
    void hand_over(Batch &batch);

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Batch> full_;
    std::vector<Batch> empty_;  // used up, their memory to be used again
    std::exception_ptr error_;
    bool ended_ = false, cancelled_ = false;
    std::thread thread_;  // last: it uses all of the above
};

}  // namespace bitnet::diff
