#include "abi/cli/recording/npy.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet::recording {

namespace {

constexpr uint64_t elements_max = uint64_t(1) << 32;

// What stands after 'key': in the header, a Python literal.
std::string_view value_of(std::string_view header, const char *key) {
    const std::string quoted = std::string("'") + key + "':";
    const size_t at = header.find(quoted);
    if (at == std::string_view::npos) throw CommandError(text_of("its header has no '%s'", key));
    std::string_view rest = header.substr(at + quoted.size());
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    return rest;
}

std::vector<uint64_t> parse_shape(std::string_view text) {
    std::vector<uint64_t> shape;
    if (text.empty() || text[0] != '(') throw CommandError("the shape in its header is no tuple");
    text.remove_prefix(1);
    for (;;) {
        text.remove_prefix(std::min(text.find_first_not_of(" ,"), text.size()));
        if (text.empty()) throw CommandError("the shape in its header does not end");
        if (text[0] == ')') return shape;
        uint64_t n = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
        if (error != std::errc() || end == text.data()) throw CommandError("the shape in its header is damaged");
        text.remove_prefix(size_t(end - text.data()));
        shape.push_back(n);
    }
}

struct Type {
    const char *descr;
    int32_t dtype;
    size_t file_bytes;
};
constexpr Type types[] = {{"<f4", BITNET_DTYPE_F32, 4}, {"<f2", BITNET_DTYPE_F16, 2}, {"<u2", BITNET_DTYPE_BF16, 2},
                          {"|i1", BITNET_DTYPE_I8, 1},  {"<i4", BITNET_DTYPE_I32, 4}, {"<i8", BITNET_DTYPE_I32, 8},
                          {"<f8", BITNET_DTYPE_F32, 8}};

template <class From, class To> std::string converted(std::string_view bytes) {
    std::string out(bytes.size() / sizeof(From) * sizeof(To), '\0');
    for (size_t i = 0; i < bytes.size() / sizeof(From); ++i) {
        From from;
        std::memcpy(&from, bytes.data() + i * sizeof(From), sizeof from);
        const To to = static_cast<To>(from);
        if constexpr (sizeof(From) == 8 && sizeof(To) == 4 && static_cast<To>(1.5) == static_cast<To>(1))
            if (static_cast<From>(to) != from) throw CommandError("a number in it does not fit in 32 bits");
        std::memcpy(out.data() + i * sizeof(To), &to, sizeof to);
    }
    return out;
}

}  // namespace

uint64_t Array::n_elements() const {
    uint64_t n = 1;
    for (const uint64_t size : shape) n *= size;
    return n;
}

size_t dtype_bytes(int32_t dtype) {
    return dtype == BITNET_DTYPE_I8 ? 1 : dtype == BITNET_DTYPE_F16 || dtype == BITNET_DTYPE_BF16 ? 2 : 4;
}

double value_at(const char *data, int32_t dtype, size_t i) {
    if (dtype == BITNET_DTYPE_I8) return static_cast<signed char>(data[i]);
    uint32_t bits = 0;
    std::memcpy(&bits, data + i * dtype_bytes(dtype), dtype_bytes(dtype));
    if (dtype == BITNET_DTYPE_I32) return static_cast<int32_t>(bits);
    if (dtype == BITNET_DTYPE_BF16) bits <<= 16;
    if (dtype == BITNET_DTYPE_F16) {
        const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
        const double size = exponent == 31 ? (mantissa ? NAN : HUGE_VAL)
                            : exponent     ? std::ldexp(1024.0 + mantissa, int(exponent) - 25)
                                           : std::ldexp(double(mantissa), -24);
        return bits & 0x8000 ? -size : size;
    }
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

Array parse_npy(std::string_view file) {
    if (file.size() < 12 || file.substr(0, 6) != "\x93NUMPY") throw CommandError("not an NPY file");
    const auto byte = [&](size_t at) { return size_t(static_cast<unsigned char>(file[at])); };
    const bool wide = byte(6) > 1;  // version 2 and 3 have four bytes of length
    const size_t n_header = wide ? byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24 : byte(8) | byte(9) << 8;
    const size_t begin = wide ? 12 : 10;
    if (n_header > file.size() - begin) throw CommandError("it ends inside its header");
    const std::string_view header = file.substr(begin, n_header);
    if (value_of(header, "fortran_order").substr(0, 5) != "False")
        throw CommandError("it is in Fortran order: expected C order");

    Array array;
    array.shape = parse_shape(value_of(header, "shape"));
    uint64_t n = 1;
    for (const uint64_t size : array.shape) {
        if (size != 0 && n > elements_max / size) throw CommandError("its shape is larger than 2^32 elements");
        n *= size;
    }
    const std::string_view descr = value_of(header, "descr");
    const Type *type = nullptr;
    for (const Type &known : types)
        if (descr.substr(0, 5) == std::string("'") + known.descr + "'") type = &known;
    if (!type) {
        throw CommandError(text_of("type %s: expected <f4, <f2, <u2 (bf16), <f8, |i1, <i4 or <i8",
                                   printable(descr.substr(0, descr.find(','))).c_str()));
    }
    const std::string_view data = file.substr(begin + n_header);
    if (data.size() != n * type->file_bytes)
        throw CommandError(text_of("%zu bytes of values: expected %llu, by its header", data.size(),
                                   static_cast<unsigned long long>(n * type->file_bytes)));
    array.dtype = type->dtype;
    if (type->file_bytes == 8)
        array.bytes =
            type->dtype == BITNET_DTYPE_I32 ? converted<int64_t, int32_t>(data) : converted<double, float>(data);
    else
        array.bytes = std::string(data);
    return array;
}

}  // namespace bitnet::recording
