#include "abi/cli/recording/inflate.h"

#include <algorithm>
#include <array>

#include "abi/cli/terminal.h"

namespace bitnet::recording {

namespace {

[[noreturn]] void damaged(const char *what) { throw CommandError(text_of("damaged deflate data: %s", what)); }

// Bits from the lowest of each byte on.
class Bits {
public:
    explicit Bits(std::string_view data) : data_(data) {}
    uint32_t take(int n) {
        while (n_held_ < n) {
            if (at_ == data_.size()) damaged("it ends early");
            held_ |= uint32_t(static_cast<unsigned char>(data_[at_++])) << n_held_;
            n_held_ += 8;
        }
        const uint32_t bits = held_ & ((uint32_t(1) << n) - 1);
        held_ >>= n;
        n_held_ -= n;
        return bits;
    }
    // What follows the byte under way.
    std::string_view take_bytes(size_t n) {
        held_ = 0;
        n_held_ = 0;
        if (n > data_.size() - at_) damaged("it ends early");
        at_ += n;
        return data_.substr(at_ - n, n);
    }

private:
    std::string_view data_;
    size_t at_ = 0;
    uint32_t held_ = 0;
    int n_held_ = 0;
};

constexpr int code_bits_max = 15;

// Canonical Huffman code: how many symbols have each length, and the symbols in order.
class Huffman {
public:
    explicit Huffman(const std::vector<uint8_t> &lengths) {
        for (const uint8_t length : lengths) ++count_[length];
        count_[0] = 0;
        std::array<int, code_bits_max + 2> at = {};
        int left = 1;
        for (int length = 1; length <= code_bits_max; ++length) {
            left = left * 2 - count_[size_t(length)];
            if (left < 0) damaged("more codes than their lengths allow");
            at[size_t(length) + 1] = at[size_t(length)] + count_[size_t(length)];
        }
        symbols_.resize(lengths.size());
        for (size_t symbol = 0; symbol < lengths.size(); ++symbol)
            if (lengths[symbol]) symbols_[size_t(at[lengths[symbol]]++)] = uint16_t(symbol);
    }

    int decode(Bits &bits) const {
        int code = 0, first = 0, index = 0;
        for (int length = 1; length <= code_bits_max; ++length) {
            code |= int(bits.take(1));
            const int n = count_[size_t(length)];
            if (code - n < first) return symbols_[size_t(index + code - first)];
            index += n;
            first = (first + n) * 2;
            code *= 2;
        }
        damaged("a code that stands for nothing");
    }

private:
    std::array<int, code_bits_max + 1> count_ = {};
    std::vector<uint16_t> symbols_;
};

struct Tables {
    Huffman lengths, distances;
};

Tables fixed_tables() {
    std::vector<uint8_t> lengths(288, 8);
    std::fill(lengths.begin() + 144, lengths.begin() + 256, uint8_t(9));
    std::fill(lengths.begin() + 256, lengths.begin() + 280, uint8_t(7));
    return {Huffman(lengths), Huffman(std::vector<uint8_t>(30, 5))};
}

Tables read_tables(Bits &bits) {
    static constexpr int order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const size_t n_lengths = bits.take(5) + 257, n_distances = bits.take(5) + 1, n_codes = bits.take(4) + 4;
    if (n_lengths > 286 || n_distances > 30) damaged("too many codes");
    std::vector<uint8_t> lengths(19, 0);
    for (size_t i = 0; i < n_codes; ++i) lengths[size_t(order[i])] = uint8_t(bits.take(3));
    const Huffman of_lengths(lengths);
    lengths.clear();
    while (lengths.size() < n_lengths + n_distances) {
        const int symbol = of_lengths.decode(bits);
        if (symbol < 16) {
            lengths.push_back(uint8_t(symbol));
            continue;
        }
        if (symbol == 16 && lengths.empty()) damaged("nothing to repeat");
        const uint8_t value = symbol == 16 ? lengths.back() : uint8_t(0);
        const size_t n = symbol == 16 ? 3 + bits.take(2) : symbol == 17 ? 3 + bits.take(3) : 11 + bits.take(7);
        lengths.insert(lengths.end(), n, value);
    }
    if (lengths.size() != n_lengths + n_distances) damaged("more code lengths than codes");
    const auto middle = lengths.begin() + std::ptrdiff_t(n_lengths);
    return {Huffman({lengths.begin(), middle}), Huffman({middle, lengths.end()})};
}

void read_block(Bits &bits, const Tables &tables, size_t limit, std::string &out) {
    static constexpr uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                                 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr uint16_t distance_base[30] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                                   33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                                   1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (;;) {
        const int symbol = tables.lengths.decode(bits);
        if (symbol == 256) return;
        if (symbol < 256) {
            if (out.size() == limit) damaged("it holds more than it says");
            out.push_back(char(symbol));
            continue;
        }
        if (symbol > 285) damaged("a length that does not exist");
        const size_t n = length_base[symbol - 257] + bits.take(length_extra[symbol - 257]);
        const int code = tables.distances.decode(bits);
        const size_t distance = distance_base[code] + bits.take(code < 4 ? 0 : code / 2 - 1);
        if (distance > out.size()) damaged("it copies what was not there");
        if (n > limit - out.size()) damaged("it holds more than it says");
        for (size_t i = 0; i < n; ++i) out.push_back(out[out.size() - distance]);
    }
}

uint32_t crc32(std::string_view bytes) {
    static const std::array<uint32_t, 256> table = [] {
        std::array<uint32_t, 256> t{};
        for (uint32_t i = 0; i < 256; ++i) {
            t[i] = i;
            for (int k = 0; k < 8; ++k) t[i] = t[i] >> 1 ^ (t[i] & 1 ? 0xedb88320u : 0);
        }
        return t;
    }();
    uint32_t crc = ~uint32_t(0);
    for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(c)) & 255];
    return ~crc;
}

