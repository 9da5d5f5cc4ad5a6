from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents.agent import host_facts
from device_agents.agent.host_state import Absent
from device_agents.agent.platforms import arm, cpu, cuda

X86 = """processor\t: 0
model name\t: Imaginary(R) CPU @ 3 GHz
flags\t\t: sse avx2 fma avx2

processor\t: 1
model name\t: another
"""
BIG_LITTLE = """processor\t: 0
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 4
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 5
CPU implementer\t: 0x99
CPU part\t: 0x001
"""


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_an_x86_processor_is_described(tmp_path):
    write(tmp_path, "proc/cpuinfo", X86)
    write(tmp_path, "proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n")
    write(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-test\n")
    write(tmp_path, "sys/devices/system/cpu/online", "0-1\n")
    facts = cpu.describe(str(tmp_path))
    assert facts["cpu_model"] == "Imaginary(R) CPU @ 3 GHz"
    assert facts["cpu_features"] == ["avx2", "fma", "sse"]
    assert facts["memory_bytes"] == 2048 * 1024
    assert facts["kernel"] == "6.1.0-test"
    assert facts["cores"] == [0, 1]
    assert facts["governor"] is None
    assert "scaling_governor" in facts["missing"]["governor"]


def test_the_clusters_of_an_arm_processor_are_told_apart(tmp_path):
    write(tmp_path, "proc/cpuinfo", BIG_LITTLE)
    write(tmp_path, "proc/device-tree/model", "Imaginary Board 5\0")
    for core, capacity in enumerate([400, 400, 1024]):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpu_capacity", f"{capacity}\n")
    facts = arm.describe(str(tmp_path))
    assert facts["cpu_model"] == "Cortex-A55+Cortex-A76+implementer 0x99 part 0x001"
    assert facts["cpu_features"] == ["asimd", "asimddp", "fp"]
    assert facts["clusters"] == [{"capacity": 1024, "cores": [2]}, {"capacity": 400, "cores": [0, 1]}]
    assert facts["board"] == "Imaginary Board 5"
    assert facts["cpu_parts"] == [
        {"implementer": "0x41", "part": "0xd05", "design": "Cortex-A55", "cores": [0]},
        {"implementer": "0x41", "part": "0xd0b", "design": "Cortex-A76", "cores": [4]},
        {"implementer": "0x99", "part": "0x001", "design": "implementer 0x99 part 0x001", "cores": [5]},
    ]


def test_a_processor_without_a_name_is_absent(tmp_path):
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\n")
    for reader in (host_facts.cpu_model, host_facts.cpu_features, arm.cpu_model):
        with pytest.raises(Absent, match="/proc/cpuinfo"):
            reader(str(tmp_path))


def test_memory_without_a_total_is_absent(tmp_path):
    write(tmp_path, "proc/meminfo", "MemFree: 1 kB\n")
    with pytest.raises(Absent, match="MemTotal"):
        host_facts.memory_bytes(str(tmp_path))


@given(st.sets(st.integers(0, 200), min_size=1))
def test_lists_of_cores_are_read_back(cores):
    ordered = sorted(cores)
    text = ",".join(f"{core}-{core}" if core % 2 else str(core) for core in ordered)
    assert host_facts.parse_cores(text) == ordered


def test_ranges_of_cores_are_read():
    assert host_facts.parse_cores("0-2,5,8-9") == [0, 1, 2, 5, 8, 9]


def fake_tool(folder, monkeypatch, script):
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_gpus_are_described_by_their_driver(tmp_path, monkeypatch):
    fake_tool(tmp_path, monkeypatch, "echo 'Imaginary 9000, 550.1, 8.7, 8192, 1500, 60.0'")
    assert cuda.gpus(str(tmp_path)) == [
        {
            "gpu_model": "Imaginary 9000",
            "driver": "550.1",
            "compute_capability": "8.7",
            "memory_mib": "8192",
            "clock_limit_mhz": "1500",
            "power_limit_w": "60.0",
        }
    ]
    assert cuda.present(str(tmp_path))


def test_a_driver_that_knows_no_compute_capability_describes_the_rest(tmp_path, monkeypatch):
    refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    fake_tool(tmp_path, monkeypatch, f"case $1 in *compute_cap*) {refusal};; *) echo 'Old 1, 440.1, 8, 15, 60';; esac")
    (gpu,) = cuda.gpus(str(tmp_path))
    assert (gpu["gpu_model"], gpu["driver"], gpu["power_limit_w"]) == ("Old 1", "440.1", "60")


def test_a_driver_that_finds_no_gpu_is_absent_with_its_words(tmp_path, monkeypatch):
    fake_tool(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    facts = cuda.describe(str(tmp_path))
    assert facts["gpus"] is None
    assert facts["missing"]["gpus"] == "nvidia-smi: No devices were found"
    assert not cuda.present(str(tmp_path))


def test_no_driver_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda.describe(str(tmp_path))["missing"]["gpus"] == "nvidia-smi is not installed"


def test_a_jetson_without_the_drivers_tool_is_known_by_its_device_tree(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path, "proc/device-tree/compatible", "nvidia,p3768\0nvidia,tegra234\0")
    assert cuda.present(str(tmp_path))
    assert cuda.gpus(str(tmp_path)) == [{"gpu_model": "tegra234"}]
    write(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert not cuda.present(str(tmp_path))


def test_the_state_of_gpus_is_told_by_their_driver(tmp_path, monkeypatch):
    fake_tool(tmp_path, monkeypatch, "echo '61, 1500, 5001, 43.5, 812, 97, 0x0000000000000004'")
    assert cuda.state(str(tmp_path)) == {
        "gpu_state": [
            {
                "temperature_celsius": "61",
                "clock_mhz": "1500",
                "memory_clock_mhz": "5001",
                "power_w": "43.5",
                "memory_used_mib": "812",
                "busy_percent": "97",
                "throttle_reasons": "0x0000000000000004",
            }
        ],
        "missing": {},
    }


def test_an_x86_processor_is_told_by_its_numbers(tmp_path):
    write(tmp_path, "proc/cpuinfo", "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 85\nstepping: 7\n")
    assert host_facts.cpu_ids(str(tmp_path)) == {
        "vendor_id": "GenuineIntel",
        "cpu family": "6",
        "model": "85",
        "stepping": "7",
    }
    write(tmp_path, "proc/cpuinfo", "cpu family: 6\n")
    with pytest.raises(Absent, match="lacks vendor_id, model, stepping"):
        host_facts.cpu_ids(str(tmp_path))


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ("echo 'musl libc (aarch64)'; echo 'Version 1.2.4'; exit 1", "musl 1.2.4"),
        ("exit 127", "musl"),
        (None, None),
    ],
)
def test_a_system_without_glibc_is_asked_for_musl(tmp_path, monkeypatch, loader, said):
    monkeypatch.setattr(host_facts.os, "confstr", lambda name: None)
    if loader is None:
        with pytest.raises(Absent, match="neither glibc nor"):
            host_facts.libc(str(tmp_path))
        return
    write(tmp_path, "lib/ld-musl-aarch64.so.1", f"#!/bin/sh\n{loader}\n")
    (tmp_path / "lib/ld-musl-aarch64.so.1").chmod(0o755)
    assert host_facts.libc(str(tmp_path)) == said


def test_this_computer_tells_its_libc_and_the_width_of_its_addresses():
    assert host_facts.libc("/").split()[0] in ("glibc", "musl")
    assert host_facts.pointer_bits("/") in (32, 64)


def write_core(root: Path, core: int, siblings: str, caches: list[tuple[str, str]]) -> None:
    folder = f"sys/devices/system/cpu/cpu{core}"
    write(root, f"{folder}/topology/thread_siblings_list", f"{siblings}\n")
    for index, (size, shared) in enumerate(caches):
        write(root, f"{folder}/cache/index{index}/size", f"{size}\n")
        write(root, f"{folder}/cache/index{index}/shared_cpu_list", f"{shared}\n")


def test_the_largest_cache_of_one_core_alone_is_told(tmp_path):
    write_core(tmp_path, 0, "0,4", [("32K", "0,4"), ("2M", "0,4"), ("8192K", "0-7")])
    assert host_facts.private_cache_bytes(str(tmp_path)) == 2 << 20


def test_of_unlike_cores_the_one_with_the_least_cache_counts(tmp_path):
    write_core(tmp_path, 0, "0", [("64K", "0"), ("512K", "0"), ("4M", "0-1")])
    write_core(tmp_path, 1, "1", [("32K", "1"), ("128K", "1"), ("4M", "0-1")])
    assert host_facts.private_cache_bytes(str(tmp_path)) == 128 << 10


def test_a_system_that_tells_nothing_of_its_caches_says_so(tmp_path):
    with pytest.raises(Absent, match="cache"):
        host_facts.private_cache_bytes(str(tmp_path))
