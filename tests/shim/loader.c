/* loader.c - opens an addon and runs it: loader [local|global|deepbind] ADDON WORDS... */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    int flags = RTLD_NOW | RTLD_LOCAL, at = 1;
    if (argc > 1 && strcmp(argv[1], "local") == 0) at = 2;
    if (argc > 1 && strcmp(argv[1], "global") == 0) at = 2, flags = RTLD_LAZY | RTLD_GLOBAL;
    if (argc > 1 && strcmp(argv[1], "deepbind") == 0) at = 2, flags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
    if (argc <= at) return 2;
    void *addon = dlopen(argv[at], flags);
    int (*run)(int, char **) = NULL;
    if (addon) *(void **)&run = dlsym(addon, "addon_main");
    if (!run) {
        fprintf(stderr, "loader: %s\n", dlerror());
        return 2;
    }
    return run(argc - at - 1, argv + at + 1);
}
