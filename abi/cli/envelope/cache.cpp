#include "abi/cli/envelope/cache.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "abi/cli/certify/certificate.h"
#include "abi/cli/envelope/file.h"
#include "abi/cli/prompt.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::envelope {

namespace {

void say(const std::string &text) { print_error("envelope: " + text); }

bool exists(const std::string &path) { return access(path.c_str(), F_OK) == 0; }

// What the cache holds of exactly this subject; none: nothing, or nothing that can be used.
std::optional<Envelope> cached(const std::string &path, const Subject &subject) {
    if (path.empty() || !exists(path)) return std::nullopt;
    try {
        Envelope envelope = read_envelope(path);
        const bool same_size =
            envelope.subject.tokens.size() == subject.tokens.size() && envelope.subject.n_seeds == subject.n_seeds;
        const std::string why = mismatch(envelope.subject, subject);
        if (why.empty() && same_size) return envelope;
        say(path + ": of something else (" + (why.empty() ? "other tokens or seeds" : why) + "): measured again");
    } catch (const CommandError &error) {
        say(std::string(error.what()) + ": measured again");
    }
    return std::nullopt;
}

void keep(const std::string &path, const Envelope &envelope) {
    if (path.empty()) {
        say("not kept: neither XDG_CACHE_HOME nor HOME says where");
        return;
    }
    std::error_code error;
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    std::filesystem::create_directories(folder, error);
    if (error) {
        say(text_of("not kept: cannot make the folder %s: %s", folder.c_str(), error.message().c_str()));
        return;
    }
    try {
        write_envelope(envelope, path);
    } catch (const CommandError &failure) {
        say(std::string("not kept: ") + failure.what());
    }
}

}  // namespace

void EnvelopeOptions::add_to(CLI::App &command) {
    command
        .add_option("--envelope", source,
                    "Judge by what legal variations of this engine do to the model and prompt: auto (cached, measured "
                    "when needed), or a file that bitnet envelope wrote")
        ->type_name("FILE|auto");
    add_no_cache_to(command);
}

void EnvelopeOptions::add_no_cache_to(CLI::App &command) {
    command.add_flag("--no-cache", no_cache, "Measure the envelope, whatever the cache holds, and do not keep it");
}

void EnvelopeOptions::check() const {
    if (no_cache && source != "auto") throw CommandError("--no-cache: needs --envelope auto");
    if (given() && source != "auto") read_envelope(source);
}

std::string cache_path(const Subject &subject) {
    std::string folder = environment("XDG_CACHE_HOME");
    if (folder.empty() || folder[0] != '/') {  // a relative one is to be ignored, says its specification
        folder = environment("HOME");
        if (folder.empty()) return "";
        folder += "/.cache";
    }
    const std::string text =
        text_of("bitnet-envelope/%d\n%s/%s\n%s\n%s\n%d\n", schema, engine_name, subject.engine_version.c_str(),
                subject.model_hash.c_str(), subject.semantics.c_str(), subject.n_seeds) +
        join_ids(subject.tokens, ",");
    return folder + "/bitnet/envelopes/" + certify::blake3_of(text.data(), text.size()) + ".json";
}

Obtained obtain(const EnvelopeOptions &options, const Subject &subject, const Engine &engine) {
    if (options.given() && options.source != "auto") {
        Obtained out{read_envelope(options.source), options.source};
        const std::string why = mismatch(out.envelope.subject, subject);
        if (!why.empty()) throw CommandError(options.source + ": an envelope of something else: " + why);
        return out;
    }
    const std::string path = options.no_cache ? "" : cache_path(subject);
    if (std::optional<Envelope> found = cached(path, subject)) return {std::move(*found), path};
    Obtained out{measure(engine, subject), ""};
    if (!options.no_cache) keep(path, out.envelope);
    return out;
}

}  // namespace bitnet::envelope
