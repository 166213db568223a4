// The demo model, embedded in the program: `bitnet run` without -m.
#pragma once

#include <cstddef>

extern "C" {
extern const unsigned char bitnet_demo_model_begin[];  // demo_model.S; aligned to 64 bytes
extern const unsigned char bitnet_demo_model_end[];
}

namespace bitnet {

inline constexpr const char *demo_model_name = "demo.gguf (embedded)";
inline const void *demo_model_data() { return bitnet_demo_model_begin; }
inline size_t demo_model_size() { return static_cast<size_t>(bitnet_demo_model_end - bitnet_demo_model_begin); }

}  // namespace bitnet
