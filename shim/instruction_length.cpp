// After the Intel manual, volume 2, appendix A: prefixes, opcode map, ModRM with SIB and displacement, immediate.
#include "shim/instruction_length.h"

namespace bitnet::shim {

namespace {

constexpr size_t kLengthMax = 15;

// One bit for each opcode of a map, lowest first.
struct OpcodeSet {
    uint64_t bits[4];
    constexpr bool has(uint8_t opcode) const { return bits[opcode >> 6] >> (opcode & 63) & 1; }
};

struct Range {
    uint8_t first, last;
};

template <size_t N> constexpr OpcodeSet set_of(const Range (&ranges)[N]) {
    OpcodeSet set = {};
    for (const Range &range : ranges) {
        for (int op = range.first; op <= range.last; ++op) set.bits[op >> 6] |= uint64_t(1) << (op & 63);
    }
    return set;
}

// The map of one byte. Without a group of its own an instruction has neither ModRM nor immediate.
constexpr OpcodeSet kNone = set_of({{0x06, 0x07},
                                    {0x0E, 0x0E},
                                    {0x16, 0x17},
                                    {0x1E, 0x1F},
                                    {0x27, 0x27},
                                    {0x2F, 0x2F},
                                    {0x37, 0x37},
                                    {0x3F, 0x3F},
                                    {0x60, 0x61},
                                    {0x82, 0x82},
                                    {0x9A, 0x9A},
                                    {0xCE, 0xCE},
                                    {0xD4, 0xD6},
                                    {0xEA, 0xEA}});
constexpr OpcodeSet kModRm = set_of({{0x00, 0x03},
                                     {0x08, 0x0B},
                                     {0x10, 0x13},
                                     {0x18, 0x1B},
                                     {0x20, 0x23},
                                     {0x28, 0x2B},
                                     {0x30, 0x33},
                                     {0x38, 0x3B},
                                     {0x63, 0x63},
                                     {0x69, 0x69},
                                     {0x6B, 0x6B},
                                     {0x80, 0x81},
                                     {0x83, 0x8F},
                                     {0xC0, 0xC1},
                                     {0xC6, 0xC7},
                                     {0xD0, 0xD3},
                                     {0xD8, 0xDF},
                                     {0xF6, 0xF7},
                                     {0xFE, 0xFF}});
constexpr OpcodeSet kByte = set_of({{0x04, 0x04},
                                    {0x0C, 0x0C},
                                    {0x14, 0x14},
                                    {0x1C, 0x1C},
                                    {0x24, 0x24},
                                    {0x2C, 0x2C},
                                    {0x34, 0x34},
                                    {0x3C, 0x3C},
                                    {0x6A, 0x6B},
                                    {0x70, 0x7F},
                                    {0x80, 0x80},
                                    {0x83, 0x83},
                                    {0xA8, 0xA8},
                                    {0xB0, 0xB7},
                                    {0xC0, 0xC1},
                                    {0xC6, 0xC6},
                                    {0xCD, 0xCD},
                                    {0xE0, 0xE7},
                                    {0xEB, 0xEB}});
constexpr OpcodeSet kWord = set_of({{0xC2, 0xC2}, {0xCA, 0xCA}});
constexpr OpcodeSet kOperand = set_of({{0x05, 0x05},
                                       {0x0D, 0x0D},
                                       {0x15, 0x15},
                                       {0x1D, 0x1D},
                                       {0x25, 0x25},
                                       {0x2D, 0x2D},
                                       {0x35, 0x35},
                                       {0x3D, 0x3D},
                                       {0x68, 0x69},
                                       {0x81, 0x81},
                                       {0xA9, 0xA9},
                                       {0xC7, 0xC7}});
// The map behind 0F, in which most have a ModRM byte.
constexpr OpcodeSet k0fNone = set_of(
    {{0x04, 0x04}, {0x0A, 0x0A}, {0x0C, 0x0C}, {0x0F, 0x0F}, {0x24, 0x27}, {0x36, 0x36}, {0x39, 0x39}, {0x3B, 0x3F}});
constexpr OpcodeSet k0fBare = set_of({{0x05, 0x09},
                                      {0x0B, 0x0B},
                                      {0x0E, 0x0E},
                                      {0x30, 0x35},
                                      {0x37, 0x37},
                                      {0x77, 0x77},
                                      {0x80, 0x8F},
                                      {0xA0, 0xA2},
                                      {0xA8, 0xAA},
                                      {0xC8, 0xCF}});
constexpr OpcodeSet k0fByte =
    set_of({{0x70, 0x73}, {0xA4, 0xA4}, {0xAC, 0xAC}, {0xBA, 0xBA}, {0xC2, 0xC2}, {0xC4, 0xC6}});

constexpr bool is_legacy_prefix(uint8_t byte) {
    return byte == 0x66 || byte == 0x67 || byte == 0xF2 || byte == 0xF3 || byte == 0xF0 || byte == 0x2E ||
           byte == 0x36 || byte == 0x3E || byte == 0x26 || byte == 0x64 || byte == 0x65;
}

class Decoder {
public:
    Decoder(const uint8_t *code, size_t n) : code_(code), n_(n < kLengthMax ? n : kLengthMax) {}

