// Where an envelope comes from: a file, the cache, or a measurement that is then kept in the cache.
#pragma once

#include <optional>
#include <string>

#include "abi/cli/envelope/envelope.h"
#include "abi/cli/envelope/measure.h"

namespace CLI {
class App;
}

namespace bitnet::envelope {

struct EnvelopeOptions {
    std::string source;  // "": none; "auto"; else a file
    bool no_cache = false;

    void add_to(CLI::App &command);           // both
    void add_no_cache_to(CLI::App &command);  // --no-cache alone
    bool given() const { return !source.empty(); }
    // Reads a file that was given, so that what is wrong with it is found before any work; --no-cache alone is refused.
    // Throws CommandError.
    void check() const;
};

// ${XDG_CACHE_HOME:-~/.cache}/bitnet/envelopes/<BLAKE3 of the subject>.json; "" when neither variable nor home is
// there.
std::string cache_path(const Subject &subject);

struct Obtained {
    Envelope envelope;
    std::string path;  // the file it was read from; "": it was measured now
};

// The envelope of `subject`. A file must fit it (mismatch); a cache entry that cannot be used, and a cache that cannot
// be written, are said in a line on stderr and cost nothing but time. Throws CommandError.
Obtained obtain(const EnvelopeOptions &options, const Subject &subject, const Engine &engine);

}  // namespace bitnet::envelope
