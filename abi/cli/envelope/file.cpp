#include "abi/cli/envelope/file.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include <nlohmann/json.hpp>

#include "abi/cli/certify/certificate.h"
#include "abi/cli/prompt.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"

namespace bitnet::envelope {

namespace {

using json = nlohmann::ordered_json;

constexpr const char *kind = "bitnet-envelope";

// Of the JSON without this key, in its shortest form.
std::string checksum_of(const json &value) {
    const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    return certify::blake3_of(text.data(), text.size());
}

json class_object(const ClassReach &reach) {
    json out = {{"name", reach.name}, {"text", reach.text}, {"variations", reach.variations}};
    out["stages"] = json::array();
    for (const StageReach &s : reach.stages)
        out["stages"].push_back({{"layer", s.layer},
                                 {"stage", s.stage},
                                 {"relative", s.relative},
                                 {"one_minus_cosine", s.cosine_distance},
                                 {"position", s.position}});
    out["logits"] = json::array();
    for (const LogitsReach &l : reach.logits)
        out["logits"].push_back({{"position", l.position},
                                 {"relative", l.relative},
                                 {"one_minus_cosine", l.cosine_distance},
                                 {"nmse", l.nmse},
                                 {"kl", l.kl},
                                 {"max_abs", l.max_abs},
                                 {"top1_equal", l.top1_equal}});
    return out;
}

// What is not so is damage: the writer never writes it.
void expect(bool good, const char *what) {
    if (!good) throw CommandError(what);
}

double distance_at(const json &object, const char *key) {
    const double value = object.at(key).get<double>();
    expect(std::isfinite(value) && value >= 0, "a distance that is negative or not finite");
    return value;
}

ClassReach class_from(const json &object, size_t n_tokens) {
    ClassReach reach;
    object.at("name").get_to(reach.name);
    object.at("text").get_to(reach.text);
    object.at("variations").get_to(reach.variations);
    for (const json &s : object.at("stages"))
        reach.stages.push_back({s.at("layer").get<int32_t>(), s.at("stage").get<std::string>(),
                                distance_at(s, "relative"), distance_at(s, "one_minus_cosine"),
                                s.at("position").get<int32_t>()});
    for (const json &l : object.at("logits"))
        reach.logits.push_back({l.at("position").get<int32_t>(), distance_at(l, "relative"),
                                distance_at(l, "one_minus_cosine"), distance_at(l, "nmse"), l.at("kl").get<double>(),
                                distance_at(l, "max_abs"), l.at("top1_equal").get<bool>()});
    expect(reach.logits.size() == n_tokens, "another number of logits than of tokens");
    return reach;
}

Envelope envelope_from(json &object) {
    expect(object.is_object() && object.value("kind", "") == kind, "no envelope: its kind is not 'bitnet-envelope'");
    const int found = object.at("schema").get<int>();
    if (found != schema) throw CommandError(text_of("schema %d, expected %d", found, schema));
    const std::string checksum = object.at("checksum").get<std::string>();
    object.erase("checksum");
    expect(checksum == checksum_of(object), "damaged: its checksum is another one");
    Envelope envelope;
    object.at("engine_version").get_to(envelope.subject.engine_version);
    object.at("model_path").get_to(envelope.model_path);
    object.at("model_hash").get_to(envelope.subject.model_hash);
    object.at("semantics").get_to(envelope.subject.semantics);
    object.at("tokens").get_to(envelope.subject.tokens);
    object.at("seeds").get_to(envelope.subject.n_seeds);
    for (const json &reach : object.at("classes"))
        envelope.classes.push_back(class_from(reach, envelope.subject.tokens.size()));
    expect(!envelope.classes.empty(), "no classes");
    const auto same_stages = [&](const ClassReach &reach) {
        const std::vector<StageReach> &stages = envelope.classes.front().stages;
        return std::equal(
            stages.begin(), stages.end(), reach.stages.begin(), reach.stages.end(),
            [](const StageReach &a, const StageReach &b) { return a.layer == b.layer && a.stage == b.stage; });
    };
    for (const ClassReach &reach : envelope.classes) expect(same_stages(reach), "classes with other stages");
    return envelope;
}

}  // namespace

std::string to_json(const Envelope &envelope) {
    const Subject &subject = envelope.subject;
    json out = {{"kind", kind},
                {"schema", schema},
                {"engine", engine_name},
                {"engine_version", subject.engine_version},
                {"model_path", envelope.model_path},
                {"model_hash", subject.model_hash},
                {"semantics", subject.semantics},
                {"tokens", subject.tokens},
                {"seeds", subject.n_seeds},
                {"margin", margin}};
    out["classes"] = json::array();
    for (const ClassReach &reach : envelope.classes) out["classes"].push_back(class_object(reach));
    // A path may hold any bytes: what is hashed is what a reader will see.
    out = json::parse(out.dump(-1, ' ', false, json::error_handler_t::replace));
    out["checksum"] = checksum_of(out);
    return out.dump(1) + "\n";
}

Envelope from_json(const std::string &text, const std::string &name) {
    try {
        json object = json::parse(text);
        return envelope_from(object);
    } catch (const json::parse_error &error) {
        throw CommandError(text_of("%s: no JSON, at byte %zu", printable(name).c_str(), error.byte));
    } catch (const json::exception &error) {
        throw CommandError(printable(name) + ": damaged: " + printable(error.what()));
    } catch (const CommandError &error) {
        throw CommandError(printable(name) + ": " + error.what());
    }
}

void write_envelope(const Envelope &envelope, const std::string &path) {
    TraceFile file(path);
    std::ofstream out(file.write_path(), std::ios::binary);
    out << to_json(envelope);
    out.close();
    if (!out) throw CommandError(text_of("%s: cannot write: %s", path.c_str(), std::strerror(errno)));
    file.commit();
}

Envelope read_envelope(const std::string &path) { return from_json(read_file(path), path); }

}  // namespace bitnet::envelope
