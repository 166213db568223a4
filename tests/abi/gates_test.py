#!/usr/bin/env python3
"""Mutates the public ABI in every single place, on copies of its texts, and shows that a gate reports each mutation.

 - Each function: left out of a header, the version script, SYMBOLS.md, the built library, another language's list; with
   another prototype.
 - Each field of each public struct: renamed, of a larger type, of another type of the same size, swapped with its neighbour,
   removed.
 - Each constant: of another value, removed. Each other type: removed.

The gates: abi/check_symbols.py, abi/check_frozen.py, the static asserts of abi/layout.cpp (compiled with every struct mutated at
once, which must report every one of them), and, for one mutation of each kind, abi/check_abidiff.py.

Usage: gates_test.py SOURCE_DIR CXX CC     exit 0: every mutation is reported, 1: not
"""
import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(SOURCE / "abi"))
import check_abidiff  # noqa: E402
import check_frozen  # noqa: E402
import check_symbols  # noqa: E402
import header_text  # noqa: E402

TEXTS = {name: (SOURCE / "include" / name).read_text() for name in header_text.HEADERS}
FROZEN = {name: header_text.Header((SOURCE / check_frozen.FROZEN / check_frozen.frozen_name(name)).read_text(), macro)
          for name, macro in header_text.HEADERS.items()}
TODAY = header_text.headers(SOURCE)
missed = []
counts = {}


def expect(kind, what, reported):
    counts[kind] = counts.get(kind, 0) + 1
    if not reported:
        missed.append(f"{kind}: {what}: no gate reports it")


def frozen_gate(name, text, word):
    """Whether the frozen headers' gate reports `text` as header `name`, naming `word`."""
    mutated = header_text.Header(text, header_text.HEADERS[name])
    return any(re.search(rf"\b{word}\b", line) for line in check_frozen.differences(FROZEN[name], mutated))


def replace_once(text, old, new, what):
    if text.count(old) != 1:
        sys.exit(f"{what}: '{old}' is there {text.count(old)} times: expected once")
    return text.replace(old, new)


def mutate_functions():
    functions = {f for header in TODAY.values() for f in header.functions}
    map_text, table_text = (SOURCE / "abi/libbitnet.map").read_text(), (SOURCE / "abi/SYMBOLS.md").read_text()
    for name in sorted(functions):
        fewer = functions - {name}
        without = {"map": check_symbols.version_script(replace_once(map_text, f"    {name};\n", "", "map")),
                   "table": check_symbols.table(re.sub(rf"^\| `{name}` .*\n", "", table_text, flags=re.M)), "library": fewer}
        for place, symbols in without.items():
            expect(f"function left out of the {place}", name,
                   any(name in line for line in check_symbols.differences(functions, {place: symbols})))
        lists = {"map": check_symbols.version_script(map_text)}
        expect("function left out of a header", name, any(name in line for line in check_symbols.differences(fewer, lists)))
    for header, text in TEXTS.items():
        for name in TODAY[header].functions:
            declaration = re.search(rf"{header_text.HEADERS[header]}\s[^;#]*?\b{name}\s*\(", text).group(0)
            expect("function of another prototype", name,
                   frozen_gate(header, replace_once(text, declaration, declaration + "int mutated, ", name), name))


def mutate_languages():
    own = set(TODAY["bitnet_c.h"].functions)
    for _, file, pattern in check_symbols.LANGUAGES:
        if not (SOURCE / file).is_file():
            continue  # check_symbols.py says so when its folder is there
        text = (SOURCE / file).read_text()
        for name in sorted(own):
            listed = check_symbols.named(re.sub(rf"\b{name}\b", "left_out", text), pattern, TEXTS["bitnet_c.h"], own)
            expect(f"function left out of {file}", name, any(name in line for line in check_symbols.differences(own, {file: listed})))


def mutate_constants():
    for header, text in TEXTS.items():
        for name, value in TODAY[header].constants.items():
            line = re.search(rf"^#define {name} .*$", text, flags=re.M).group(0)
            smaller = f"#define {name} -1" if name in check_frozen.GROWING else line.replace(name, f"{name} 1 +")
            expect("constant of another value", name, frozen_gate(header, replace_once(text, line, smaller, name), name))
            expect("constant removed", name, frozen_gate(header, replace_once(text, line, "", name), name))


def mutate_types():
    for header in TODAY:
        for declaration in TODAY[header].types:
            fewer = header_text.Header(TEXTS[header], header_text.HEADERS[header])
            fewer.types.remove(declaration)
            expect("type removed", declaration,
                   any(declaration in line for line in check_frozen.differences(FROZEN[header], fewer)))


# A struct's body as it stands in a header, and its statements: comments blanked, so that offsets stay.
def bodies(text):
    blank = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text, flags=re.S)
    for match in re.finditer(r"struct\s+(\w+)\s*\{([^{}]*)\}", blank):
        fields, at = [], match.start(2)
        for field in match.group(2).split(";")[:-1]:
            fields.append((at, at + len(field)))
            at += len(field) + 1
        yield match.group(1), blank, fields


def declared_name(field):
    return re.search(r"\(\*\s*(\w+)\)|(\w+)\s*(?:\[\w+\])*\s*$", field).group(1, 2)


def renamed(field):
    name = next(n for n in declared_name(field) if n)
    return re.sub(rf"\b{name}\b", "mutated_name", field)


def larger(field):
    name = next(n for n in declared_name(field) if n)
    return f" struct {{ char mutated[4095]; }} {name}"


