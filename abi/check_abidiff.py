#!/usr/bin/env python3
"""The ABI against its dump in the tree, by libabigail.

The built library carries no debug information, so that its types come from a twin: every function of the public headers with an
empty body, compiled with debug information under the library's own version script. The compiler holds the library's definitions to the
same headers. The built library itself is compared by its symbols.

Usage: check_abidiff.py SOURCE_DIR LIBBITNET_SO CC    exit 0: the same or only more, 1: not
       check_abidiff.py SOURCE_DIR --update CC        writes the dump and freezes the headers anew
"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import check_frozen
import header_text

DUMP = "abi/libbitnet.abi"


def twin_source(source):
    lines = [f"#include <{name}>" for name in header_text.HEADERS]
    for header in header_text.headers(source).values():
        for declaration in header.functions.values():
            lines.append(declaration + " { __builtin_trap(); }")
    return "\n".join(lines) + "\n"


def build_twin(source, cc, folder):
    code, twin = folder / "twin.c", folder / "libbitnet.so.1"
    code.write_text(twin_source(source))
    subprocess.run([cc, "-std=c11", "-g", "-O0", "-fPIC", "-shared", "-w", "-ffile-prefix-map=%s=." % source,
                    "-ffile-prefix-map=%s=." % folder, "-I", source / "include", code, "-o", twin, "-nostdlib",
                    "-Wl,-soname,libbitnet.so.1", f"-Wl,--version-script={source}/abi/libbitnet.map"], check=True)
    return twin


def dump_of(twin):
    # No locations, no paths: the same dump from every machine.
    return subprocess.run(["abidw", "--no-show-locs", "--no-corpus-path", "--no-comp-dir-path", "--type-id-style", "hash",
                           "--no-elf-needed", twin], check=True, capture_output=True, text=True).stdout


def abidiff(*arguments):
    """libabigail's exit status is a bit set: 4 is a change, 8 an incompatible one. An added function is no failure."""
    done = subprocess.run(["abidiff", "--no-added-syms", "--no-unreferenced-symbols", "--harmless", *map(str, arguments)],
                          capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode != 0


def main():
    source, library, cc = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    with tempfile.TemporaryDirectory() as folder:
        twin = build_twin(source, cc, Path(folder))
        if library == "--update":
            (source / DUMP).write_text(dump_of(twin))
            for name in header_text.HEADERS:
                shutil.copyfile(source / "include" / name, source / check_frozen.FROZEN / check_frozen.frozen_name(name))
            return 0
        bad = abidiff(source / DUMP, twin)
        bad |= abidiff(twin, library)
    print(f"{DUMP}: {'different' if bad else 'equal'}")
    return bad


if __name__ == "__main__":
    sys.exit(main())
