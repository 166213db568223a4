#include "abi/cli/text_stream.h"

#include <algorithm>
#include <utility>

namespace bitnet {

namespace {

// Bytes at the end that begin a UTF-8 character without completing it. Bytes that can never be one are let through.
size_t incomplete_utf8(std::string_view text) {
    for (size_t back = 1; back <= 3 && back <= text.size(); back++) {
        const auto byte = static_cast<unsigned char>(text[text.size() - back]);
        if ((byte & 0xC0) == 0x80) continue;
        const size_t length = byte >= 0xF0 && byte <= 0xF4  ? 4
                              : byte >= 0xE0 && byte < 0xF0 ? 3
                              : byte >= 0xC2 && byte < 0xE0 ? 2
                                                            : 1;
        return length > back ? back : 0;
    }
    return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop_strings, std::function<void(std::string_view)> sink)
    : stop_strings_(std::move(stop_strings)), sink_(std::move(sink)) {
    std::erase(stop_strings_, "");
}

void TextStream::push(std::string_view bytes) {
    if (stopped_) return;
    const size_t before = text_.size();
    text_ += bytes;
    size_t end = std::string::npos;
    for (const std::string &stop : stop_strings_) {
        const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
        end = std::min(end, text_.find(stop, from));
    }
    if (end != std::string::npos) {
        stopped_ = true;
        text_.resize(end);
    }
    const size_t final_size = text_.size() - held_back();
    if (final_size > sent_) {
        sink_(std::string_view(text_).substr(sent_, final_size - sent_));
        sent_ = final_size;
    }
}

void TextStream::finish() {
    if (sent_ < text_.size()) sink_(std::string_view(text_).substr(sent_));
    sent_ = text_.size();
}

size_t TextStream::held_back() const {
    if (stopped_) return 0;
    size_t held = incomplete_utf8(text_);
    for (const std::string &stop : stop_strings_) {
        for (size_t n = std::min(stop.size() - 1, text_.size()); n > held; n--) {
            if (std::string_view(text_).substr(text_.size() - n) == std::string_view(stop).substr(0, n)) held = n;
        }
    }
    return held;
}

}  // namespace bitnet