def same_size(field):
    """Another type of the same size: of a number the other sign, of a pointer another pointer."""
    for old, new in (("uint32_t", "int32_t"), ("int32_t", "uint32_t"), ("uint64_t", "int64_t"), ("double", "uint64_t"),
                     ("float", "uint32_t"), ("size_t", "int64_t"), ("bitnet_status_t", "uint32_t")):
        if re.match(rf"\s*{old}\b(?!\s*\*)", field):
            return re.sub(rf"\b{old}\b", new, field, count=1)
    name = next(n for n in declared_name(field) if n)
    return None if "[" in field or re.match(r"\s*(bitnet_\w+_t|char|int) \w+$", field) else f" void *const *{name}"


def struct_mutations(kind, i, fields, blank):
    """The text of field i, and of its neighbour when they are swapped; nothing when the struct has no such mutation."""
    text = [blank[a:b] for a, b in fields]
    if kind == "swapped":
        return {i: text[i + 1], i + 1: text[i]} if i + 1 < len(text) else {}
    if kind == "of another type of the same size":
        changed = same_size(text[i])
        return {i: changed} if changed else {}
    return {i: {"renamed": renamed, "of a larger type": larger, "removed": lambda f: " "}[kind](text[i])}


KINDS = ["renamed", "of a larger type", "removed", "swapped", "of another type of the same size"]
IN_LAYOUT = KINDS[:4]


def spliced(text, changes):
    for (a, b), new in sorted(changes, reverse=True):
        text = text[:a] + new + text[b:]
    return text


def layout_reports(cxx, folder, texts):
    """The structs whose asserts fail when layout.cpp sees these headers."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    done = subprocess.run([cxx, "-std=c++20", "-w", "-fsyntax-only", "-fmax-errors=0", "-fno-diagnostics-show-caret", "-I", folder,
                           SOURCE / "abi/layout.cpp"], capture_output=True, text=True)
    lines = (SOURCE / "abi/layout.cpp").read_text().splitlines()
    failing = {int(n) for n in re.findall(r"layout\.cpp:(\d+):\d+: (?:error|note: in expansion)", done.stderr)}
    asserted = [re.search(r"\((\w+?)(?:_t)?,", lines[n - 1]) for n in failing]
    return {found.group(1) for found in asserted if found}


def mutate_structs(cxx, folder):
    structs = {header: list(bodies(text)) for header, text in TEXTS.items()}
    if sum(len(s) for s in structs.values()) != sum(len(h.structs) for h in TODAY.values()):
        sys.exit("the structs of the headers were not all found")
    longest = max(len(fields) for found in structs.values() for _, _, fields in found)
    jobs = []
    for kind in KINDS:
        for i in range(longest):
            changes = {header: [] for header in TEXTS}
            mutated = []
            for header, found in structs.items():
                for name, blank, fields in found:
                    new = struct_mutations(kind, i, fields, blank) if i < len(fields) else {}
                    if not new:
                        continue
                    mine = [(fields[k], text) for k, text in new.items()]
                    changes[header] += mine
                    mutated.append(name)
                    expect(f"field {kind}, by the frozen header", f"{name}, field {i}",
                           frozen_gate(header, spliced(TEXTS[header], mine), name))
            if mutated and kind in IN_LAYOUT:
                jobs.append((kind, i, mutated, {h: spliced(TEXTS[h], c) for h, c in changes.items()}))

    def compile_one(job):
        kind, i, mutated, texts = job
        own = folder / f"{kind} {i}".replace(" ", "_")
        own.mkdir()
        return kind, i, mutated, layout_reports(cxx, own, texts)

    with ThreadPoolExecutor(2) as pool:
        for kind, i, mutated, reported in pool.map(compile_one, jobs):
            for name in mutated:
                expect(f"field {kind}, by the layout's asserts", f"{name}, field {i}",
                       name.removesuffix("_t") in reported)


def mutate_by_abidiff(cc, folder):
    """One mutation of each kind through libabigail: its dump against a twin of the mutated headers."""
    header = TEXTS["bitnet_c.h"]
    mutations = {
        "nothing": (header, False),
        "prototype": (replace_once(header, "int32_t bitnet_isa_count(void)", "int64_t bitnet_isa_count(void)", "abidiff"), True),
        "function": (replace_once(header, "BITNET_API int32_t bitnet_isa_count(void);", "", "abidiff"), True),
        "field's type": (replace_once(header, "uint64_t n_params;", "int64_t n_params;", "abidiff"), True),
        "field's name": (replace_once(header, "uint64_t n_params;", "uint64_t n_parameters;", "abidiff"), True),
    }
    for what, (text, wanted) in mutations.items():
        source = folder / what.replace(" ", "_")
        (source / "include").mkdir(parents=True)
        (source / "abi").mkdir()
        shutil.copy(SOURCE / "abi/libbitnet.map", source / "abi")
        for name in TEXTS:
            (source / "include" / name).write_text(text if name == "bitnet_c.h" else TEXTS[name])
        twin = check_abidiff.build_twin(source, cc, source)
        with contextlib.redirect_stdout(io.StringIO()):
            expect("by libabigail", what, check_abidiff.abidiff(SOURCE / check_abidiff.DUMP, twin) == wanted)


def main():
    for name in TODAY:
        if list(check_frozen.differences(FROZEN[name], TODAY[name])):
            print(f"{name} differs from its frozen self before anything is mutated: see abi/check_frozen.py")
            return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if layout_reports(sys.argv[2], folder, TEXTS):
            print("abi/layout.cpp does not compile before anything is mutated")
            return 1
        mutate_functions()
        mutate_languages()
        mutate_constants()
        mutate_types()
        mutate_structs(sys.argv[2], folder)
        mutate_by_abidiff(sys.argv[3], folder)
    for kind, n in counts.items():
        print(f"{n:5} {kind}")
    print("\n".join(missed + [f"{sum(counts.values())} mutations, {len(missed)} unseen"]))
    return 1 if missed or sum(counts.values()) < 2000 else 0


sys.exit(main())
