#!/usr/bin/env python3
"""Who may include whom. A wrong arrow between the folders fails the build's tests.

Usage: layers_test.py SOURCE_DIR        exit 0: every include is allowed, 1: not
       layers_test.py --self-test       the rules themselves, on includes that must be allowed or refused
"""
import re
import sys
from pathlib import Path

C_HEADERS = {"assert.h", "ctype.h", "dlfcn.h", "errno.h", "fcntl.h", "inttypes.h", "limits.h", "locale.h", "math.h",
             "pthread.h", "setjmp.h", "signal.h", "stdarg.h", "stdatomic.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h",
             "string.h", "time.h", "unistd.h"}


# C++ spellings of them, and the C++ headers that need no C++ library at run time.
FREESTANDING = {"c" + header[:-2] for header in C_HEADERS} | {"csignal", "new", "bit"}


def is_c(header):
    return header in C_HEADERS or header.startswith("sys/")


def is_c_like(header):
    return is_c(header) or header in FREESTANDING


def is_std(header):  # C++ names have no dot and no slash; system headers end in .h
    return re.fullmatch(r"[a-z_0-9]+", header) is not None or is_c(header) or header == "sched.h"


# Libraries of others in single plugins, linked statically or headers alone, none of which needs a C++ runtime.
PLUGIN_LIBRARIES = {("plugins/check/line.cpp", "rapidjson/reader.h"), ("plugins/check/line.cpp", "rapidjson/error/en.h"),
                    ("plugins/check/lines.cpp", "zstd.h"), ("plugins/output/line_writer.cpp", "zstd.h"), ("plugins/tracedir.cpp", "blake3.h")}


# What runs another program, and says why it could not be traced.
PROGRAM_RUNNERS = {("abi/cli/trace_program.cpp", "spawn.h"), ("abi/cli/program_status.cpp", "elf.h")}

# (folder, extra rule for single files): the first entry whose prefix matches a file decides.
RULES = [
    ("include/", lambda f, h: h in ("stddef.h", "stdint.h")),
    ("model/", lambda f, h: h.startswith("model/") or is_std(h) or (h == "pcre2.h" and f == "model/pretokenizer.cpp")),
    # No header with inline functions may reach a kernel file: the linker could keep a copy compiled for that ISA.
    ("core/kernels/", lambda f, h: h in ("core/kernels/declare.h", "core/kernels/kernels.inc", "core/kernels/lanes.h",
                                         "core/kernels/dense.h", "core/kernels/elementwise.h", "core/kernels/ternary_x86.h",
                                         "core/kernels/pace_x86.h",
                                         "core/kernels/kernels.h", "core/math.h", "immintrin.h", "arm_neon.h",
                                         "cstddef", "cstdint")),
    ("core/", lambda f, h: h.startswith(("core/", "model/")) or h == "bitnet_c.h" or is_std(h)
        or (h in ("cpuinfo.h", "cpuid.h") and f == "core/cpu.cpp")),
    ("abi/cli/", lambda f, h: h.startswith("abi/cli/") or h == "bitnet_c.h" or is_std(h)
        or h.startswith(("CLI/", "nlohmann/")) or (f, h) in PROGRAM_RUNNERS or h == "simdjson.h" or (h == "zstd.h" and f.startswith("abi/cli/diff/"))),
    # Another client of the boundary: llama.cpp's interface.
    ("abi/llama/", lambda f, h: h in ("abi/llama/objects.h", "bitnet_c.h", "llama.h") or is_std(h)),
    ("abi/", lambda f, h: (h.startswith(("abi/", "core/", "model/", "plugins/host/")) and not h.startswith(("abi/cli/", "abi/llama/")))
        or h in ("bitnet_c.h", "bitnet_cpp.h", "blake3.h") or is_std(h)),
    # Free of the C++ runtime: what C has, by either spelling. The host's own headers end at its folder.
    ("plugins/host/", lambda f, h: h.startswith("plugins/host/") or h in ("bitnet_c.h", "blake3.h") or is_c_like(h)
        or (h == "immintrin.h" and f in ("plugins/host/services_x86.cpp", "plugins/host/hash_avx512.cpp"))),
    # Built by others, outside of the project: the public header and whatever their compiler has.
    ("plugins/template/", lambda f, h: h == "bitnet_c.h" or is_std(h)),
    ("plugins/", lambda f, h: (h.startswith("plugins/") and not h.startswith("plugins/host/"))
        or h == "bitnet_c.h" or is_c_like(h) or (f, h) in PLUGIN_LIBRARIES),
    ("shim/", lambda f, h: h.startswith(("shim/", "plugins/host/")) or h in ("bitnet_c.h", "elf.h", "fnmatch.h", "link.h") or is_c_like(h)),
]


