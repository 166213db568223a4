#include "model/pretokenizer.h"

#include <cstdint>
#include <new>
#include <string>
#include <utility>

#include "model/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace bitnet {
namespace {

// LLaMA-3's expression. Its \s means the Unicode property White_Space; PCRE2's \s would also take U+180E.
constexpr char expression[] = R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
                              R"(|[^\r\n\p{L}\p{N}]?\p{L}+)"
                              R"(|\p{N}{1,3})"
                              R"(| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*)"
                              R"(|\p{White_Space}*[\r\n]+)"
                              R"(|\p{White_Space}+(?!\P{White_Space}))"
                              R"(|\p{White_Space}+)";

std::string pcre2_message(int code) {
    PCRE2_UCHAR text[256];
    const int length = pcre2_get_error_message(code, text, sizeof text);
    return length < 0 ? format_text("PCRE2 error %d", code) : std::string(reinterpret_cast<const char *>(text));
}

struct CodeFree {
    void operator()(pcre2_code *code) const { pcre2_code_free(code); }
};
struct ContextFree {
    void operator()(pcre2_match_context *context) const { pcre2_match_context_free(context); }
};
struct MatchFree {
    void operator()(pcre2_match_data *match) const { pcre2_match_data_free(match); }
};

bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

size_t utf8_length(std::string_view text) {
    if (text.empty()) return 0;
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(0);
    if (first < 0x80) return 1;
    if (first < 0xC2 || first > 0xF4) return 0;
    const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (text.size() < length) return 0;
    // Only the second byte's range depends on the first.
    const unsigned char lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned char highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte(1) < lowest || byte(1) > highest) return 0;
    for (size_t i = 2; i < length; i++) {
        if (!is_continuation(byte(i))) return 0;
    }
    return length;
}

struct Pretokenizer::Pattern {
    std::unique_ptr<pcre2_code, CodeFree> code;
    std::unique_ptr<pcre2_match_context, ContextFree> context;  // only read by matches, so shared
};

struct PieceReader::Match {
    std::unique_ptr<pcre2_match_data, MatchFree> data;
};

Pretokenizer::Pretokenizer() {
    auto pattern = std::make_unique<Pattern>();
    int error = 0;
    PCRE2_SIZE error_offset = 0;
    pattern->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), sizeof expression - 1,
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &error_offset, nullptr));
    if (!pattern->code) {
        fail(Status::internal, "pre-tokenizer expression at offset %zu: %s", static_cast<size_t>(error_offset),
             pcre2_message(error).c_str());
    }
    // Without JIT (not built in, or no executable memory) the interpreter gives the same matches.
    pcre2_jit_compile(pattern->code.get(), PCRE2_JIT_COMPLETE);
    pattern->context.reset(pcre2_match_context_create(nullptr));
    if (!pattern->context) throw std::bad_alloc();
    // The work for a piece grows with its length, which is not limited; so neither are the steps.
    pcre2_set_match_limit(pattern->context.get(), UINT32_MAX);
    pcre2_set_depth_limit(pattern->context.get(), UINT32_MAX);
    pcre2_set_heap_limit(pattern->context.get(), UINT32_MAX);
    pattern_ = std::move(pattern);
}

Pretokenizer::~Pretokenizer() = default;

PieceReader::PieceReader(const Pretokenizer &pretokenizer, std::string_view text)
    : pretokenizer_(pretokenizer), match_(std::make_unique<Match>()), text_(text) {
    match_->data.reset(pcre2_match_data_create(1, nullptr));
    if (!match_->data) throw std::bad_alloc();
}

PieceReader::~PieceReader() = default;

bool PieceReader::next(Piece &piece) {
    if (position_ == text_.size()) return false;
    if (position_ == run_end_) {
        run_begin_ = position_;
        while (const size_t length = utf8_length(text_.substr(run_end_))) run_end_ += length;
    }
    size_t end = position_;
    piece.is_text = position_ < run_end_;
    if (piece.is_text) {
        end = match_end();
    } else {
        while (end < text_.size() && utf8_length(text_.substr(end)) == 0) end++;
        run_end_ = end;
    }
    piece.bytes = text_.substr(position_, end - position_);
    position_ = end;
    return true;
}

size_t PieceReader::match_end() {
    const Pretokenizer::Pattern &pattern = *pretokenizer_.pattern_;
    const auto run = reinterpret_cast<PCRE2_SPTR>(text_.data()) + run_begin_;
    const auto match = [&](uint32_t options) {
        return pcre2_match(pattern.code.get(), run, run_end_ - run_begin_, position_ - run_begin_,
                           PCRE2_NO_UTF_CHECK | options, match_->data.get(), pattern.context.get());
    };
    int result = match(0);
    // JIT code runs on a fixed 32 KiB of stack; the interpreter takes what it needs from the heap.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMEMORY || result == PCRE2_ERROR_HEAPLIMIT) throw std::bad_alloc();
    const size_t end = result > 0 ? run_begin_ + pcre2_get_ovector_pointer(match_->data.get())[1] : position_;
    if (end <= position_) {  // every character begins a match, so this is a fault of the expression or of PCRE2
        fail(Status::internal, "pre-tokenizer at byte %zu of %zu: %s", position_, text_.size(),
             result < 0 ? pcre2_message(result).c_str() : "empty match");
    }
    return end;
}

}  // namespace bitnet
