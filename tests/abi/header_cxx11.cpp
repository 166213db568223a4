/* The headers, included first and in any order, are all that a translation unit needs: its types, macros and every
 * function. */
#include <bitnet_c.h>
#include <bitnet_cpp.h>

uint32_t bitnet_header_alone(void);
uint32_t bitnet_header_alone(void) {
    bitnet_load_params_t load = {sizeof(bitnet_load_params_t), BITNET_LOAD_COPY, 0, 0, 0, 0};
    bitnet_status_t status = BITNET_OK;
    return load.struct_size + (uint32_t)status + BITNET_ABI_VERSION + BITNET_STAGE_LOGITS;
}
