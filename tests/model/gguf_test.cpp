// The reader of the container: what it makes of good files, and the exact words with which it refuses bad ones.
#include <cstdio>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/error.h"
#include "model/gguf.h"
#include "tests/model/gguf_builder.h"

namespace {

using bitnet::Error;
using bitnet::GgufFile;
using bitnet::Mapping;
using bitnet::Status;
using namespace bitnet_test;

GgufFile open(const std::string &bytes) { return GgufFile(Mapping::copy(bytes.data(), bytes.size(), "m.gguf")); }

void expect_error(const std::string &bytes, Status status, const std::string &text) {
    try {
        open(bytes);
        ADD_FAILURE() << "accepted; expected: " << text;
    } catch (const Error &error) {
        EXPECT_EQ(error.what(), text);
        EXPECT_EQ(error.status, status);
    }
}
void expect_error(const GgufBuilder &file, const std::string &text) {
    expect_error(file.build(), Status::format, text);
}
void expect_unsupported(const GgufBuilder &file, const std::string &text) {
    expect_error(file.build(), Status::unsupported, text);
}

// Two keys and two tensors: header 24 bytes, key 'a' at 24 (17 bytes), key 'b' at 41.
GgufBuilder tiny() {
    GgufBuilder file;
    file.set_u32("a", 7);
    file.set_strings("b", {"x", "yz"});
    file.tensors.push_back({"t", {4, 2}, tensor_f32, std::string(32, '\1')});
    file.tensors.push_back({"u", {128}, tensor_i2_s, pack_i2_s(std::vector<int>(128, 1), 2.0f)});
    return file;
}

TEST(Gguf, ReadsKeysAndTensors) {
    for (const uint32_t version : {2u, 3u}) {
        GgufBuilder builder = tiny();
        builder.version = version;
        const std::string bytes = builder.build();
        const GgufFile file = open(bytes);
        EXPECT_EQ(file.version(), version);
        EXPECT_EQ(file.name(), "m.gguf");
        ASSERT_EQ(file.keys().size(), 2u);
        EXPECT_EQ(file.keys()[0].name, "a");
        EXPECT_EQ(file.keys()[0].integer(), 7);
        EXPECT_EQ(file.find_key("b")->strings[1], "yz");
        EXPECT_EQ(file.find_key("c"), nullptr);
        ASSERT_EQ(file.tensors().size(), 2u);
        const bitnet::GgufTensor &t = file.tensors()[0];
        EXPECT_EQ(t.name, "t");
        EXPECT_EQ(t.type_name, "F32");
        EXPECT_EQ(t.n_dims, 2u);
        EXPECT_EQ(t.n_elements(), 8u);
        EXPECT_EQ(t.n_bytes, 32u);
        EXPECT_EQ(t.offset % 32, 0u);
        EXPECT_EQ(t.data, file.bytes().data() + t.offset);
        EXPECT_EQ(t.data[31], 1);
        const bitnet::GgufTensor *u = file.find_tensor("u");
        ASSERT_NE(u, nullptr);
        EXPECT_EQ(u->n_bytes, 128u / 4 + 32);
        EXPECT_EQ(u->offset + u->n_bytes, bytes.size());
        EXPECT_EQ(file.find_tensor("v"), nullptr);
    }
}

TEST(Gguf, OffsetsNeedNotBeInOrder) {
    GgufBuilder builder = tiny();
    builder.tensors[0].offset = 64;
    builder.tensors[1].offset = 0;
    const GgufFile file = open(builder.build());
    EXPECT_EQ(file.tensors()[0].offset, file.tensors()[1].offset + 64);
}

TEST(Gguf, ValuesAsTextAndNumbers) {
    GgufBuilder builder;
    builder.set("u8", gguf_u8, bytes_of(uint8_t(255)));
    builder.set("i8", gguf_i8, bytes_of(int8_t(-1)));
    builder.set("u16", gguf_u16, bytes_of(uint16_t(65535)));
    builder.set("i16", gguf_i16, bytes_of(int16_t(-2)));
    builder.set("i32", gguf_i32, bytes_of(int32_t(-3)));
    builder.set("f32", gguf_f32, bytes_of(1e-5f));
    builder.set("bool", gguf_bool, bytes_of(uint8_t(1)));
    builder.set("u64", gguf_u64, bytes_of(UINT64_MAX));
    builder.set("i64", gguf_i64, bytes_of(INT64_MIN));
    builder.set("f64", gguf_f64, bytes_of(0.1));
    builder.set_str("str", "plain \"text\"");
    builder.set_strings("list", {"a\"b", "c\n", "d"});
    builder.set("numbers", gguf_arr,
                bytes_of(gguf_i16) + bytes_of(uint64_t(2)) + bytes_of(int16_t(-5)) + bytes_of(int16_t(6)));
    const GgufFile file = open(builder.build());
    const auto text = [&](const char *name, uint64_t most = 0) { return file.find_key(name)->text(most); };
    EXPECT_EQ(text("u8"), "255");
    EXPECT_EQ(text("i8"), "-1");
    EXPECT_EQ(text("u16"), "65535");
    EXPECT_EQ(text("i16"), "-2");
    EXPECT_EQ(text("i32"), "-3");
    EXPECT_EQ(text("f32"), "1e-05");
    EXPECT_EQ(text("bool"), "true");
    EXPECT_EQ(text("u64"), "18446744073709551615");
    EXPECT_EQ(text("i64"), "-9223372036854775808");
    EXPECT_EQ(text("f64"), "0.1");
    EXPECT_EQ(text("str"), "plain \"text\"");
    EXPECT_EQ(text("list"), "[\"a\\\"b\", \"c\\u000a\", \"d\"]");
    EXPECT_EQ(text("list", 1), "[\"a\\\"b\", ...]");
    EXPECT_EQ(text("numbers"), "[-5, 6]");
    EXPECT_EQ(file.find_key("numbers")->type_text(), "arr[i16]");
    EXPECT_EQ(file.find_key("str")->type_text(), "str");
    EXPECT_EQ(file.find_key("numbers")->integer(1), 6);
    EXPECT_EQ(file.find_key("f32")->number(), double(1e-5f));
    EXPECT_EQ(file.find_key("u64")->integer(), INT64_MAX) << "saturates";
    EXPECT_THROW(file.find_key("str")->integer(), Error);
    EXPECT_THROW(file.find_key("numbers")->integer(2), Error);
}

TEST(Gguf, LargeStringArray) {
    std::vector<std::string> tokens;
    for (int i = 0; i < 128256; i++) tokens.push_back("token" + std::to_string(i));
    GgufBuilder builder;
    builder.set_strings("tokens", tokens);
    const GgufFile file = open(builder.build());
    ASSERT_EQ(file.keys()[0].strings.size(), tokens.size());
    EXPECT_EQ(file.keys()[0].strings.back(), "token128255");
}

TEST(GgufRejects, HeaderOfAnotherFormat) {
    GgufBuilder file = tiny();
    file.magic = "GGM\n";
    expect_error(file, "m.gguf: magic 'GGM\\x0a': expected 'GGUF'");
    expect_error("GG", Status::format, "m.gguf: header: magic: needs 4 bytes at byte 0, but the file ends at 2");
    expect_error("GGUF\3", Status::format, "m.gguf: header: version: needs 4 bytes at byte 4, but the file ends at 5");
    expect_error(tiny().build().substr(0, 20), Status::format,
                 "m.gguf: header: key count: needs 8 bytes at byte 16, but the file ends at 20");
}

TEST(GgufRejects, Versions) {
    GgufBuilder file = tiny();
    file.version = 1;
    expect_unsupported(file, "m.gguf: version 1: expected 2 or 3 (version 1 is too old: convert the model again)");
    file.version = 4;
    expect_unsupported(file, "m.gguf: version 4: expected 2 or 3");
    file.version = 0x03000000;
    expect_unsupported(file, "m.gguf: version 3 byte-swapped (0x03000000): big-endian files are not supported");
}

TEST(GgufRejects, CountsBeyondTheFile) {
    GgufBuilder file = tiny();
    const size_t left = file.build().size() - 24;
    file.tensor_count = 1000;
    expect_error(file, "m.gguf: tensor count 1000: the " + std::to_string(left) + " bytes that follow hold at most " +
                           std::to_string(left / 33));
    file.tensor_count = UINT64_MAX;
    expect_error(file, "m.gguf: tensor count -1: the " + std::to_string(left) + " bytes that follow hold at most " +
                           std::to_string(left / 33));
    file = tiny();
    file.key_count = 1ull << 60;
    expect_error(file, "m.gguf: key count 1152921504606846976: the " + std::to_string(left) +
                           " bytes that follow hold at most " + std::to_string(left / 14));
}

TEST(GgufRejects, LengthsBeyondTheFile) {
    const std::string bytes = tiny().build();
    const auto with = [&](size_t position, uint64_t value) {
        std::string changed = bytes;
        changed.replace(position, 8, bytes_of(value));
        return changed;
    };
    const auto left_after = [&](size_t position) { return std::to_string(bytes.size() - position - 8); };
    expect_error(with(24, 1ull << 63), Status::format,
                 "m.gguf: key 0: name length 9223372036854775808: only " + left_after(24) +
                     " bytes of the file are left");
    // Key 'b': name at 41, type at 50, item type at 54, array length at 58, first string at 66.
    expect_error(with(58, 1ull << 61), Status::format,
                 "m.gguf: key 'b': array length 2305843009213693952: only " + left_after(58) +
                     " bytes of the file are left");
    expect_error(with(66, 5000), Status::format,
                 "m.gguf: key 'b': string length 5000: only " + left_after(66) + " bytes of the file are left");
    GgufBuilder file;
    file.set_u32("a", 7);
    expect_error(file.build().substr(0, 39), Status::format,
                 "m.gguf: key 'a': value: needs 4 bytes at byte 37, but the file ends at 39");
}

TEST(GgufRejects, KeyValues) {
    GgufBuilder file = tiny();
    file.keys[0].type = 13;
    expect_error(file, "m.gguf: key 'a': value type 13: expected 0 to 12");
    file = tiny();
    file.set("b", gguf_arr, bytes_of(uint32_t(99)) + bytes_of(uint64_t(0)));
    expect_error(file, "m.gguf: key 'b': item type 99: expected 0 to 12");
    file.set("b", gguf_arr, bytes_of(gguf_arr) + bytes_of(uint64_t(0)));
    expect_unsupported(file, "m.gguf: key 'b': an array of arrays: expected numbers or strings");
    file = tiny();
    file.set("a", gguf_bool, bytes_of(uint8_t(2)));
    expect_error(file, "m.gguf: key 'a': bool 2: expected 0 or 1");
}

TEST(GgufRejects, Names) {
    GgufBuilder file = tiny();
    file.keys.push_back(file.keys[0]);
    expect_error(file, "m.gguf: key 'a' occurs twice: as number 0 and number 2");
    file = tiny();
    file.tensors[1].name = "t";
    expect_error(file, "m.gguf: tensor 't' occurs twice: as number 0 and number 1");
    file = tiny();
    file.tensors[0].name = std::string(63, 'n');
    EXPECT_NE(open(file.build()).find_tensor(std::string(63, 'n')), nullptr);
    file.tensors[0].name = std::string(64, 'n');
    expect_error(file, "m.gguf: tensor '" + std::string(64, 'n') + "': name of 64 bytes: expected at most 63");
    file.tensors[0].name = "";
    expect_error(file, "m.gguf: tensor 0: empty name");
    file.tensors[0].name = std::string("t\0u", 3);
    expect_error(file, "m.gguf: tensor 't\\x00u': zero byte in the name");
    file = tiny();
    file.keys[0].name = "";
    expect_error(file, "m.gguf: key 0: empty name");
    file.keys[0].name = std::string(65536, 'k');
    expect_error(file, "m.gguf: key '" + std::string(64, 'k') + "...': name of 65536 bytes: expected at most 65535");
}

TEST(GgufRejects, Dimensions) {
    GgufBuilder file = tiny();
    file.tensors[0].dims = {1, 1, 1, 1, 1};
    expect_error(file, "m.gguf: tensor 't': 5 dimensions: expected 1 to 4");
    file.tensors[0].dims = {};
    expect_error(file, "m.gguf: tensor 't': 0 dimensions: expected 1 to 4");
    file.tensors[0].dims = {4, 0};
    expect_error(file, "m.gguf: tensor 't': ne[1] = 0: expected 1 or more");
    file.tensors[0].dims = {uint64_t(-4), 2};
    expect_error(file, "m.gguf: tensor 't': ne[0] = -4: expected 1 or more");
    file.tensors[0].dims = {1ull << 40, 1ull << 40};
    expect_error(file, "m.gguf: tensor 't': dims [1099511627776, 1099511627776]: the size does not fit in 64 bits");
    file.tensors[0].dims = {1ull << 62};
    expect_error(file, "m.gguf: tensor 't': dims [4611686018427387904]: the size does not fit in 64 bits");
    file = tiny();
    file.tensors[1].dims = {192};
    expect_unsupported(file, "m.gguf: tensor 'u': ne[0] = 192 is not a multiple of 128, the block of I2_S");
}

TEST(GgufRejects, TensorTypes) {
    GgufBuilder file = tiny();
    const auto expect_type = [&](uint32_t type, const std::string &text) {
        file.tensors[0].type = type;
        expect_unsupported(file, "m.gguf: tensor 't': type " + text);
    };
    for (const auto &[type, name] : std::vector<std::pair<uint32_t, std::string>>{
             {2, "Q4_0"}, {12, "Q4_K"}, {34, "TQ1_0"}, {35, "TQ2_0"}, {135, "IQ2_BN"}, {4000000000u, "unknown"}}) {
        expect_type(type, std::to_string(type) + " (" + name + ") is not supported: expected F32, F16, BF16 or I2_S");
    }
    for (const auto &[type, name] : std::vector<std::pair<uint32_t, std::string>>{{38, "TL1"}, {39, "TL2"}}) {
        expect_type(type, std::to_string(type) + " (" + name +
                              ") is laid out for one generated kernel and not portable: convert the model to I2_S with "
                              "bitnet.cpp (convert-hf-to-gguf-bitnet.py --outtype f32, then llama-quantize ... i2_s)");
    }
}

TEST(GgufRejects, Alignment) {
    GgufBuilder file = tiny();
    for (const uint32_t value : {0u, 48u}) {
        file.set_u32("general.alignment", value);
        expect_error(file, "m.gguf: key 'general.alignment': " + std::to_string(value) + ": expected a power of two");
    }
    file.set_str("general.alignment", "32");
    expect_error(file, "m.gguf: key 'general.alignment': type str: expected u32");
    file.set_u32("general.alignment", 64);
    file.alignment = 64;
    EXPECT_EQ(open(file.build()).tensors()[1].offset % 64, 0u);
    file.tensors[1].offset = 96;
    expect_error(file, "m.gguf: tensor 'u': offset 96 is not a multiple of the alignment 64");
}

TEST(GgufRejects, PlacesOfTensors) {
    GgufBuilder file = tiny();  // 't' 32 bytes, 'u' 64 bytes: 96 bytes of data
    file.tensors[1].offset = 64;
    expect_error(file, "m.gguf: tensor 'u': 64 bytes at offset 64 reach beyond the 96 bytes of tensor data");
    file.tensors[1].offset = UINT64_MAX - 31;
    expect_error(file,
                 "m.gguf: tensor 'u': 64 bytes at offset 18446744073709551584 reach beyond the 96 bytes of tensor "
                 "data");
    file = tiny();
    const uint64_t begin = open(file.build()).tensors()[0].offset;
    file.tensors[1].offset = 0;
    expect_error(file, "m.gguf: tensor 'u': begins at byte " + std::to_string(begin) + ", inside tensor 't' (bytes " +
                           std::to_string(begin) + " to " + std::to_string(begin + 31) + ")");
    file = tiny();
    file.tensors[0].offset = 64;
    file.tensors[1].offset = 32;
    expect_error(file, "m.gguf: tensor 't': begins at byte " + std::to_string(begin + 64) +
                           ", inside tensor 'u' (bytes " + std::to_string(begin + 32) + " to " +
                           std::to_string(begin + 95) + ")");
    const std::string bytes = tiny().build();
    expect_error(bytes.substr(0, bytes.size() - 1), Status::format,
                 "m.gguf: tensor 'u': 64 bytes at offset 32 reach beyond the 95 bytes of tensor data");
}

// Every prefix of a file is refused by an error, never by a crash.
TEST(GgufRejects, EveryTruncation) {
    const std::string bytes = tiny().build();
    for (size_t size = 1; size < bytes.size(); size++) EXPECT_THROW(open(bytes.substr(0, size)), Error) << size;
}

class TemporaryFile {
public:
    explicit TemporaryFile(const std::string &bytes)
        : path_(testing::TempDir() + "gguf_test_" + std::to_string(getpid())) {
        std::ofstream(path_, std::ios::binary) << bytes;
    }
    ~TemporaryFile() { remove(path_.c_str()); }
    const std::string &path() const { return path_; }

private:
    std::string path_;
};

std::string io_error(const std::string &path, Status status) {
    std::string text;
    for (const auto &open_file : {Mapping::map_file, Mapping::read_file}) {
        try {
            open_file(path);
            ADD_FAILURE() << "accepted " << path;
        } catch (const Error &error) {
            EXPECT_EQ(error.status, status);
            EXPECT_TRUE(text.empty() || text == error.what()) << error.what();
            text = error.what();
        }
    }
    return text;
}

TEST(Mapping, FilesAndMemory) {
    const std::string bytes = tiny().build();
    const TemporaryFile file(bytes);
    for (const auto &mapping : {Mapping::map_file(file.path()), Mapping::read_file(file.path())}) {
        EXPECT_EQ(std::string(reinterpret_cast<const char *>(mapping->data()), mapping->size()), bytes);
        EXPECT_EQ(mapping->name(), file.path());
    }
    EXPECT_EQ(static_cast<const void *>(Mapping::borrow(bytes.data(), bytes.size(), "x")->data()), bytes.data());
    EXPECT_NE(static_cast<const void *>(Mapping::copy(bytes.data(), bytes.size(), "x")->data()), bytes.data());
    EXPECT_THROW(Mapping::borrow(nullptr, 0, "x"), Error);
    EXPECT_THROW(Mapping::copy(nullptr, 0, "x"), Error);
}

// Where huge pages fit: Linux maps a file with them only at such a place.
TEST(Mapping, LargeFilesBeginAtAHugePage) {
    constexpr size_t huge_page = size_t(2) << 20;
    for (const size_t size : {huge_page - 1, huge_page, huge_page + 1, 2 * huge_page, 3 * huge_page + 4097}) {
        std::string bytes(size, 0);
        for (size_t i = 0; i < size; i += 511) bytes[i] = char(i / 511);
        bytes.back() = 'z';
        const TemporaryFile file(bytes);
        const auto first = Mapping::map_file(file.path()), second = Mapping::map_file(file.path());
        for (const auto &mapping : {first, second}) {
            ASSERT_EQ(mapping->size(), size);
            EXPECT_EQ(memcmp(mapping->data(), bytes.data(), size), 0) << size;
            if (size >= huge_page) {
                EXPECT_EQ(reinterpret_cast<uintptr_t>(mapping->data()) % huge_page, 0u) << size;
            }
        }
    }
}

// What is reserved around a mapping to place it is given back.
TEST(Mapping, ReservesNothingForLong) {
    const auto mapped_bytes = [] {
        std::ifstream statm("/proc/self/statm");
        size_t pages = 0;
        statm >> pages;
        return pages * size_t(sysconf(_SC_PAGESIZE));
    };
    constexpr size_t size = (size_t(2) << 20) + 1;
    const TemporaryFile file(std::string(size, 'x'));
    Mapping::map_file(file.path());
    const size_t before = mapped_bytes();
    if (before == 0) GTEST_SKIP() << "no /proc";
    std::vector<std::shared_ptr<const Mapping>> many;
    for (int i = 0; i < 100; ++i) many.push_back(Mapping::map_file(file.path()));
    EXPECT_LT(mapped_bytes(), before + 100 * (size + 4096) + (size_t(4) << 20));
    many.clear();
    EXPECT_LT(mapped_bytes(), before + (size_t(4) << 20));
}

TEST(Mapping, RejectsWhatIsNoFile) {
    EXPECT_EQ(io_error("/nonexistent/m.gguf", Status::io),
              "/nonexistent/m.gguf: cannot open: No such file or directory");
    EXPECT_EQ(io_error("/", Status::io), "/: cannot read: Is a directory");
    EXPECT_EQ(io_error("/dev/null", Status::io), "/dev/null: cannot read: not a regular file");
    const TemporaryFile empty("");
    EXPECT_EQ(io_error(empty.path(), Status::format), empty.path() + ": the file is empty");
}

TEST(Mapping, PipeDoesNotBlock) {
    const std::string path = testing::TempDir() + "gguf_test_pipe_" + std::to_string(getpid());
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_EQ(io_error(path, Status::io), path + ": cannot read: not a regular file");
    remove(path.c_str());
}

TEST(ErrorText, Quoted) {
    using bitnet::quoted;
    EXPECT_EQ(quoted("plain"), "plain");
    EXPECT_EQ(quoted("a\nb\x7f"), "a\\x0ab\\x7f");
    EXPECT_EQ(quoted("\u00e9\u65e5"), "\u00e9\u65e5");
    EXPECT_EQ(quoted("\xff\xc0\x80\xed\xa0\x80"), "\\xff\\xc0\\x80\\xed\\xa0\\x80") << "not UTF-8";
    EXPECT_EQ(quoted(std::string(64, 'x')), std::string(64, 'x'));
    EXPECT_EQ(quoted(std::string(65, 'x')), std::string(64, 'x') + "...");
    EXPECT_EQ(quoted(std::string(63, 'x') + "\u00e9"), std::string(63, 'x') + "...") << "no half characters";
}

}  // namespace
