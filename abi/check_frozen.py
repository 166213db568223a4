#!/usr/bin/env python3
"""What the frozen headers declare, today's headers still declare: every function with its prototype, every type, every constant with
its value, and every struct, which may only have grown at its end.

Usage: check_frozen.py SOURCE_DIR     exit 0: all of it is there, 1: not
"""
import sys
from pathlib import Path

import header_text

FROZEN = "tests/abi/frozen"


def frozen_name(header):
    return header.replace(".h", "_1_0.h")


# Numbers that an addition makes larger.
GROWING = {"BITNET_ABI_MINOR", "BITNET_STAGE_COUNT", "BITNET_METRIC_ALL"}


def same_value(name, old, new):
    return new == old or (name in GROWING and new is not None and int(new.rstrip("u"), 0) >= int(old.rstrip("u"), 0))


def differences(old, new):
    for name, declaration in old.functions.items():
        if new.functions.get(name) != declaration:
            yield f"function {name}: expected {declaration}, found {new.functions.get(name, 'nothing')}"
    for name, value in old.constants.items():
        if not same_value(name, value, new.constants.get(name)):
            yield f"constant {name}: expected {value}, found {new.constants.get(name, 'nothing')}"
    for name, fields in old.structs.items():
        today = new.structs.get(name, [])
        for i, field in enumerate(fields):
            found = today[i] if i < len(today) else "nothing"
            if found != field:
                yield f"struct {name}, field {i}: expected '{field}', found '{found}'"
                break
    for declaration in old.types:
        if declaration not in new.types:
            yield f"type: expected {declaration}, found nothing"


def main():
    source = Path(sys.argv[1])
    bad = count = 0
    for name, today in header_text.headers(source).items():
        frozen = header_text.Header((source / FROZEN / frozen_name(name)).read_text(), header_text.HEADERS[name])
        count += len(frozen.functions) + len(frozen.constants) + len(frozen.structs) + len(frozen.types)
        for difference in differences(frozen, today):
            print(f"{name}: {difference}")
            bad += 1
    print(f"{count} frozen declarations, {bad} changed")
    return 1 if bad or count < 300 else 0


if __name__ == "__main__":
    sys.exit(main())
