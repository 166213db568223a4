// What the two generations of llama.h share in one test: declared without either.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bitnet_test {

// As crossval's wrapper evaluates, compiled with BITNET_AVAILABLE: the tokens of `text`, and the logits of all rows of
// `tokens`.
// "" or what failed.
std::string new_generation(const char *path, const char *text, const std::vector<int32_t> &tokens,
                           std::vector<int32_t> &text_tokens, std::vector<float> &logits);

}  // namespace bitnet_test