    size_t run() {
        prefixes();
        const uint8_t opcode = next();
        switch (opcode) {
        case 0x0F: two_bytes(next()); break;
        case 0xC5:
            next();
            vector(1, next());
            break;
        case 0xC4: {
            const uint8_t map = next() & 31;
            next();
            vector(map, next());
            break;
        }
        case 0x62: {
            const uint8_t map = next() & 7;
            next(), next();
            vector(map, next());
            break;
        }
        default: one_byte(opcode);
        }
        return known_ && at_ <= n_ ? at_ : 0;
    }

private:
    uint8_t next() { return at_ < n_ ? code_[at_++] : (known_ = false, uint8_t(0)); }
    void skip(size_t n) { at_ += n; }

    void prefixes() {
        for (; at_ < n_ && is_legacy_prefix(code_[at_]); ++at_) {
            small_ |= code_[at_] == 0x66;
            short_address_ |= code_[at_] == 0x67;
        }
        if (at_ < n_ && (code_[at_] & 0xF0) == 0x40) wide_ = (code_[at_++] & 8) != 0;
    }

    // Returns the middle field.
    int mod_rm() {
        const uint8_t byte = next();
        const int mod = byte >> 6, rm = byte & 7;
        if (mod != 3 && rm == 4) {
            const uint8_t sib = next();
            if (mod == 0 && (sib & 7) == 5) skip(4);
        } else if (mod == 0 && rm == 5) {
            skip(4);
        }
        if (mod == 1) skip(1);
        if (mod == 2) skip(4);
        return byte >> 3 & 7;
    }

    size_t operand_bytes() const { return small_ && !wide_ ? 2 : 4; }

    void one_byte(uint8_t opcode) {
        if (kNone.has(opcode)) known_ = false;
        const int field = kModRm.has(opcode) ? mod_rm() : 0;
        if (opcode == 0x8F && field != 0) known_ = false;  // XOP
        if (kByte.has(opcode)) skip(1);
        if (kWord.has(opcode)) skip(2);
        if (kOperand.has(opcode)) skip(operand_bytes());
        if (opcode == 0xC8) skip(3);
        if (opcode >= 0xA0 && opcode <= 0xA3) skip(short_address_ ? 4 : 8);
        if (opcode >= 0xB8 && opcode <= 0xBF) skip(wide_ ? 8 : operand_bytes());
        if (opcode == 0xF6 && field < 2) skip(1);
        if (opcode == 0xF7 && field < 2) skip(operand_bytes());
        if (opcode == 0xE8 || opcode == 0xE9) {
            if (small_ && !wide_) known_ = false;  // makers of processors disagree
            skip(4);
        }
    }

    void two_bytes(uint8_t opcode) {
        if (opcode == 0x38 || opcode == 0x3A) {
            next();
            mod_rm();
            if (opcode == 0x3A) skip(1);
            return;
        }
        if (k0fNone.has(opcode)) known_ = false;
        if (!k0fBare.has(opcode)) mod_rm();
        if (k0fByte.has(opcode)) skip(1);
        if (opcode >= 0x80 && opcode <= 0x8F) skip(4);
    }

    // VEX and EVEX: the maps behind 0F, 0F 38, 0F 3A, and two of AVX512-FP16.
    void vector(int map, uint8_t opcode) {
        if (map == 1 && opcode == 0x77) return;  // vzeroupper
        if (map < 1 || map == 4 || map > 6) known_ = false;
        mod_rm();
        if (map == 3 || (map == 1 && k0fByte.has(opcode))) skip(1);
    }

    const uint8_t *code_;
    const size_t n_;
    size_t at_ = 0;
    bool known_ = true, small_ = false, wide_ = false, short_address_ = false;
};

}  // namespace

size_t instruction_length(const uint8_t *code, size_t n) { return Decoder(code, n).run(); }

}  // namespace bitnet::shim
