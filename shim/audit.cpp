// LD_AUDIT: for libraries opened with RTLD_DEEPBIND, which look into themselves before they look at what is preloaded.
// The loader asks this one about every binding; those of the hooked functions are led to the interposer, which must be
// preloaded as well. Auditors live in a namespace of their own: nothing is traced here.
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr const char *kInterposer = "libbitnet_shim.so";

constexpr const char *kHooked[] = {
#define BITNET_HOOKED(name) #name,
#include "shim/hooked_functions.inc"
#undef BITNET_HOOKED
};
constexpr int kHookedCount = int(sizeof kHooked / sizeof kHooked[0]);

uintptr_t hooks[kHookedCount];  // 0: the interposer has none, or is not there

const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

struct Symbols {
    const ElfW(Sym) *table = nullptr;
    const char *names = nullptr;
    const uint32_t *hash = nullptr;

    explicit Symbols(const link_map *map) {
        for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
            // Addresses that the loader has adjusted already, or not, depending on its version.
            uintptr_t address = entry->d_un.d_ptr;
            if (address < map->l_addr) address += map->l_addr;
            if (entry->d_tag == DT_SYMTAB) table = reinterpret_cast<const ElfW(Sym) *>(address);
            if (entry->d_tag == DT_STRTAB) names = reinterpret_cast<const char *>(address);
            if (entry->d_tag == DT_GNU_HASH) hash = reinterpret_cast<const uint32_t *>(address);
        }
    }

    // The GNU hash table: buckets, then chains of hashes whose last has bit 0 set.
    const ElfW(Sym) * find(const char *name) const {
        if (!table || !names || !hash) return nullptr;
        uint32_t wanted = 5381;
        for (const char *p = name; *p; ++p) wanted = wanted * 33 + uint8_t(*p);
        const uint32_t n_buckets = hash[0], first = hash[1], n_bloom = hash[2];
        const uint32_t *buckets = hash + 4 + n_bloom * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
        const uint32_t *chains = buckets + n_buckets;
        uint32_t i = n_buckets ? buckets[wanted % n_buckets] : 0;
        if (i < first) return nullptr;
        for (;; ++i) {
            const uint32_t found = chains[i - first];
            if ((found | 1) == (wanted | 1) && strcmp(names + table[i].st_name, name) == 0) return &table[i];
            if (found & 1) return nullptr;
        }
    }
};

void find_hooks(const link_map *map) {
    const Symbols symbols(map);
    for (int i = 0; i < kHookedCount; ++i) {
        const ElfW(Sym) *symbol = symbols.find(kHooked[i]);
        if (symbol && symbol->st_shndx != SHN_UNDEF) hooks[i] = map->l_addr + symbol->st_value;
    }
}

bool is_interposer(const uintptr_t *cookie) { return *cookie == 1; }

}  // namespace

#define AUDIT extern "C" __attribute__((visibility("default")))

AUDIT unsigned la_version(unsigned version) { return version < LAV_CURRENT ? version : LAV_CURRENT; }

AUDIT unsigned la_objopen(link_map *map, Lmid_t namespace_id, uintptr_t *cookie) {
    const char *file = map->l_name ? file_name(map->l_name) : "";
    *cookie = 0;
    if (namespace_id == LM_ID_BASE && strcmp(file, kInterposer) == 0) {
        *cookie = 1;
        find_hooks(map);
    }
    // What is looked for is defined in these; whoever calls may be anything.
    const bool defines = strstr(file, "ggml") || strstr(file, "llama");
    return unsigned(LA_FLG_BINDFROM) | (defines ? unsigned(LA_FLG_BINDTO) : 0u);
}

AUDIT uintptr_t la_symbind64(Elf64_Sym *symbol, unsigned, uintptr_t *from, uintptr_t *, unsigned *flags,
                             const char *name) {
    // The interposer asks for the engine's own functions, by name.
    if (is_interposer(from) || (*flags & LA_SYMB_DLSYM)) return symbol->st_value;
    if (strncmp(name, "ggml_backend_", 13) != 0 && strncmp(name, "gguf_init", 9) != 0 &&
        strcmp(name, "llama_set_warmup") != 0)
        return symbol->st_value;
    for (int i = 0; i < kHookedCount; ++i) {
        if (hooks[i] && strcmp(name, kHooked[i]) == 0) return hooks[i];
    }
    return symbol->st_value;
}
