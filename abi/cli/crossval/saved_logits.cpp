// logits: the file of llama-perplexity --save-all-logits. Little-endian:
//
//     "_logits_"  int32 n_ctx  int32 n_vocab  int32 n_chunk  int32 tokens[n_chunk * n_ctx]
//     for each chunk, for the positions n_ctx/2 .. n_ctx - 2:
//         float32 scale  float32 lowest  uint16 code[n_vocab, one more when that is odd]
//
// log p(i) = scale * code[i] + lowest, and lowest is at most 16 below the largest: code 0 is "that or less". Each chunk
// was evaluated on its own, with its first token replaced by BOS when the model wants one.
#include "abi/cli/crossval/saved_logits.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "abi/cli/crossval/source.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

struct Header {
    int32_t n_ctx, n_vocab, n_chunk;
};

double log_sum_exp(const float *logits, size_t n) {
    const double largest = double(*std::max_element(logits, logits + n));
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += std::exp(double(logits[i]) - largest);
    return largest + std::log(sum);
}

class SavedLogits : public Source {
public:
    explicit SavedLogits(std::string path)
        : path_(std::move(path)), file_(std::fopen(path_.c_str(), "rb"), std::fclose) {
        if (!file_) throw CommandError(text_of("%s: cannot open: %s", shown().c_str(), std::strerror(errno)));
        char magic[8];
        if (std::fread(magic, 1, 8, file_.get()) != 8 || std::memcmp(magic, saved_logits_magic, 8) != 0)
            throw CommandError(shown() + ": not saved by llama-perplexity: it does not begin with _logits_");
        if (std::fread(&header_, sizeof header_, 1, file_.get()) != 1) throw cut("its header");
        if (header_.n_ctx < 3 || header_.n_vocab < 1 || header_.n_chunk < 1)
            throw CommandError(text_of("%s: n_ctx %d, n_vocab %d, n_chunk %d: expected at least 3, 1 and 1",
                                       shown().c_str(), header_.n_ctx, header_.n_vocab, header_.n_chunk));
        check_size();
        for (int32_t i = 0; i < header_.n_chunk; i++) {
            chunks_.emplace_back(size_t(header_.n_ctx));
            if (std::fread(chunks_.back().data(), sizeof(int32_t), chunks_.back().size(), file_.get()) !=
                chunks_.back().size())
                throw cut("its tokens");
        }
        data_begin_ = std::ftell(file_.get());
        first_ = header_.n_ctx / 2;
        codes_.resize(codes_of_row());
        theirs_.resize(size_t(header_.n_vocab));
        ours_.resize(theirs_.size());
    }

    std::string name() const override { return "logits:" + path_; }
    std::string limitation() const override {
        return text_of("log-probabilities in 16 bits: errors up to %.2g, nothing below 1.1e-7 (e^-16) of the largest "
                       "probability, which is the zero of cosine and NMSE; the first half of each chunk and its last "
                       "position are not in it",
                       16.0 / 65535 / 2);
    }
    void open(const bitnet_model_t *model) override {
        const int32_t n_vocab = model_info(model).n_vocab;
        if (n_vocab != header_.n_vocab)
            throw CommandError(
                text_of("%s: n_vocab is %d, expected the model's %d", shown().c_str(), header_.n_vocab, n_vocab));
        const int32_t bos = bitnet_token_special(model, BITNET_SPECIAL_BOS);
        for (Ids &chunk : chunks_) {
            if (bitnet_token_wants_bos(model) && bos >= 0) chunk[0] = bos;
            for (const int32_t id : chunk)
                if (id < 0 || id >= n_vocab)
                    throw CommandError(text_of("%s: token id %d, expected 0 to %d", shown().c_str(), id, n_vocab - 1));
        }
    }
    std::vector<Ids> own_prompts() override { return chunks_; }
    std::optional<Ids> tokens(size_t index, const PromptItem &, const TokenizeFlags &) override {
        if (index >= chunks_.size())
            throw CommandError(text_of("%s: %zu chunks, none for prompt %zu", shown().c_str(), chunks_.size(), index));
        return chunks_[index];
    }
    Offered begin(size_t index, const Ids &) override {
        chunk_ = index;
        Offered offered;
        offered.partial = true;
        for (int i = first_; i < header_.n_ctx - 1; i++) offered.positions.push_back(i);
        return offered;
    }

    const float *compare(int position, const float *ours, const bitnet_logits_limits_t &limits,
                         bitnet_logits_row_t &row) override {
        const uint64_t row_index = uint64_t(chunk_) * rows_of_chunk() + uint64_t(position - first_);
        const uint64_t offset = uint64_t(data_begin_) + row_index * codes_.size() * sizeof(uint16_t);
        if (std::fseek(file_.get(), long(offset), SEEK_SET) != 0 ||
            std::fread(codes_.data(), sizeof(uint16_t), codes_.size(), file_.get()) != codes_.size())
            throw cut("its last row");
        float scale = 0, lowest = 0;
        std::memcpy(&scale, codes_.data(), sizeof scale);
        std::memcpy(&lowest, codes_.data() + 2, sizeof lowest);
        // A softmax does not see a constant: the file's log-probabilities are our logits when shifted by our
        // log-sum-exp. Zero is then put where the file ends, so that what it does not hold is 0 on both sides and
        // counts for nothing.
        const double floor = double(lowest) + log_sum_exp(ours, theirs_.size());
        for (size_t i = 0; i < theirs_.size(); i++) {
            theirs_[i] = float(double(scale) * codes_[4 + i]);
            const auto x = float(double(ours[i]) - floor);
            ours_[i] = x < 0 ? 0 : x;  // NaN stays
        }
        compare_values(ours_.data(), theirs_.data(), theirs_.size(), limits, row);
        return theirs_.data();
    }

private:
    std::string shown() const { return printable(path_); }
    CommandError cut(const char *what) const {
        return CommandError(shown() + ": cut short: " + what + " is not whole");
    }
    size_t codes_of_row() const { return (size_t(header_.n_vocab) + 1) / 2 * 2 + 4; }
    uint64_t rows_of_chunk() const { return uint64_t(header_.n_ctx - 1 - header_.n_ctx / 2); }

    // The numbers of the header, before memory is taken on their word.
    void check_size() const {
        const long at = std::ftell(file_.get());
        std::fseek(file_.get(), 0, SEEK_END);
        const long end = std::ftell(file_.get());
        std::fseek(file_.get(), at, SEEK_SET);
        const double expected = double(at) + double(header_.n_chunk) * double(header_.n_ctx) * 4 +
                                double(header_.n_chunk) * double(rows_of_chunk()) * double(codes_of_row()) * 2;
        if (double(end) < expected)
            throw CommandError(
                text_of("%s: cut short: %ld bytes, its header promises %.0f", shown().c_str(), end, expected));
    }

    std::string path_;
    std::unique_ptr<FILE, int (*)(FILE *)> file_;
    Header header_{};
    std::vector<Ids> chunks_;
    long data_begin_ = 0;
    int first_ = 0;
    size_t chunk_ = 0;
    std::vector<uint16_t> codes_;
    std::vector<float> theirs_, ours_;
};

}  // namespace

std::unique_ptr<Source> open_saved_logits(const std::string &path) { return std::make_unique<SavedLogits>(path); }

}  // namespace bitnet::crossval
