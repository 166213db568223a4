#!/usr/bin/env python3
"""The headers, the version script, SYMBOLS.md, the built library and the other languages must name the same functions.

Usage: check_symbols.py SOURCE_DIR LIBBITNET_SO     exit 0: equal, 1: not
"""
import re
import subprocess
import sys
from pathlib import Path

import header_text


def version_script(text):
    return set(re.findall(r"^\s+(\w+);", text, flags=re.M))


def table(text):
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


def named(text, pattern, header, own):
    """The functions that another language's list names; types of the header are not meant."""
    return set(re.findall(pattern, text)) - (set(re.findall(r"\bbitnet_\w+", header)) - own)


def languages(source, own):
    header = (source / "include/bitnet_c.h").read_text()
    for folder, file, pattern in LANGUAGES:
        if (source / folder).is_dir():
            path = source / file
            yield file, named(path.read_text(), pattern, header, own) if path.is_file() else set()


def differences(reference, lists):
    for name, symbols in lists.items():
        for missing in sorted(reference - set(symbols)):
            yield f"{name}: {missing} is missing"
        for extra in sorted(set(symbols) - reference):
            yield f"{name}: {extra} is not in the header"


def main():
    source, so = Path(sys.argv[1]), sys.argv[2]
    own, compatibility = (set(header.functions) for header in header_text.headers(source).values())
    if len(own) < 50 or len(compatibility) < 15:
        print(f"the headers name {len(own)} and {len(compatibility)} functions: did the pattern break?")
        return 1
    nodes = library(so)
    lists = {"abi/libbitnet.map": version_script((source / "abi/libbitnet.map").read_text()),
             "abi/SYMBOLS.md": table((source / "abi/SYMBOLS.md").read_text()), so: nodes}
    others = dict(languages(source, own))
    found = [*differences(own | compatibility, lists), *differences(own, others)]
    found += [f"{so}: {name} is of node {nodes[name]}: expected BITNET_COMPAT_..." for name in sorted(compatibility & set(nodes))
              if not nodes[name].startswith("BITNET_COMPAT_")]
    print("\n".join(found + [f"{len(own)} + {len(compatibility)} functions in {2 + len(lists) + len(others)} places: "
                             f"{'different' if found else 'equal'}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
