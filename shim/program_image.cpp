#include "shim/program_image.h"

#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

namespace bitnet::shim {

namespace {

struct File {
    const char *bytes;
    size_t n;

    template <class T> const T *at(uint64_t offset, uint64_t count) const {
        if (offset % alignof(T) != 0 || offset > n || count > (n - offset) / sizeof(T)) return nullptr;
        return reinterpret_cast<const T *>(bytes + offset);
    }
};

File map_program() {
    File file = {nullptr, 0};
    const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0) return file;
    if (fstat(fd, &status) == 0 && status.st_size > 0) {
        void *bytes = mmap(nullptr, size_t(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED) file = {static_cast<const char *>(bytes), size_t(status.st_size)};
    }
    close(fd);
    return file;
}

bool take_symbols(const File &file, const Elf64_Shdr *sections, size_t n, uint32_t type, ProgramImage *out) {
    for (size_t i = 0; i < n; ++i) {
        const Elf64_Shdr &section = sections[i];
        if (section.sh_type != type || section.sh_link >= n) continue;
        const Elf64_Shdr &names = sections[section.sh_link];
        out->n_symbols = section.sh_size / sizeof(Elf64_Sym);
        out->symbols = file.at<Elf64_Sym>(section.sh_offset, out->n_symbols);
        out->names = file.at<char>(names.sh_offset, names.sh_size);
        out->n_names = names.sh_size;
        // The last name ends inside the table.
        if (out->symbols && out->names && out->n_names > 0 && out->names[out->n_names - 1] == 0) return true;
    }
    return false;
}

// The first object that is listed is the program.
int take_segments(dl_phdr_info *info, size_t, void *user) {
    ProgramImage *out = static_cast<ProgramImage *>(user);
    out->bias = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const Elf64_Phdr &segment = info->dlpi_phdr[i];
        if (segment.p_type != PT_LOAD) continue;
        uint8_t *from = reinterpret_cast<uint8_t *>(out->bias + segment.p_vaddr), *to = from + segment.p_memsz;
        uint8_t *page = reinterpret_cast<uint8_t *>(uintptr_t(from) & ~uintptr_t(sysconf(_SC_PAGESIZE) - 1));
        if (!out->lowest || page < out->lowest) out->lowest = page;
        if (to > out->highest) out->highest = to;
        if (!(segment.p_flags & PF_X) || out->n_code == kCodeSegmentsMax) continue;
        const int protection =
            PROT_EXEC | (segment.p_flags & PF_R ? PROT_READ : 0) | (segment.p_flags & PF_W ? PROT_WRITE : 0);
        out->code[out->n_code++] = {from, from + segment.p_filesz, protection};
    }
    return 1;
}

}  // namespace

const char *ProgramImage::name_of(const Elf64_Sym &symbol) const {
    const bool is_function = ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_shndx != SHN_UNDEF;
    return is_function && symbol.st_name < n_names ? names + symbol.st_name : "";
}

const CodeSegment *ProgramImage::segment_of(const uint8_t *address) const {
    for (int i = 0; i < n_code; ++i) {
        if (address >= code[i].from && address < code[i].to) return &code[i];
    }
    return nullptr;
}

uint8_t *ProgramImage::function(const char *name) const {
    for (size_t i = 0; i < n_symbols; ++i) {
        if (strcmp(name_of(symbols[i]), name) == 0 && segment_of(address_of(symbols[i]))) return address_of(symbols[i]);
    }
    return nullptr;
}

bool ProgramImage::is_shared(const uint8_t *address, const char *name) const {
    for (size_t i = 0; i < n_symbols; ++i) {
        const char *other = name_of(symbols[i]);
        if (*other && address_of(symbols[i]) == address && strcmp(other, name) != 0) return true;
    }
    return false;
}

const Elf64_Sym *ProgramImage::function_around(const uint8_t *address) const {
    for (size_t i = 0; i < n_symbols; ++i) {
        if (!*name_of(symbols[i])) continue;
        const uint8_t *from = address_of(symbols[i]);
        const CodeSegment *segment = segment_of(from);
        if (segment && address >= from && address - from < int64_t(symbols[i].st_size) &&
            symbols[i].st_size <= uint64_t(segment->to - from))
            return &symbols[i];
    }
    return nullptr;
}

const char *read_program_image(ProgramImage *out) {
    *out = {};
    const File file = map_program();
    const Elf64_Ehdr *header = file.at<Elf64_Ehdr>(0, 1);
    if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return "its file cannot be read";
    if (header->e_ident[EI_CLASS] != ELFCLASS64) return "it is no 64-bit program";
    const Elf64_Shdr *sections = file.at<Elf64_Shdr>(header->e_shoff, header->e_shnum);
    if (header->e_shentsize != sizeof(Elf64_Shdr) || !sections) return "its file has no sections";
    const bool whole = take_symbols(file, sections, header->e_shnum, SHT_SYMTAB, out);
    out->is_stripped = !whole;
    if (!whole && !take_symbols(file, sections, header->e_shnum, SHT_DYNSYM, out))
        return "it was stripped: it has no symbol table";
    dl_iterate_phdr(take_segments, out);
    return out->n_code > 0 ? nullptr : "its code was not found";
}

}  // namespace bitnet::shim
