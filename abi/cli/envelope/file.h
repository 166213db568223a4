// Envelopes as files: JSON, with a checksum.
#pragma once

#include <string>

#include "abi/cli/envelope/envelope.h"

namespace bitnet::envelope {

std::string to_json(const Envelope &envelope);
// Throws CommandError, `name` first: no JSON, another schema, a field that is missing or impossible, another checksum.
Envelope from_json(const std::string &text, const std::string &name);

void write_envelope(const Envelope &envelope, const std::string &path);  // whole or not at all
Envelope read_envelope(const std::string &path);

}  // namespace bitnet::envelope
