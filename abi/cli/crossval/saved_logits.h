// What llama-perplexity --save-all-logits (--kl-divergence-base) writes.
#pragma once

namespace bitnet::crossval {

inline constexpr char saved_logits_magic[] = "_logits_";

}  // namespace bitnet::crossval
