#!/usr/bin/env python3
"""Writes bitnet/_library.py, the ctypes declarations of everything in include/bitnet_c.h.

Usage: generate.py [HEADER [OUT]]       defaults: the header of this tree, bitnet/_library.py beside this script

It reads the C that the header is written in (constants, opaque structs, structs of plain fields and function pointers, function
types, prototypes) and refuses anything else, so that a new kind of declaration cannot be left out unnoticed.
"""

import re
import sys
from pathlib import Path

SCALARS = {
    "int8_t": "c_int8",
    "uint8_t": "c_uint8",
    "int32_t": "c_int32",
    "uint32_t": "c_uint32",
    "int64_t": "c_int64",
    "uint64_t": "c_uint64",
    "size_t": "c_size_t",
    "float": "c_float",
    "double": "c_double",
    "int": "c_int",
    "char": "c_char",
    "bitnet_status_t": "c_int32",
}

PREAMBLE = '''"""Declarations of include/bitnet_c.h. Written by abi/python/generate.py: change the header, then run it again."""
# fmt: off
from __future__ import annotations

from ctypes import {}
from typing import Any, Dict, List, Tuple
'''


class Header:
    def __init__(self, text):
        self.constants, self.structs, self.opaque, self.functions, self.callbacks = {}, {}, set(), {}, {}
        self.strings = {}
        self.order = []  # structs and callbacks as they come
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
        text = re.sub(r"//[^\n]*", "", text)
        text = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", text, flags=re.DOTALL)
        text = re.sub(r"#if defined\(_WIN32\)\n.*?#endif\n", "", text, flags=re.DOTALL)
        text = text.replace("\\\n", " ")
        code = [line for line in text.splitlines() if not self.directive(line)]
        for declaration in self.split(" ".join(" ".join(code).split())):
            self.declaration(declaration)
        for name in self.structs:
            self.opaque.discard(name)

    def directive(self, line):
        if not line.lstrip().startswith("#"):
            return False
        words = line.split(None, 2)
        if words[0] == "#define" and len(words) == 3 and words[1].startswith("BITNET_"):
            self.constant(words[1], words[2].strip())
        elif words[0] not in ("#define", "#include", "#ifndef", "#endif"):
            raise SystemExit(f"generate: unknown directive: {line}")
        return True

    def constant(self, name, value):
        if value.startswith('"'):
            self.strings[name] = value
            return
        value = re.sub(r"\((?:bitnet_status_t|uint32_t|int32_t|uint64_t)\)", "", value)
        value = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", value)
        if re.search(r"[^\w\s()<>|+*-]", value):
            raise SystemExit(f"generate: {name}: not a constant: {value}")
        self.constants[name] = eval(value, {"__builtins__": {}}, dict(self.constants))  # noqa: S307 - digits and names

    @staticmethod
    def split(text):
        depth = begin = 0
        for i, c in enumerate(text):
            depth += (c in "{(") - (c in "})")
            if c == ";" and depth == 0:
                yield text[begin:i].strip()
                begin = i + 1
        if text[begin:].strip():
            raise SystemExit(f"generate: what is this: {text[begin:][:80]}")

    def declaration(self, d):
        if m := re.fullmatch(r"typedef struct (\w+) (\w+)", d):
            self.opaque.add(m[2])
        elif m := re.fullmatch(r"(?:typedef )?struct (\w+) \{(.*)\} ?(\w+)?", d):
            name = m[3] or m[1] + "_t"
            self.order.append(name)
            self.structs[name] = [f for part in self.split(m[2].strip()) for f in self.fields(part)]
        elif m := re.fullmatch(r"typedef (.+?)\( ?\* ?(\w+)\)\((.*)\)", d):
            self.order.append(m[2])
            self.callbacks[m[2]] = (m[1].strip(), self.parameters(m[3]))
        elif m := re.fullmatch(r"typedef int32_t bitnet_status_t", d):
            pass
        elif m := re.fullmatch(r"BITNET_API (.+?[ *])(\w+)\((.*)\)", d):
            self.functions[m[2]] = (m[1].strip(), self.parameters(m[3]))
        else:
            raise SystemExit(f"generate: cannot read: {d[:120]}")

    def fields(self, text):
        """(name, C type, array length or None); a function pointer's type is (result, parameters)."""
        if m := re.fullmatch(r"(.+?)\( ?\* ?(\w+)\)\((.*)\)", text):
            return [(m[2], (m[1].strip(), self.parameters(m[3])), None)]
        first, *more = text.split(",")
        m = re.fullmatch(r"(.+?[ *])(\w+)(?:\[(\w+)\])?", first.strip())
        out = [(m[2], m[1].strip(), m[3])]
        return out + [(name.strip(), m[1].strip(), None) for name in more]

    @staticmethod
    def parameters(text):
        if text.strip() in ("", "void"):
            return []
        out = []
        for parameter in text.split(","):
            m = re.fullmatch(r"(.+?[ *])(\w+)?", parameter.strip())
            out.append(m[1].strip() if m else parameter.strip())
        return out


