"""Processors as their system names them -> as LLVM names them; what LLVM does for its own host, done for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwprune.errors import CompileError

#: Core designs by (implementer, part) of ARM's MIDR register -> LLVM's name; the stronger of two stands later.
ARM_CORES: dict[tuple[int, int], str] = {
    (0x41, 0xD02): "cortex-a34",
    (0x41, 0xD04): "cortex-a35",
    (0x41, 0xD03): "cortex-a53",
    (0x41, 0xD05): "cortex-a55",
    (0x41, 0xD46): "cortex-a510",
    (0x41, 0xD80): "cortex-a520",
    (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72",
    (0x41, 0xD09): "cortex-a73",
    (0x41, 0xD06): "cortex-a65",
    (0x41, 0xD0A): "cortex-a75",
    (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0E): "cortex-a76ae",
    (0x41, 0xD0D): "cortex-a77",
    (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD42): "cortex-a78ae",
    (0x41, 0xD4B): "cortex-a78c",
    (0x41, 0xD47): "cortex-a710",
    (0x41, 0xD4D): "cortex-a715",
    (0x41, 0xD81): "cortex-a720",
    (0x41, 0xD87): "cortex-a725",
    (0x41, 0xD44): "cortex-x1",
    (0x41, 0xD4C): "cortex-x1c",
    (0x41, 0xD48): "cortex-x2",
    (0x41, 0xD4E): "cortex-x3",
    (0x41, 0xD82): "cortex-x4",
    (0x41, 0xD85): "cortex-x925",
    (0x41, 0xD4A): "neoverse-e1",
    (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD49): "neoverse-n2",
    (0x41, 0xD8E): "neoverse-n3",
    (0x41, 0xD40): "neoverse-v1",
    (0x41, 0xD4F): "neoverse-v2",
    (0x41, 0xD84): "neoverse-v3",
    (0x43, 0x0A1): "thunderxt88",
    (0x43, 0x0AF): "thunderx2t99",
    (0x46, 0x001): "a64fx",
    (0x48, 0xD01): "tsv110",
    (0x4E, 0x004): "carmel",
    (0x51, 0x800): "cortex-a73",
    (0x51, 0x802): "cortex-a75",
    (0x51, 0x803): "cortex-a55",
    (0x51, 0x804): "cortex-a76",
    (0x51, 0x805): "cortex-a55",
    (0x51, 0xC00): "falkor",
    (0xC0, 0xAC3): "ampere1",
    (0xC0, 0xAC4): "ampere1a",
}

#: LLVM's feature -> the system's, for those that code of float32 networks could use.
ARM_FEATURES = {
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "dotprod": "asimddp",
    "sve": "sve",
    "sve2": "sve2",
}

#: Designs by (family, model) -> LLVM's name.
INTEL_CORES: dict[tuple[int, int], str] = {
    (6, model): name
    for name, models in {
        "nehalem": (0x1A, 0x1E, 0x1F, 0x2E),
        "westmere": (0x25, 0x2C, 0x2F),
        "sandybridge": (0x2A, 0x2D),
        "ivybridge": (0x3A, 0x3E),
        "haswell": (0x3C, 0x3F, 0x45, 0x46),
        "broadwell": (0x3D, 0x47, 0x4F, 0x56),
        "skylake": (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6),
        "skylake-avx512": (0x55,),
        "cannonlake": (0x66,),
        "icelake-client": (0x7D, 0x7E),
        "icelake-server": (0x6A, 0x6C),
        "tigerlake": (0x8C, 0x8D),
        "rocketlake": (0xA7,),
        "alderlake": (0x97, 0x9A),
        "raptorlake": (0xB7, 0xBA, 0xBF),
        "meteorlake": (0xAA, 0xAC),
        "gracemont": (0xBE,),
        "arrowlake": (0xB5, 0xC5),
        "arrowlake-s": (0xC6,),
        "lunarlake": (0xBD,),
        "sapphirerapids": (0x8F,),
        "emeraldrapids": (0xCF,),
        "graniterapids": (0xAD,),
        "graniterapids-d": (0xAE,),
        "sierraforest": (0xAF,),
        "silvermont": (0x37, 0x4A, 0x4C, 0x4D, 0x5A, 0x5D),
        "goldmont": (0x5C, 0x5F),
        "goldmont-plus": (0x7A,),
        "tremont": (0x86, 0x8A, 0x96, 0x9C),
    }.items()
    for model in models
}

#: Designs by (family, first and last model) -> LLVM's name.
AMD_CORES: dict[tuple[int, int, int], str] = {
    (0x17, 0x00, 0x2F): "znver1",
    (0x17, 0x30, 0xFF): "znver2",
    (0x19, 0x00, 0x0F): "znver3",
    (0x19, 0x10, 0x1F): "znver4",
    (0x19, 0x20, 0x5F): "znver3",
    (0x19, 0x60, 0xAF): "znver4",
    (0x1A, 0x00, 0xFF): "znver5",
}

#: LLVM's feature -> the system's, for those that code of float32 networks could use.
X86_FEATURES = {
    "popcnt": "popcnt",
    "sse4.2": "sse4_2",
    "avx": "avx",
    "f16c": "f16c",
    "avx2": "avx2",
    "fma": "fma",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "gfni": "gfni",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}

#: Levels of x86-64, and what the system must name for each beyond the one before.
X86_LEVELS = {
    "x86-64-v2": ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"),
    "x86-64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}


def identify(description: Mapping[str, Any]) -> tuple[str, str, dict[str, bool]]:
    """Architecture, LLVM's name of the design, and for LLVM's features whether the system names them.

    Args:
        description: what the device's agent said of it.

    Raises:
        CompileError: there are no kernels for its processor, or it does not tell which one it has.
    """
    arch = str(description.get("arch"))
    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch)
    if arch not in ("aarch64", "x86_64"):
        raise CompileError(f"there are no kernels for {arch} processors: use a device with 64-bit ARM or x86")
    if description.get("pointer_bits") == 32:
        raise CompileError(f"programs of this {arch} system have 32 bits: install a 64-bit system there")
    named = set(description.get("cpu_features") or ())
    if arch == "aarch64":
        features = {feature: name in named for feature, name in ARM_FEATURES.items()}
        # Inside of an emulator that runs programs, the system describes another processor.
        return arch, _arm_design(description), features if "asimd" in named else {}
    return arch, _x86_design(description, named), {feature: name in named for feature, name in X86_FEATURES.items()}


def _arm_design(description: Mapping[str, Any]) -> str:
    """The design of the strongest cores; ``generic`` where LLVM has no name for it."""
    clusters = description.get("clusters") or [{"cores": []}]
    strongest = set(clusters[0]["cores"])
    ranks = list(ARM_CORES)
    best = -1, -1
    for part in description.get("cpu_parts") or ():
        key = int(part["implementer"], 16), int(part["part"], 16)
        rank = ranks.index(key) if key in ARM_CORES else -1
        best = max(best, (len(strongest & set(part["cores"])), rank))
    return ARM_CORES[ranks[best[1]]] if best[1] >= 0 else "generic"


def _x86_design(description: Mapping[str, Any], named: set[str]) -> str:
    """The design by family and model, else the best level of which the system names all.

    Raises:
        CompileError: the system does not even name the features of the lowest level.
    """
    ids = description.get("cpu_ids") or {}
    vendor, family, model = ids.get("vendor_id"), int(ids.get("cpu family", 0)), int(ids.get("model", 0))
    if vendor == "GenuineIntel" and (family, model) in INTEL_CORES:
        design = INTEL_CORES[family, model]
        if design == "skylake-avx512":  # three designs share its number
            later = {"avx512_bf16": "cooperlake", "avx512_vnni": "cascadelake"}
            design = next((name for feature, name in later.items() if feature in named), design)
        return design
    if vendor in ("AuthenticAMD", "HygonGenuine"):
        for (its_family, first, last), design in AMD_CORES.items():
            if family == its_family and first <= model <= last:
                return design
    needed: set[str] = set()
    best = None
    for level, features in X86_LEVELS.items():
        needed |= set(features)
        if needed <= named:
            best = level
    if best is None:
        raise CompileError("the device's processor has no SSE4.2 or does not tell: name its mcpu in the device's file")
    return best
