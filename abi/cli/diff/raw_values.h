// Raw values as a side of a comparison: what the npy plugin writes, or an .npz of arrays. Each row becomes a record
// like any other, and can be read again for what records cannot tell.
#pragma once

#include "abi/cli/diff/trace.h"

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace bitnet::diff {

// The values of one row, of any recorded type.
struct RawRow {
    int32_t dtype = 0;
    std::string bytes;  // little-endian
    size_t size() const;
    double operator[](size_t i) const;
};

class RawValues {
public:
    RawValues();
    ~RawValues();
    RawValues(const RawValues &) = delete;
    RawValues &operator=(const RawValues &) = delete;

    bool has(Key key) const { return places_.contains(key); }
    // nullopt: not recorded. Throws CommandError: the file is no longer what it was.
    std::optional<RawRow> find(Key key) const;
    size_t size_of(Key key) const { return places_.at(key).n_elements; }
    // "000000000003-t000005-blk000-attn_norm.npy", "0/attn_norm[5]"
    std::string name_of(Key key) const;

private:
    friend class RawReader;
    struct Source {
        uint32_t of = 0;   // index of a file, or of an array
        uint32_t row = 0;  // of an array
        size_t n_elements = 0;
    };
    struct Arrays;

    std::vector<std::string> files_;  // of a folder's rows
    std::unique_ptr<Arrays> arrays_;  // of an .npz: they stay in memory
    std::unordered_map<Key, Source> places_;
};

// Whether `path` holds raw values: an .npz, or a folder with NPY files or runs of the npy plugin.
bool is_raw(const std::string &path);

// As stream_trace() does. What is wrong with the input becomes a problem of the trace.
void stream_raw(const std::string &path, Trace &trace, const std::function<void(const Record &)> &take);

// What the record of these values says; its place is left to the caller.
Record record_of(const RawRow &row);

// L2 distance over A's L2, of what is finite: exactly what sketches estimate. NaN when it cannot be measured.
double exact_distance(const RawRow &a, const RawRow &b);

}  // namespace bitnet::diff
