// Raw values as a side: what a row's record says, and folders that are damaged.
#include "abi/cli/diff/raw_values.h"
#include "abi/cli/diff/trace_reader.h"
#include "bitnet_c.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

namespace bitnet {
namespace {

using namespace diff;

RawRow row_of(const std::vector<float> &values) {
    RawRow row{BITNET_DTYPE_F32, std::string(values.size() * sizeof(float), '\0')};
    std::memcpy(row.bytes.data(), values.data(), row.bytes.size());
    return row;
}

std::string npy(const std::string &header, const std::string &values) {
    std::string file("\x93NUMPY\x01\x00", 8);
    file += char(header.size() & 255);
    file += char(header.size() >> 8);
    return file + header + values;
}

std::string npy_of(const std::vector<float> &values) {
    return npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(values.size()) + ",), }\n",
               row_of(values).bytes);
}

const std::string kRunJson =
    R"({"format":1,"complete":true,"run":{"record":"run","schema":1,"run":0,"engine":"e","engine_version":"1","model_hash":"",)"
    R"("hyperparameters":{},"semantics":{},"tokens":null},"first_position":2,"tokens":[7,null,9],"records":1})";

TEST(Raw, ARowsRecordIsThatOfTheSecondImplementation) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (const size_t n : {size_t(1), size_t(63), size_t(64), size_t(65), size_t(300)}) {
        std::vector<float> values(n);
        for (float &value : values) value = normal(random);
        if (n > 64) values[3] = values[7] = -9, values[11] = 0;
        const Folder folder;
        // Records are compared as they are read: all of the writer's statistics against ours.
        SampleTrace sample;
        sample.keep = [](int seq, int layer, const std::string &stage) {
            return seq == 0 && layer == 0 && stage == "attn_norm";
        };
        sample.fault = [&](int, int, const std::string &stage, std::vector<float> &out) {
            if (stage == "attn_norm") out = values;
        };
        const Trace trace = read_trace(folder.write("t.jsonl", sample));
        ASSERT_EQ(trace.records.size(), 1u) << (trace.problems.empty() ? "" : trace.problems.lines()[0]);
        const Record &theirs = trace.records[0], ours = record_of(row_of(values));
        EXPECT_EQ(theirs.multiset, ours.multiset);
        EXPECT_EQ(theirs.sketch, ours.sketch);
        EXPECT_EQ(theirs.n_zeros, ours.n_zeros);
        ASSERT_EQ(theirs.n_top, ours.n_top);
        for (uint32_t i = 0; i < ours.n_top; ++i) EXPECT_EQ(theirs.top[i].index, ours.top[i].index) << i;
        EXPECT_NEAR(theirs.rms, ours.rms, 1e-6 * ours.rms);
        EXPECT_NEAR(theirs.l2, ours.l2, 1e-6 * ours.l2);
        EXPECT_EQ(float(theirs.max), float(ours.max));
    }
}

TEST(Raw, WhatIsNotFiniteIsCounted) {
    const Record record = record_of(row_of({1, NAN, -INFINITY, 0, INFINITY, -3}));
    EXPECT_EQ(record.n_nan, 1u);
    EXPECT_EQ(record.n_inf, 2u);
    EXPECT_EQ(record.n_zeros, 1u);
    EXPECT_EQ(record.nonfinite, 1u);
    EXPECT_EQ(record.absmax, 3);
    EXPECT_EQ(record.argmax, 0u);
    EXPECT_EQ(record.top[0].index, 2u);  // an infinity, the first of two
    EXPECT_TRUE(std::isnan(exact_distance(row_of({1, NAN}), row_of({1, 2}))));
    EXPECT_EQ(exact_distance(row_of({3, 4, NAN}), row_of({3, 5, NAN})), 0.2);
    EXPECT_TRUE(std::isnan(exact_distance(row_of({1}), row_of({1, 2}))));
    EXPECT_TRUE(std::isinf(exact_distance(row_of({0}), row_of({1}))));
}

TEST(Raw, AFolderHasItsRunsTokensAndRows) {
    const Folder folder;
    std::filesystem::create_directory(folder.path("run-000000"));
    folder.write_bytes("run-000000/run.json", kRunJson);
    folder.write_bytes("run-000000/000000000003-t000002-blk001-attn_norm.npy", npy_of({1, 2, 3}));
    const Trace trace = read_trace(folder.path());
    EXPECT_TRUE(trace.problems.empty()) << trace.problems.lines()[0];
    ASSERT_EQ(trace.records.size(), 1u);
    EXPECT_EQ(trace.records[0].event, 3u);
    EXPECT_EQ(trace.records[0].n_elements, 3u);
    EXPECT_EQ(position_of(trace.records[0].key), 2);
    EXPECT_EQ(layer_of(trace.records[0].key), 1);
    ASSERT_EQ(trace.runs.size(), 1u);
    EXPECT_EQ(trace.runs[0].engine, "e");
    EXPECT_EQ(trace.runs[0].tokens, (std::vector<std::pair<int64_t, int32_t>>{{2, 7}, {4, 9}}));
    EXPECT_EQ((*trace.raw->find(trace.records[0].key))[2], 3);
    EXPECT_EQ(trace.raw->name_of(trace.records[0].key), "000000000003-t000002-blk001-attn_norm.npy");
}

// No damage may crash the reader or pass in silence as other values.
TEST(Raw, DamagedBytesAreAProblemOrOtherValues) {
    const Folder folder;
    const std::string row = npy_of({1, 2, 3}), name = "run-000000/000000000003-t000002-blk001-attn_norm.npy";
    std::filesystem::create_directory(folder.path("run-000000"));
    const auto read = [&](const std::string &json, const std::string &values) {
        folder.write_bytes("run-000000/run.json", json);
        folder.write_bytes(name, values);
        return read_trace(folder.path());
    };
    const std::array<uint8_t, 32> good = read(kRunJson, row).records.at(0).blake3;
    for (size_t n = 0; n < row.size(); ++n) EXPECT_FALSE(read(kRunJson, row.substr(0, n)).problems.empty()) << n;
    for (size_t at = 0; at < row.size(); ++at) {
        std::string damaged = row;
        damaged[at] = char(damaged[at] ^ 0x15);
        const Trace trace = read(kRunJson, damaged);
        const bool version = at == 6 || at == 7, unread = at >= 10 && at < row.size() - 12;
        if (!trace.problems.empty() || version || unread) continue;
        EXPECT_NE(trace.records.at(0).blake3, good) << at;
    }
    for (size_t n = 0; n < kRunJson.size(); n += 5) EXPECT_FALSE(read(kRunJson.substr(0, n), row).problems.empty()) << n;
    std::mt19937 random(9);
    for (int i = 0; i < 100; ++i) {
        std::string json = kRunJson;
        json[random() % json.size()] = char(random());
        read(json, row);
    }
}

}  // namespace
}  // namespace bitnet
