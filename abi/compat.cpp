#include "abi/compat.h"

#include <cstring>
#include <string_view>

#include "model/error.h"
#include "model/pretokenizer.h"

namespace bitnet {

void check(bitnet_status_t status) {
    if (status != BITNET_OK) fail(Status(status), "%s", bitnet_last_error());
}

void require_positive(int32_t value, const char *name) {
    if (value <= 0) fail(Status::invalid, "%s is %d: expected at least 1", name, value);
}

void clear_error(char *err, int32_t err_len) noexcept { std::memset(err, 0, size_t(err_len)); }

void write_error(char *err, int32_t err_len, const char *function, const char *text) noexcept {
    clear_error(err, err_len);
    size_t left = size_t(err_len) - 1;
    for (const std::string_view part : {std::string_view(function), std::string_view(": "), std::string_view(text)})
        for (size_t i = 0, length; i < part.size(); i += length) {
            const size_t character = utf8_length(part.substr(i));
            length = character ? character : 1;
            if (length > left) return;
            if (character)
                std::memcpy(err, part.data() + i, length);
            else
                *err = '?';
            err += length;
            left -= length;
        }
}

}  // namespace bitnet
