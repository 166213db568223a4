// An envelope for people.
#pragma once

#include <string>

#include "abi/cli/envelope/cache.h"

namespace bitnet::envelope {

std::string render_text(const Obtained &obtained);

}  // namespace bitnet::envelope
