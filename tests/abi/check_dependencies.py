#!/usr/bin/env python3
"""What the library needs and exports: check_dependencies.py LIBBITNET_SO    exit 0: only what it may, 1: more"""

import re
import subprocess
import sys

ALLOWED = {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "libcpuinfo", "libpcre2-8"}
# Functions of libm whose bits depend on the libc: no result may go through one. sqrt is exact by IEEE-754.
INEXACT = re.compile(r"(a?(sin|cos|tan)h?|sincos|exp(2|10|m1)?|log(2|10|1p|b)?|pow|cbrt|hypot|erfc?|[lt]gamma)[fl]?$")
LOADER = re.compile(r"ld-linux[-\w]*$")  # for thread-local data


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], check=True, capture_output=True, text=True).stdout


def main(path):
    dynamic = readelf("-d", path)
    needed = [name.split(".so")[0] for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)]
    problems = [f"needs {name}" for name in needed if name not in ALLOWED and not LOADER.match(name)]
    if "libc" not in needed:
        problems.append(f"no libc among what it needs, {needed}: did the pattern break?")
    if not re.search(r"\(SONAME\).*\[libbitnet\.so\.1\]", dynamic):
        problems.append("its soname is not libbitnet.so.1")
    if "TEXTREL" in dynamic:
        problems.append("has text relocations")
    rows = [line.split() for line in readelf("--dyn-syms", path).splitlines()]
    rows = [row for row in rows if len(row) > 7 and row[4] in ("GLOBAL", "WEAK")]
    exported = [row[7] for row in rows if row[6] not in ("UND", "ABS")]
    if len(exported) < 50:
        problems.append(f"only {len(exported)} exported symbols found: did the pattern break?")
    problems += [f"exports {name}" for name in exported if not name.startswith(("bitnet_", "crossval_bitnet_"))]
    imported = [row[7].split("@")[0] for row in rows if row[6] == "UND"]
    if "malloc" not in imported:
        problems.append("malloc is not among its imports: did the pattern break?")
    problems += [f"imports {name}, whose bits depend on the libc" for name in imported if INEXACT.match(name)]
    stack = next(line for line in readelf("-l", path).splitlines() if "GNU_STACK" in line)
    if "RWE" in stack:
        problems.append("wants an executable stack")
    for problem in problems:
        print(f"{path}: {problem}")
    print(f"needs {', '.join(needed)}; exports {len(exported)} symbols")
    return 1 if problems else 0


sys.exit(main(sys.argv[1]))