def allowed(file, header):
    return next(rule(file, header) for folder, rule in RULES if file.startswith(folder))


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
        if match:
            yield number, match.group(1)


def check(root):
    bad = seen = 0
    for folder in ("include", "model", "core", "abi", "plugins", "shim"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in (".h", ".c", ".cpp", ".inc"):
                continue
            file = path.relative_to(root).as_posix()
            for number, header in includes(path):
                seen += 1
                if not allowed(file, header):
                    print(f"{file}:{number}: may not include {header}")
                    bad += 1
    if seen < 100:
        print(f"only {seen} includes found below {root}: is this the source folder?")
        return 1
    print(f"{seen} includes, {bad} wrong")
    return 1 if bad else 0


def self_test():
    cases = [("model/gguf.cpp", "core/math.h", False), ("model/gguf.cpp", "vector", True),
             ("model/gguf.cpp", "pcre2.h", False), ("model/pretokenizer.cpp", "pcre2.h", True),
             ("core/forward.cpp", "abi/boundary.h", False), ("core/forward.cpp", "model/model.h", True),
             ("core/kernels/dot_avx2.cpp", "vector", False), ("core/kernels/dot_avx2.cpp", "immintrin.h", True),
             ("abi/eval.cpp", "plugins/output/json_text.h", False), ("abi/eval.cpp", "core/forward.h", True),
             ("abi/cli/run.cpp", "core/forward.h", False), ("abi/cli/run.cpp", "bitnet_c.h", True),
             ("abi/llama/model.cpp", "abi/boundary.h", False), ("abi/llama/model.cpp", "bitnet_c.h", True),
             ("abi/eval.cpp", "abi/llama/objects.h", False),
             ("plugins/jsonl.cpp", "plugins/host/host.h", False), ("plugins/jsonl.cpp", "string", False), ("plugins/jsonl.cpp", "cstring", True),
             ("plugins/check/line.cpp", "rapidjson/reader.h", True), ("plugins/check/check.cpp", "rapidjson/reader.h", False),
             ("plugins/check/line.cpp", "zstd.h", False),
             ("plugins/host/select.cpp", "core/trace.h", False), ("plugins/host/select.cpp", "string.h", True),
             ("shim/hooks.cpp", "abi/boundary.h", False), ("shim/hooks.cpp", "plugins/host/trace_host.h", True),
             ("shim/hooks.cpp", "vector", False), ("shim/report.cpp", "link.h", True),
             ("plugins/template/absmax.cpp", "map", True), ("plugins/template/absmax.cpp", "plugins/output/json_text.h", False),
             ("include/bitnet_c.h", "stdio.h", False)]
    wrong = [case for case in cases if allowed(case[0], case[1]) != case[2]]
    for case in wrong:
        print(f"wrong rule: {case}")
    print(f"{len(cases)} cases, {len(wrong)} wrong")
    return 1 if wrong else 0


sys.exit(self_test() if sys.argv[1:] == ["--self-test"] else check(Path(sys.argv[1])))