// ---- ZIP: APPNOTE 6.3.3, without ZIP64 ----

uint32_t number(std::string_view bytes, size_t at, size_t n) {
    if (at > bytes.size() || n > bytes.size() - at) throw CommandError("the archive ends early");
    uint32_t value = 0;
    for (size_t i = 0; i < n; ++i) value |= uint32_t(static_cast<unsigned char>(bytes[at + i])) << 8 * i;
    return value;
}

constexpr uint32_t entry_magic = 0x02014b50, local_magic = 0x04034b50, end_magic = 0x06054b50;
constexpr size_t end_bytes = 22, entry_bytes = 46, local_bytes = 30;
constexpr size_t file_bytes_max = size_t(1) << 32;

std::string_view part(std::string_view bytes, size_t at, size_t n) {
    if (at > bytes.size() || n > bytes.size() - at) throw CommandError("the archive ends early");
    return bytes.substr(at, n);
}

// A file of the archive from its entry in the directory at `at`, which moves to the next.
ZipEntry read_entry(std::string_view archive, size_t &at) {
    if (number(archive, at, 4) != entry_magic) throw CommandError("the archive's directory is damaged");
    const uint32_t method = number(archive, at + 10, 2), crc = number(archive, at + 16, 4);
    const size_t packed = number(archive, at + 20, 4), size = number(archive, at + 24, 4);
    const size_t name_bytes = number(archive, at + 28, 2), extra = number(archive, at + 30, 2);
    const size_t comment = number(archive, at + 32, 2), local = number(archive, at + 42, 4);
    ZipEntry entry = {std::string(part(archive, at + entry_bytes, name_bytes)), ""};
    at += entry_bytes + name_bytes + extra + comment;
    try {
        if (number(archive, local, 4) != local_magic) throw CommandError("its header is damaged");
        const size_t data = local + local_bytes + number(archive, local + 26, 2) + number(archive, local + 28, 2);
        const std::string_view bytes = part(archive, data, packed);
        if (method == 0)
            entry.bytes = std::string(bytes);
        else if (method == 8)
            entry.bytes = inflate(bytes, size);
        else
            throw CommandError(text_of("compression method %u: expected 0 (stored) or 8 (deflate)", method));
        if (crc32(entry.bytes) != crc) throw CommandError("its checksum is wrong");
    } catch (const CommandError &error) {
        throw CommandError("'" + printable(entry.name) + "': " + error.what());
    }
    return entry;
}

}  // namespace

std::string inflate(std::string_view data, size_t n_bytes) {
    if (n_bytes >= file_bytes_max) damaged("it says that it is larger than 4 GB");
    Bits bits(data);
    std::string out;
    // A byte of deflate stands for at most 1032: a larger claim is not worth the memory.
    out.reserve(std::min(n_bytes, data.size() * 1032));
    for (bool last = false; !last;) {
        last = bits.take(1);
        switch (bits.take(2)) {
        case 0: {
            const std::string_view sizes = bits.take_bytes(4);
            const uint32_t n = number(sizes, 0, 2);
            if ((n ^ number(sizes, 2, 2)) != 0xffff) damaged("the size of a stored block");
            if (n > n_bytes - out.size()) damaged("it holds more than it says");
            out += bits.take_bytes(n);
            break;
        }
        case 1: read_block(bits, fixed_tables(), n_bytes, out); break;
        case 2: read_block(bits, read_tables(bits), n_bytes, out); break;
        default: damaged("a block of unknown type");
        }
    }
    if (out.size() != n_bytes) damaged("it holds less than it says");
    return out;
}

std::vector<ZipEntry> read_zip(const std::string &path, std::string_view archive) {
    try {
        size_t end = archive.size();
        if (end < end_bytes) throw CommandError("too short for a ZIP archive");
        for (end -= end_bytes; number(archive, end, 4) != end_magic; --end)
            if (end == 0) throw CommandError("not a ZIP archive");
        const uint32_t n = number(archive, end + 10, 2);
        size_t at = number(archive, end + 16, 4);
        std::vector<ZipEntry> entries;
        for (uint32_t i = 0; i < n; ++i) entries.push_back(read_entry(archive, at));
        return entries;
    } catch (const CommandError &error) {
        throw CommandError(path + ": " + error.what());
    }
}

}  // namespace bitnet::recording
