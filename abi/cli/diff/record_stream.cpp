#include "abi/cli/diff/record_stream.h"

#include "abi/cli/diff/trace_reader.h"

namespace bitnet::diff {

namespace {

constexpr size_t kBatchRecords = 128;  // 64 KB: stays in the second-level cache between the threads
constexpr size_t kBatchesAhead = 16;

}  // namespace

RecordStream::RecordStream(const std::string &path, Trace &trace)
    : thread_([this, path, &trace] { read(path, trace); }) {}

RecordStream::~RecordStream() {
    {
        const std::lock_guard lock(mutex_);
        cancelled_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void RecordStream::read(const std::string &path, Trace &trace) {
    std::exception_ptr error;
    try {
        Batch batch;
        stream_trace(path, trace, [&](const Record &record) {
            batch.push_back(record);
            if (batch.size() == kBatchRecords) hand_over(batch);
        });
        if (!batch.empty()) hand_over(batch);
    } catch (const Cancelled &) {
    } catch (...) {
        error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    error_ = error;
    ended_ = true;
    changed_.notify_all();
}

// Leaves an empty batch.
void RecordStream::hand_over(Batch &batch) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return full_.size() < kBatchesAhead || cancelled_; });
    if (cancelled_) throw Cancelled();
    full_.push_back(std::move(batch));
    batch = Batch();
    if (!empty_.empty()) {
        batch = std::move(empty_.back());
        empty_.pop_back();
    }
    lock.unlock();
    changed_.notify_all();
    batch.reserve(kBatchRecords);
}

bool RecordStream::next(Batch &batch) {
    batch.clear();
    std::unique_lock lock(mutex_);
    if (batch.capacity()) empty_.push_back(std::move(batch));
    changed_.wait(lock, [&] { return !full_.empty() || ended_; });
    if (full_.empty()) {
        if (error_) std::rethrow_exception(error_);
        return false;
    }
    batch = std::move(full_.front());
    full_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return true;
}

}  // namespace bitnet::diff
