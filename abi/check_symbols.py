#!/usr/bin/env python3
"""The header, the version script, SYMBOLS.md and the built library must name the same functions.

Usage: check_symbols.py SOURCE_DIR LIBBITNET_SO     exit 0: equal, 1: not
"""
import re
import subprocess
import sys
from pathlib import Path


def header(source):
    text = (source / "include/bitnet_c.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return set(re.findall(r"BITNET_API\s[^;]*?\b(bitnet_\w+)\s*\(", text))


def version_script(source):
    text = (source / "abi/libbitnet.map").read_text()
    return set(re.findall(r"^\s+(bitnet_\w+);", text, flags=re.M))


def table(source):
    text = (source / "abi/SYMBOLS.md").read_text()
    rows = re.findall(r"^\| `(bitnet_\w+)` \| \S+ \| \S* ?\| (\S*) ?\|$", text, flags=re.M)
    return {name for name, last in rows if not last}


def library(path):
    out = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    names = [line.split()[2] for line in out.splitlines() if len(line.split()) == 3 and line.split()[1] != "A"]
    unversioned = [n for n in names if "@@BITNET_" not in n]
    if unversioned:
        print(f"exported without a version node: {', '.join(unversioned)}")
        sys.exit(1)
    return {n.split("@@")[0] for n in names}


def main():
    source, so = Path(sys.argv[1]), sys.argv[2]
    lists = {"include/bitnet_c.h": header(source), "abi/libbitnet.map": version_script(source),
             "abi/SYMBOLS.md": table(source), so: library(so)}
    reference = lists["include/bitnet_c.h"]
    if len(reference) < 50:
        print(f"the header names {len(reference)} functions: expected at least 50 (did the pattern break?)")
        return 1
    bad = 0
    for name, symbols in lists.items():
        for missing in sorted(reference - symbols):
            print(f"{name}: {missing} is missing")
            bad = 1
        for extra in sorted(symbols - reference):
            print(f"{name}: {extra} is not in the header")
            bad = 1
    print(f"{len(reference)} functions in {len(lists)} places: {'different' if bad else 'equal'}")
    return bad


sys.exit(main())
