#!/usr/bin/env python3
"""What the compiler made of the kernels: no object may lend code to the rest of the library or use an instruction that its
instruction set lacks, and nothing but the kernels may go beyond the baseline.

Usage: kernel_objects_test.py BUILD_DIR PROCESSOR NM OBJDUMP                exit 0: all objects are clean, 1: not
       kernel_objects_test.py --self-test PROCESSOR NM OBJDUMP COMPILER     compiles violations; each must be found
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

OPERATIONS = ("row", "ternary", "dot")
# Functions with instruction sets of their own, which the file asks the CPU for; the best of them.
CHOSEN_AT_RUN_TIME = {"services_x86.cpp.o": "avx512vnni", "hash_avx512.cpp.o": "avx512vnni"}
X86_KERNELS = [f"{operation}_{isa}" for isa in ("scalar", "sse2", "avx2", "avx512vnni") for operation in OPERATIONS]
ARM_KERNELS = [f"{operation}_{isa}" for isa in ("scalar", "neon") for operation in OPERATIONS]
KERNELS = {"x86_64": X86_KERNELS + ["ternary_avxvnni", "compact_scalar", "compact_avx2", "compact_avx512vnni", "dense_scalar", "dense_avx512vbmi"],
           "aarch64": ARM_KERNELS + ["ternary_neon_dotprod", "compact_scalar", "dense_scalar"]}
# The library but for its kernels. BLAKE3 and cpuinfo are others' code that asks the CPU itself.
REST = ["model/CMakeFiles/bitnet_model.dir", "core/CMakeFiles/bitnet_core.dir", "abi/CMakeFiles/bitnet_abi.dir",
        "plugins/CMakeFiles/bitnet_trace_host.dir"]
C_LIBRARY = {"memcpy", "memmove", "memset", "memcmp"}  # what a compiler may call on its own

AFTER_SSE2 = re.compile(r"""
    addsubp[sd]|h(add|sub)p[sd]|lddqu|movddup|movs[hl]dup|fisttp.*|                                          # SSE3
    pabs[bwd]|palignr|ph(add|sub)(w|d|sw)|pmaddubsw|pmulhrsw|pshufb|psign[bwd]|                              # SSSE3
    blendv?p[sd]|dpp[sd]|extractps|insertps|movntdqa|mpsadbw|packusdw|pblend(vb|w)|pcmpeqq|pextr[bdq]|       # SSE4.1
    phminposuw|pinsr[bdq]|pm(ax|in)(sb|sd|ud|uw)|pmov[sz]x.*|pmuldq|pmulld|ptest|round[ps][sd]|
    pcmp[ei]str[im]|pcmpgtq|crc32.*|popcnt|                                                                  # SSE4.2
    lzcnt|movbe|andn|bextr|bls(i|msk|r)|bzhi|mulx|pdep|pext|rorx|s(ar|hl|hr)x|adcx|adox|                     # BMI and others
    aes.*|pclmul.*|sha(1|256).*|gf2p8.*""", re.VERBOSE)  # not tzcnt: GCC writes bsf with a prefix that says tzcnt
BMI = re.compile(r"lzcnt|movbe|andn|bextr|bls(i|msk|r)|bzhi|mulx|pdep|pext|rorx|s(ar|hl|hr)x|adcx|adox")
FMA = re.compile(r"vf(n?m(add|sub)|m(addsub|subadd)).*")
VNNI = re.compile(r"vpdp(bus|wss)ds?")
VBMI = re.compile(r"vperm(b|[it]2b)|vpmultishiftqb")
OTHER_AVX512 = re.compile(r"""
    vpmadd52.*|vperm(b|[it]2b)|vpmultishiftqb|vp(compress|expand)[bw]|vpsh[lr]d.*|vpshufbitqmb|vpopcnt.*|
    vcvtne.*bf16.*|vdpbf16ps|vgf2p8.*|vaes.*|vpclmul.*|vp2intersect.*|vpconflict.*|vplzcnt.*|vpbroadcastm.*|
    vexp2.*|vrcp28.*|vrsqrt28.*|v(gather|scatter)pf.*|v4f.*|vp4dp.*|v(add|sub|mul|div|max|min|sqrt|mov|cmp)(ph|sh)|vmovw""",
                          re.VERBOSE)
ARM_FMA = re.compile(r"fn?m(add|sub)|fml[as]l?2?")
ARM_DOT = re.compile(r"[su]dot")
ARM_LATER = re.compile(r"usdot|sudot|[su]mmla|usmmla|bf.*(dot|mmla|mlal.*|cvt.*)|[su]?qrdml[as]h")


def violation_x86(isa, mnemonic, operands, raw):
    """Why this instruction may not be there, or None."""
    evex = re.match(r"((66|67|2e|3e|64|65|f2|f3) )*62 ", raw + " ") is not None
    vector = mnemonic.startswith("v") and mnemonic not in ("verr", "verw")
    if isa in ("scalar", "sse2", "baseline"):
        if vector:
            return "AVX"
        return "beyond SSE2" if AFTER_SSE2.fullmatch(mnemonic) else None
    if FMA.fullmatch(mnemonic):
        return "FMA"
    if BMI.fullmatch(mnemonic):
        return "not asked of the CPU"
    if isa == "avx512vbmi" and VBMI.fullmatch(mnemonic):
        return None
    if isa in ("avx512vnni", "avx512vbmi"):
        return "another part of AVX-512" if OTHER_AVX512.fullmatch(mnemonic) else None
    if evex or re.search(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]", operands):
        return "AVX-512"
    if VNNI.fullmatch(mnemonic) and (isa != "avxvnni" or mnemonic != "vpdpbusd"):
        return "VNNI"
    if re.fullmatch(r"vaes.*|vpclmul.*|vgf2p8.*", mnemonic):
        return "not asked of the CPU"
    return None


def violation_arm(isa, mnemonic, operands, raw):
    if ARM_FMA.fullmatch(mnemonic):
        return "fused multiply-add"
    if ARM_LATER.fullmatch(mnemonic) or re.search(r"\bz\d+\.|\bp\d+/[zm]", operands):
        return "a later extension"
    if ARM_DOT.fullmatch(mnemonic) and isa != "neon_dotprod":
        return "dot product"
    return None


class Tools:
    def __init__(self, processor, nm, objdump):
        self.nm, self.objdump = nm, objdump
        self.violation = violation_x86 if processor == "x86_64" else violation_arm

    def run(self, *command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def instructions(self, path):
        """(mnemonic, operands, bytes) of every instruction."""
        for line in self.run(self.objdump, "-d", "-w", str(path)).splitlines():
            parts = line.split("\t")
            if len(parts) < 3 or not re.fullmatch(r"\s*[0-9a-f]+:", parts[0]):
                continue
            words = "\t".join(parts[2:]).split()
            while len(words) > 1 and re.fullmatch(r"\{\w+\}|rep[nez]*|lock|notrack|bnd|data16|cs|ds|addr32", words[0]):
                words.pop(0)
            yield words[0], " ".join(words[1:]), parts[1].strip()

    def code_errors(self, path, isa):
        seen, errors = 0, {}
        for mnemonic, operands, raw in self.instructions(path):
            seen += 1
            why = self.violation(isa, mnemonic, operands, raw)
            if why:
                errors.setdefault((mnemonic, why), operands)
        return seen, [f"{m} {operands}: {why} in {isa} code" for (m, why), operands in errors.items()]

    def symbol_errors(self, path, undefined_too):
        errors = []
        for line in self.run(self.nm, str(path)).splitlines():
            kind, name = line.split()[-2:]
            if kind in "WwVvu":
                errors.append(f"weak symbol {name}: the linker could keep it for everybody")
            elif kind == "U" and undefined_too and name not in C_LIBRARY | {"_GLOBAL_OFFSET_TABLE_"}:
                errors.append(f"undefined symbol {name}: a kernel calls nothing from outside")
        return errors


def check_kernel(tools, path, isa):
    seen, errors = tools.code_errors(path, isa)
    return seen, errors + tools.symbol_errors(path, True)


def check_tree(build, processor, tools):
    errors = []
    n_objects = n_instructions = 0
    folder = build / "core/CMakeFiles/bitnet_core.dir/kernels"
    for kernel in KERNELS[processor]:
        path = folder / f"{kernel}.cpp.o"
        if not path.exists():
            errors.append((path, ["no such object"]))
            continue
        seen, found = check_kernel(tools, path, kernel.split("_", 1)[1])
        n_objects, n_instructions = n_objects + 1, n_instructions + seen
        errors.append((path, found))
    known = {f"{kernel}.cpp.o" for kernel in KERNELS[processor]} | {"tables.cpp.o"}
    errors += [(path, ["a kernel object that this test does not know"]) for path in folder.glob("*.o") if path.name not in known]
    errors.append((folder / "tables.cpp.o", tools.symbol_errors(folder / "tables.cpp.o", False)))
    for rest in REST:
        objects = [path for path in (build / rest).rglob("*.o") if path.parent != folder] + [folder / "tables.cpp.o"]
        if len(objects) < 2:
            errors.append((build / rest, ["no objects"]))
        for path in objects:
            isa = CHOSEN_AT_RUN_TIME.get(path.name)
            seen, found = tools.code_errors(path, isa or "baseline")
            n_objects, n_instructions = n_objects + 1, n_instructions + seen
            errors.append((path, found + (tools.symbol_errors(path, False) if isa else [])))
    bad = 0
    for path, found in errors:
        for error in found:
            print(f"{path.relative_to(build)}: {error}")
            bad += 1
    print(f"{n_objects} objects, {n_instructions} instructions, {bad} wrong")
    return 1 if bad or n_instructions < 20000 else 0


# (instruction set, body of a function or whole text, what is to be found or None)
SNIPPETS_X86 = [
    ("sse2", "paddd %xmm0, %xmm1", None), ("sse2", "tzcnt %eax, %ecx", None), ("scalar", "addps %xmm0, %xmm1", None),
    ("sse2", "vpaddd %xmm0, %xmm1, %xmm1", "AVX"), ("scalar", "vaddss %xmm0, %xmm1, %xmm1", "AVX"),
    ("sse2", "lddqu (%rax), %xmm1", "beyond SSE2"), ("sse2", "movddup %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "haddps %xmm0, %xmm1", "beyond SSE2"), ("sse2", "pmaddubsw %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "pshufb %xmm0, %xmm1", "beyond SSE2"), ("sse2", "pabsb %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "phaddd %xmm0, %xmm1", "beyond SSE2"), ("sse2", "palignr $4, %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "pblendw $4, %xmm0, %xmm1", "beyond SSE2"), ("sse2", "ptest %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "pmulld %xmm0, %xmm1", "beyond SSE2"), ("sse2", "roundps $4, %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "dpps $4, %xmm0, %xmm1", "beyond SSE2"), ("sse2", "insertps $4, %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "pmovsxbw %xmm0, %xmm1", "beyond SSE2"), ("sse2", "pinsrb $4, %eax, %xmm1", "beyond SSE2"),
    ("sse2", "pminsd %xmm0, %xmm1", "beyond SSE2"), ("sse2", "pcmpgtq %xmm0, %xmm1", "beyond SSE2"),
    ("sse2", "crc32b %al, %ecx", "beyond SSE2"), ("sse2", "popcnt %eax, %ecx", "beyond SSE2"),
    ("baseline", "shlx %eax, %ecx, %edx", "beyond SSE2"), ("baseline", "vzeroupper", "AVX"),
    ("avx2", "vpmaddubsw %ymm0, %ymm1, %ymm2", None), ("avx2", "vcvtph2ps (%rax), %ymm1", None),
    ("avx2", "vpaddd %zmm0, %zmm1, %zmm2", "AVX-512"), ("avx2", "vpaddd %ymm17, %ymm1, %ymm2", "AVX-512"),
    ("avx2", "vpternlogd $1, %ymm0, %ymm1, %ymm2", "AVX-512"), ("avx2", "kmovd %eax, %k1", "AVX-512"),
    ("avx2", "vfmadd231ps %ymm0, %ymm1, %ymm2", "FMA"), ("avx2", "vfnmsub132ss %xmm0, %xmm1, %xmm2", "FMA"),
    ("avx2", "{vex} vpdpbusd %ymm0, %ymm1, %ymm2", "VNNI"), ("avx2", "bzhi %eax, %ecx, %edx", "not asked"),
    ("avxvnni", "{vex} vpdpbusd %ymm0, %ymm1, %ymm2", None), ("avxvnni", "vpdpbusd %ymm0, %ymm1, %ymm2", "AVX-512"),
    ("avxvnni", "vfmsub213pd %ymm0, %ymm1, %ymm2", "FMA"), ("avxvnni", "{vex} vpdpwssd %ymm0, %ymm1, %ymm2", "VNNI"),
    ("avx512vnni", "vpdpbusd %zmm0, %zmm1, %zmm2", None), ("avx512vnni", "vpermt2q %zmm0, %zmm1, %zmm2", None),
    ("avx512vnni", "vfmadd231ps %zmm0, %zmm1, %zmm2", "FMA"), ("avx512vnni", "vfnmadd231ps %zmm0, %zmm1, %zmm2", "FMA"),
    ("avx512vnni", "vpermb %zmm0, %zmm1, %zmm2", "another part"),
    ("avx512vbmi", "vpermt2b %zmm0, %zmm1, %zmm2", None), ("avx512vbmi", "vpdpbusd %zmm0, %zmm1, %zmm2", None),
    ("avx512vbmi", "vpcompressb %zmm0, %zmm1", "another part"), ("avx512vbmi", "vfmadd231ps %zmm0, %zmm1, %zmm2", "FMA"),
    ("avx512vnni", "vpermt2b %zmm0, %zmm1, %zmm2", "another part"),
    ("avx512vnni", "vpshufbitqmb %zmm0, %zmm1, %k1", "another part"),
    ("avx512vnni", "vpcompressb %zmm0, %zmm1", "another part"), ("avx512vnni", "vdpbf16ps %zmm0, %zmm1, %zmm2", "another part"),
    ("avx512vnni", "vaddph %zmm0, %zmm1, %zmm2", "another part"), ("avx512vnni", "vpopcntd %zmm0, %zmm1", "another part"),
]
SNIPPETS_ARM = [
    ("neon", "fmul v0.4s, v1.4s, v2.4s", None), ("neon", "fcvtl v0.4s, v1.4h", None),
    ("neon", "sdot v0.4s, v1.16b, v2.16b", "dot product"), ("neon", "udot v0.4s, v1.16b, v2.16b", "dot product"),
    ("neon", "fmla v0.4s, v1.4s, v2.4s", "fused"), ("neon", "fmls v0.4s, v1.4s, v2.4s", "fused"),
    ("neon", "fmadd s0, s1, s2, s3", "fused"), ("baseline", "fnmsub d0, d1, d2, d3", "fused"),
    ("neon_dotprod", "sdot v0.4s, v1.16b, v2.16b", None), ("neon_dotprod", "smmla v0.4s, v1.16b, v2.16b", "later"),
    ("neon_dotprod", "usdot v0.4s, v1.16b, v2.16b", "later"), ("neon_dotprod", "fmla v0.4s, v1.4s, v2.4s", "fused"),
    ("neon_dotprod", "add z0.s, z1.s, z2.s", "later"), ("baseline", "sdot v0.4s, v1.16b, v2.16b", "dot product"),
]
SOURCES = [("static int f(int a) { return a + 1; } int g(int a) { return f(a); }", None),
           ("void *memcpy(void *, const void *, unsigned long); void f(void *a, void *b, unsigned long n) { memcpy(a, b, n); }", None),
           ("template <class T> T f(T a) { return a + 1; } template int f<int>(int);", "weak symbol"),
           ("inline int v; int *f() { return &v; }", "weak symbol"),
           ("inline int &f() { static int v; return v; } int &g() { return f(); }", "weak symbol"),
           ("int f(); int g() { return f(); }", "undefined symbol"),
           ('extern "C" float expf(float); float g(float x) { return expf(x); }', "undefined symbol")]


def self_test(processor, tools, compiler):
    snippets = SNIPPETS_X86 if processor == "x86_64" else SNIPPETS_ARM
    march = [] if processor == "x86_64" else ["-march=armv8.6-a+sve"]
    cases = [(isa, f'void f() {{ asm volatile("{text}"); }}', expected) for isa, text, expected in snippets]
    cases += [("baseline", text.replace("void *memcpy", 'extern "C" void *memcpy'), expected) for text, expected in SOURCES]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.cpp", Path(folder) / "a.o"
        for isa, text, expected in cases:
            source.write_text(text + "\n")
            subprocess.run([compiler, "-std=c++20", "-O1", *march, "-c", str(source), "-o", str(target)], check=True)
            seen, errors = check_kernel(tools, target, isa)
            right = seen > 0 and (not errors if expected is None else len(errors) == 1 and expected in errors[0])
            if not right:
                print(f"{isa}: {text}: expected {expected}, found {errors}")
                wrong += 1
    print(f"{len(cases)} cases, {wrong} wrong")
    return 1 if wrong else 0


def main():
    processor = {"AMD64": "x86_64", "arm64": "aarch64"}.get(sys.argv[2], sys.argv[2])
    tools = Tools(processor, sys.argv[3], sys.argv[4])
    if sys.argv[1] == "--self-test":
        return self_test(processor, tools, sys.argv[5])
    return check_tree(Path(sys.argv[1]), processor, tools)


sys.exit(main())
