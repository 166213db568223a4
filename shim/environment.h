// What the environment asks of this process. Read once, with secure_getenv, when the engine is first met.
#pragma once

#include <cstdint>

namespace bitnet::shim {

enum class Mode { automatic, retain, callback };
enum class Inputs { none, cheap, all };  // cheap: but for caches that would have to be transposed

struct Settings {
    bool armed;  // there is something to do at all in this process
    bool no_flash;
    bool check_logits;  // a hash of each row into the status folder
    Inputs inputs;      // what each operation read, for the sinks
    Mode mode;
    int hash_model;  // 1: always, 0: never, -1: files up to kHashBytesMax
    uint64_t memory_bytes;
};

// Of a model file that is hashed unasked: about a second's work.
constexpr uint64_t kHashBytesMax = uint64_t(4) << 30;

const Settings &settings();
// settings().armed, and this process is the one that was armed: false while the process ends, and in a forked child,
// which takes no lock of ours either, as another thread may have held it.
bool active();
void become_inactive();  // the process ends

}  // namespace bitnet::shim
