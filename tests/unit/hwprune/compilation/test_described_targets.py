"""What a device's agent says of it becomes a target."""

import platform

import pytest

from device_agents.agent.platforms import cpu
from hwprune.compilation import processors
from hwprune.compilation.targets import CpuTarget, host_target, target_of
from hwprune.errors import CompileError

PI4 = ["fp", "asimd", "evtstrm", "crc32", "cpuid"]
PI5 = [*PI4, "aes", "pmull", "sha1", "sha2", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp"]
V3 = [
    *("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"),
    *("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"),
]
V4 = [*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]


def arm(*parts, features=PI5, **facts):
    """What an agent says of an ARM with these core designs, four cores each."""
    cores = iter(range(100))
    parts = [
        {"implementer": "0x41", "part": part, "design": "?", "cores": [next(cores) for _ in range(4)]} for part in parts
    ]
    return {"arch": "aarch64", "pointer_bits": 64, "cpu_features": features, "cpu_parts": parts, **facts}


def x86(family, model, features, vendor="GenuineIntel"):
    ids = {"vendor_id": vendor, "cpu family": str(family), "model": str(model), "stepping": "1"}
    return {"arch": "x86_64", "pointer_bits": 64, "cpu_features": features, "cpu_ids": ids}


@pytest.mark.parametrize(
    ("part", "features", "mcpu"),
    [
        ("0xd03", PI4, "cortex-a53"),
        ("0xd08", PI4, "cortex-a72"),
        ("0xd0b", PI5, "cortex-a76"),
        ("0xd42", PI5, "cortex-a78ae"),
        ("0xd0c", PI5, "neoverse-n1"),
        ("0xd40", [*PI5, "sve"], "neoverse-v1"),
        ("0xd4f", [*PI5, "sve", "sve2"], "neoverse-v2"),
    ],
)
def test_arm_designs_have_the_names_of_llvm(part, features, mcpu):
    wanted = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "mattr": []}
    assert target_of(arm(part, features=features)) == wanted


def test_a_feature_that_the_system_hides_is_not_used():
    assert target_of(arm("0xd40"))["mattr"] == ["-sve"]
    assert "-avx512f" in target_of(x86(6, 0x6A, V3))["mattr"]
    assert CpuTarget.from_dict(target_of(x86(6, 0x6A, V3))).unit.feature == "avx2"


def test_an_unknown_arm_is_generic_with_the_features_that_it_names():
    target = target_of(arm("0xfff", features=PI5))
    assert (target["mcpu"], target["mattr"]) == ("generic", ["+lse", "+rdm", "+fullfp16", "+dotprod"])


def test_the_strongest_cluster_is_compiled_for():
    clusters = [{"capacity": 1024, "cores": [4, 5, 6, 7]}, {"capacity": 400, "cores": [0, 1, 2, 3]}]
    assert target_of(arm("0xd05", "0xd0b", clusters=clusters))["mcpu"] == "cortex-a76"
    # The system knows best: an order of ours is used only where it does not tell.
    clusters.reverse()
    assert target_of(arm("0xd05", "0xd0b", clusters=clusters))["mcpu"] == "cortex-a55"
    assert target_of(arm("0xd0b", "0xd05", clusters=None))["mcpu"] == "cortex-a76"


def test_an_emulator_of_programs_describes_another_processor():
    description = {"arch": "aarch64", "cpu_features": V4, "cpu_parts": None, "clusters": None}
    target = target_of(description)
    assert (target["mcpu"], target["mattr"]) == ("generic", [])


@pytest.mark.parametrize(
    ("family", "model", "vendor", "features", "mcpu"),
    [
        (6, 0x3F, "GenuineIntel", V3, "haswell"),
        (6, 0x55, "GenuineIntel", V4, "skylake-avx512"),
        (6, 0x55, "GenuineIntel", [*V4, "avx512_vnni"], "cascadelake"),
        (6, 0x55, "GenuineIntel", [*V4, "avx512_vnni", "avx512_bf16"], "cooperlake"),
        (23, 0x31, "AuthenticAMD", V3, "znver2"),
        (25, 0x01, "AuthenticAMD", V3, "znver3"),
        (25, 0x61, "AuthenticAMD", V4, "znver4"),
        (26, 0x02, "AuthenticAMD", V4, "znver5"),
        (6, 0xEE, "GenuineIntel", V4, "x86-64-v4"),
        (6, 0xEE, "GenuineIntel", V3, "x86-64-v3"),
        (25, 0x01, "SomebodyElse", V3[:6], "x86-64-v2"),
    ],
)
def test_x86_designs_have_the_names_of_llvm_or_of_their_level(family, model, vendor, features, mcpu):
    assert target_of(x86(family, model, features, vendor))["mcpu"] == mcpu


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 computer")
def test_llvm_and_the_table_agree_on_this_computer():
    target = target_of(cpu.describe("/"))
    if target["mcpu"].startswith("x86-64"):
        pytest.skip("the table does not know this computer")
    assert target["mcpu"] == host_target().mcpu
    assert CpuTarget.from_dict(target).unit == host_target().unit


@pytest.mark.parametrize("name", sorted({*processors.ARM_CORES.values()}))
def test_llvm_knows_every_arm_of_the_table(name):
    target = CpuTarget.from_dict({"mtriple": "aarch64-linux-gnu", "mcpu": name})
    assert target.unit.feature == "neon"


@pytest.mark.parametrize("name", sorted({*processors.INTEL_CORES.values(), *processors.AMD_CORES.values()}))
def test_llvm_knows_every_x86_of_the_table(name):
    assert CpuTarget.from_dict({"mtriple": "x86_64-linux-gnu", "mcpu": name}).lanes in (4, 8, 16)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"arch": "riscv64"}, "no kernels for riscv64 processors"),
        ({"arch": "armv7l"}, "no kernels for armv7l processors"),
        ({"arch": "aarch64", "pointer_bits": 32}, "have 32 bits: install a 64-bit system"),
        ({"arch": "x86_64", "cpu_features": None}, "does not tell: name its mcpu"),
        ({"arch": "x86_64", "cpu_features": ["sse2"]}, "no SSE4.2"),
    ],
)
def test_a_processor_without_kernels_is_told(description, message):
    with pytest.raises(CompileError, match=message):
        target_of(description)
