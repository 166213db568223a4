// Sections 1 and 3 of the header: version and CPU.
#include "core/cpu.h"

#include "bitnet_c.h"

extern "C" {

uint32_t bitnet_abi_version(void) { return BITNET_ABI_VERSION; }
const char *bitnet_version(void) { return BITNET_VERSION; }

int32_t bitnet_isa_count(void) { return bitnet::isa_count(); }

const char *bitnet_isa_name(int32_t index) {
    return index >= 0 && index < bitnet::isa_count() ? bitnet::isa_at(index).kernels->isa : nullptr;
}

int32_t bitnet_isa_usable(int32_t index) {
    return index >= 0 && index < bitnet::isa_count() && bitnet::isa_at(index).usable;
}

}  // extern "C"
