#!/usr/bin/env python3
"""The headers, the version script, SYMBOLS.md, the built library and the other languages must name the same functions.

Usage: check_symbols.py SOURCE_DIR LIBBITNET_SO     exit 0: equal, 1: not
"""
import re
import subprocess
import sys
from pathlib import Path


def declared(path, macro):
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    return set(re.findall(rf"^{macro}\b[^;]*?\b(\w+)\s*\(", text, flags=re.M))


def header(source):
    return declared(source / "include/bitnet_c.h", "BITNET_API")


def compatibility_header(source):
    return declared(source / "include/bitnet_cpp.h", "BITNET_CPP_API")


def version_script(source):
    text = (source / "abi/libbitnet.map").read_text()
    return set(re.findall(r"^\s+(\w+);", text, flags=re.M))


def table(source):
    text = (source / "abi/SYMBOLS.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| \S+ \| \S* ?\| (\S*) ?\|$", text, flags=re.M)
    return {name for name, last in rows if not last}


def library(path):
    out = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    names = [line.split()[2] for line in out.splitlines() if len(line.split()) == 3 and line.split()[1] != "A"]
    nodes = dict(n.split("@@", 1) if "@@" in n else (n, "") for n in names)
    unversioned = [name for name, node in nodes.items() if not node.startswith("BITNET_")]
    if unversioned:
        print(f"exported without a version node: {', '.join(unversioned)}")
        sys.exit(1)
    return nodes


# The lists of other languages: a file that must be there when its folder is, and how it names a function.
LANGUAGES = [("abi/python", "abi/python/bitnet/_library.py", r"""["'.](bitnet_\w+)"""),
             ("abi/rust", "abi/rust/bitnet-sys/src/bindings.rs", r"\bfn\s+(bitnet_\w+)")]


def languages(source):
    types = set(re.findall(r"\bbitnet_\w+", (source / "include/bitnet_c.h").read_text())) - header(source)
    for folder, file, pattern in LANGUAGES:
        if (source / folder).is_dir():
            path = source / file
            yield file, set(re.findall(pattern, path.read_text())) - types if path.is_file() else set()


def differences(reference, lists):
    bad = 0
    for name, symbols in lists.items():
        for missing in sorted(reference - set(symbols)):
            print(f"{name}: {missing} is missing")
            bad = 1
        for extra in sorted(set(symbols) - reference):
            print(f"{name}: {extra} is not in the header")
            bad = 1
    return bad


def main():
    source, so = Path(sys.argv[1]), sys.argv[2]
    own, compatibility = header(source), compatibility_header(source)
    if len(own) < 50 or len(compatibility) < 15:
        print(f"the headers name {len(own)} and {len(compatibility)} functions: did the pattern break?")
        return 1
    nodes = library(so)
    lists = {"abi/libbitnet.map": version_script(source), "abi/SYMBOLS.md": table(source), so: nodes}
    bad = differences(own | compatibility, lists)
    for name in sorted(compatibility & set(nodes)):
        if not nodes[name].startswith("BITNET_COMPAT_"):
            print(f"{so}: {name} is of node {nodes[name]}: expected BITNET_COMPAT_...")
            bad = 1
    others = dict(languages(source))
    bad |= differences(own, others)
    print(f"{len(own)} + {len(compatibility)} functions in {2 + len(lists) + len(others)} places: {'different' if bad else 'equal'}")
    return bad


sys.exit(main())
