#!/usr/bin/env python3
"""Writes the program at the top of the public header to a file: extract_example.py HEADER OUT"""

import sys
from pathlib import Path

lines = Path(sys.argv[1]).read_text().splitlines()
indent = " *     "
first = next(i for i, line in enumerate(lines) if line == indent + "#include <bitnet_c.h>")
last = next(i for i in range(first, len(lines)) if lines[i] == indent + "}")
program = [line[len(indent) :] if line.startswith(indent) else "" for line in lines[first : last + 1]]
if not any("int main" in line for line in program) or len(program) < 15:
    sys.exit(f"{sys.argv[1]}: no whole program found at its top, only {len(program)} lines")
Path(sys.argv[2]).write_text("\n".join(program) + "\n")
