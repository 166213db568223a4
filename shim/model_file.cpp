#include "shim/model_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bitnet_c.h"
#include "plugins/host/services.h"
#include "shim/environment.h"
#include "shim/report.h"

namespace bitnet::shim {

namespace {

constexpr int kFilesMax = 32;  // a process that opens more is told apart by mappings alone

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
ModelFile *files[kFilesMax];
int n_files;

struct Keys {
    int64_t (*find)(const Gguf *, const char *);
    int (*type)(const Gguf *, int64_t);
    const char *(*text)(const Gguf *, int64_t);
    uint32_t (*u32)(const Gguf *, int64_t);
    const Gguf *gguf;

    // The engine ends the process when a key has another type than is asked for.
    int64_t find_of_type(const char *name, int wanted) const {
        const int64_t key = find(gguf, name);
        return key >= 0 && type(gguf, key) == wanted ? key : -1;
    }
    uint32_t number(const char *name, uint32_t otherwise) const {
        constexpr int kTypeU32 = 4;
        const int64_t key = find_of_type(name, kTypeU32);
        return key >= 0 ? u32(gguf, key) : otherwise;
    }
};

void read_keys(const Engine &engine, const Gguf *gguf, ModelFile *file) {
    Keys keys = {nullptr, nullptr, nullptr, nullptr, gguf};
    if (!take(engine, "gguf_find_key", &keys.find) || !take(engine, "gguf_get_kv_type", &keys.type) ||
        !take(engine, "gguf_get_val_str", &keys.text) || !take(engine, "gguf_get_val_u32", &keys.u32))
        return;
    constexpr int kTypeString = 8;
    const int64_t architecture = keys.find_of_type("general.architecture", kTypeString);
    if (architecture < 0) return;
    snprintf(file->architecture, sizeof file->architecture, "%s", keys.text(gguf, architecture));
    file->bos = int32_t(keys.number("tokenizer.ggml.bos_token_id", UINT32_MAX));
    file->eos = int32_t(keys.number("tokenizer.ggml.eos_token_id", UINT32_MAX));
    char name[128];
    snprintf(name, sizeof name, "%s.context_length", file->architecture);
    file->n_ctx_train = keys.number(name, 0);
    snprintf(name, sizeof name, "%s.feed_forward_length", file->architecture);
    file->n_ff = keys.number(name, 0);
}

ModelFile *find_or_add(const char *path) {
    for (int i = 0; i < n_files; ++i) {
        if (strcmp(files[i]->path, path) == 0) return files[i];
    }
    if (n_files == kFilesMax) return nullptr;
    ModelFile *file = static_cast<ModelFile *>(calloc(1, sizeof(ModelFile)));
    if (!file) return nullptr;
    snprintf(file->path, sizeof file->path, "%s", path);
    file->bos = file->eos = -1;
    return files[n_files++] = file;
}

// The file that is mapped at `address`, if it is a model. False: none.
bool mapped_file(const void *address, char path[4096]) {
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps) return false;
    const uintptr_t wanted = reinterpret_cast<uintptr_t>(address);
    char line[4352];
    bool found = false;
    while (!found && fgets(line, sizeof line, maps)) {
        uintptr_t from = 0, to = 0;
        int at = 0;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %*s %n", &from, &to, &at) < 2 || !at) continue;
        if (wanted < from || wanted >= to || line[at] != '/') continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, 4096, "%s", line + at);
        found = true;
    }
    fclose(maps);
    return found;
}

void hash_file(ModelFile *file) {
    const int wish = settings().hash_model;
    if (wish == 0) return;
    const int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0) return;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 &&
        (wish == 1 || uint64_t(status.st_size) <= kHashBytesMax)) {
        const size_t n = size_t(status.st_size);
        void *bytes = mmap(nullptr, n, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED) {
            uint8_t hash[32];
            row_blake3({bytes, n, BITNET_DTYPE_I8}, hash);
            munmap(bytes, n);
            for (int i = 0; i < 32; ++i) snprintf(file->hash + 2 * i, 3, "%02x", hash[i]);
        }
    }
    close(fd);
}

}  // namespace

void model_file_opened(const Engine &engine, const char *path, const Gguf *gguf) {
    char full[4096];
    if (!path || !realpath(path, full)) return;
    ModelFile read = {};
    read.bos = read.eos = -1;
    read_keys(engine, gguf, &read);
    pthread_mutex_lock(&mutex);
    ModelFile *file = find_or_add(full);
    if (file && read.architecture[0] && !file->architecture[0]) {  // others may be reading what they have
        memcpy(file->architecture, read.architecture, sizeof file->architecture);
        file->bos = read.bos;
        file->eos = read.eos;
        file->n_ctx_train = read.n_ctx_train;
        file->n_ff = read.n_ff;
    }
    pthread_mutex_unlock(&mutex);
}

ModelFile *model_file_of(const Engine &engine, const Tensor *weight) {
    char path[4096] = "";
    if (weight && engine.has_data(weight)) {
        const void *data = engine.host_data(weight);
        if (data) mapped_file(data, path);
    }
    pthread_mutex_lock(&mutex);
    ModelFile *file = path[0] ? find_or_add(path) : n_files == 1 ? files[0] : nullptr;
    pthread_mutex_unlock(&mutex);
    return file;
}

const char *model_file_hash(ModelFile *file) {
    pthread_mutex_lock(&mutex);
    if (!file->hash_tried) hash_file(file);
    file->hash_tried = true;
    pthread_mutex_unlock(&mutex);
    return file->hash;
}

}  // namespace bitnet::shim
