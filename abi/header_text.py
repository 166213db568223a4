"""What the public headers say, read as text: functions, structs with their fields, other types, constants."""
import re
from pathlib import Path

# The headers, and the macro before each of their functions.
HEADERS = {"bitnet_c.h": "BITNET_API", "bitnet_cpp.h": "BITNET_CPP_API"}


def squeezed(text):
    return re.sub(r"\s*([*(){}\[\],;])\s*", r"\1", re.sub(r"\s+", " ", text)).strip()


def fields_of(body):
    return [squeezed(field) for field in body.split(";") if field.strip()]


class Header:
    """functions: name -> declaration; structs: name -> [field]; types: [typedef]; constants: name -> value."""

    def __init__(self, text, macro):
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        self.constants = {name: squeezed(value) for name, value in
                          re.findall(r"^\s*#\s*define\s+(\w+)[ \t]+(\S[^\n]*)$", text, flags=re.M) if name != macro}
        text = re.sub(r"^\s*#[^\n]*$", "", text, flags=re.M)
        text = text.replace('extern "C" {', "")
        self.structs = {}
        for name, body in re.findall(r"struct\s+(\w+)\s*\{([^{}]*)\}", text):
            self.structs[name] = fields_of(body)
        text = re.sub(r"struct\s+(\w+)\s*\{[^{}]*\}", r"struct \1", text)
        statements = [squeezed(s) for s in text.split(";")]
        self.functions = {}
        for statement in statements:
            found = re.match(rf"{macro} (.*?)(\w+)(\(.*\))$", statement)
            if found:
                self.functions[found.group(2)] = "".join(found.groups())
        self.types = [s for s in statements if s.startswith("typedef ")]


def headers(source):
    return {name: Header((Path(source) / "include" / name).read_text(), macro) for name, macro in HEADERS.items()}
