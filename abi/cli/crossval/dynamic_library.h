// A shared library opened at run time, in the child process that answers for it.
#pragma once

#include <string>

#include <dlfcn.h>

#include "abi/cli/terminal.h"

namespace bitnet::crossval {

class DynamicLibrary {
public:
    explicit DynamicLibrary(const std::string &path)
        : path_(path), handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
        if (handle_ == nullptr) throw CommandError(text_of("cannot load: %s", dlerror()));
    }
    DynamicLibrary(const DynamicLibrary &) = delete;
    DynamicLibrary &operator=(const DynamicLibrary &) = delete;
    // Never closed: the process ends soon, and engines leave threads behind.

    bool has(const char *name) const { return dlsym(handle_, name) != nullptr; }
    // Itself, not one that it was linked with: a lookup sees those too.
    bool defines(const char *name) const {
        void *function = dlsym(handle_, name), *of_function = nullptr, *of_library = nullptr;
        Dl_info info;
        return function != nullptr && dladdr1(function, &info, &of_function, RTLD_DL_LINKMAP) != 0 &&
               dlinfo(handle_, RTLD_DI_LINKMAP, &of_library) == 0 && of_function == of_library;
    }
    template <class Function> void find(const char *name, Function *&function) const {
        function = reinterpret_cast<Function *>(dlsym(handle_, name));
        if (function == nullptr) throw CommandError(text_of("%s has no function %s", path_.c_str(), name));
    }

private:
    std::string path_;
    void *handle_;
};

}  // namespace bitnet::crossval