class Writer:
    def __init__(self, header):
        self.h = header

    def type(self, c, result=False):
        """ctypes expression of a C type."""
        if isinstance(c, tuple):
            return self.function_type(*c)
        stars = c.count("*")
        base = " ".join(w for w in c.replace("*", " ").split() if w not in ("const", "struct"))
        if base == "char" and stars:
            plain = "c_char_p" if "const" in c or not result else "c_void_p"
            return plain if stars == 1 else f"POINTER({plain})"
        if base == "void" or base in self.h.opaque:
            pointer, stars = ("c_void_p", stars - 1) if stars else ("None", 0)
        elif base in SCALARS:
            pointer = SCALARS[base]
        elif base in self.h.structs or base in self.h.callbacks:
            pointer = base
        elif base + "_t" in self.h.structs:
            pointer = base + "_t"
        else:
            raise SystemExit(f"generate: unknown type: {c}")
        for _ in range(stars):
            pointer = f"POINTER({pointer})"
        return pointer

    def function_type(self, result, parameters):
        # A function type must not return a pointer type of ctypes: it would not know how to keep it alive.
        returned = "c_void_p" if "*" in result else self.type(result)
        return f"CFUNCTYPE({', '.join([returned, *map(self.type, parameters)])})"

    def field(self, name, c, length, all_names):
        if length is not None:
            n = self.h.constants[length] if length in self.h.constants else int(length)
            return f'("{name}", {self.type(c)} * {n})'
        # Text with a length of its own has no NUL that ctypes could read up to.
        if c == "const char *" and f"n_{name}_bytes" in all_names:
            return f'("{name}", c_void_p)'
        return f'("{name}", {self.type(c)})'

    def struct(self, name):
        fields = self.h.structs[name]
        names = {field for field, _, _ in fields}
        lines = [f"    {self.field(*field, names)}," for field in fields]
        if any(re.search(rf"\b{name}\b", line) for line in lines):  # it points to itself
            return [f"class {name}(Structure):", "    pass", "", "", f"{name}._fields_ = [", *lines, "]", "", ""]
        return [f"class {name}(Structure):", "    _fields_ = [", *[f"    {line}" for line in lines], "    ]", "", ""]

    def text(self):
        out = [f"{name} = {value}" for name, value in self.h.constants.items()]
        out += [f"{name} = b{value}" for name, value in self.h.strings.items()]
        out += ["", ""]
        for name in self.h.order:
            if name in self.h.structs:
                out += self.struct(name)
            else:
                out += [f"{name} = {self.function_type(*self.h.callbacks[name])}", "", ""]
        out.append("# name: (result, parameters)")
        out.append("FUNCTIONS: Dict[str, Tuple[Any, List[Any]]] = {")
        for name, (result, parameters) in self.h.functions.items():
            out.append(f'    "{name}": ({self.type(result, True)}, [{", ".join(map(self.type, parameters))}]),')
        out += ["}", ""]
        body = "\n".join(out)
        used = sorted(set(re.findall(r"\b(?:c_\w+|POINTER|CFUNCTYPE|Structure)\b", body)))
        return PREAMBLE.format(", ".join(used)) + "\n" + body


def generate(text):
    return Writer(Header(text)).text()


def main(arguments):
    here = Path(__file__).resolve().parent
    header = Path(arguments[0]) if arguments else here.parent.parent / "include" / "bitnet_c.h"
    out = Path(arguments[1]) if len(arguments) > 1 else here / "bitnet" / "_library.py"
    out.write_text(generate(header.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
