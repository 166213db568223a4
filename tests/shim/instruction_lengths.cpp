// Lengths of instructions against a disassembler's. stdin: records of 16 bytes, a length and that many bytes, filled
// up. Prints the first that differ and "N instructions, M wrong"; exit code 0: none is, 1.
#include <cstdio>

#include "shim/instruction_length.h"

int main() {
    unsigned char record[16];
    unsigned long n = 0, n_wrong = 0;
    for (; std::fread(record, 1, sizeof record, stdin) == sizeof record; ++n) {
        const size_t length = bitnet::shim::instruction_length(record + 1, record[0]);
        const bool whole = length == record[0];
        const bool cut = bitnet::shim::instruction_length(record + 1, size_t(record[0]) - 1) == 0;  // must be noticed
        if ((whole && cut) || ++n_wrong > 20) continue;
        for (int i = 1; i <= record[0]; ++i) std::printf("%02x ", record[i]);
        std::printf("-> %zu\n", length);
    }
    std::printf("%lu instructions, %lu wrong\n", n, n_wrong);
    return n_wrong != 0;
}
