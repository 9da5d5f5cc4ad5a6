import os
import time

import pytest

from device_agents.agent import power
from device_agents.agent.host_state import Absent
from device_agents.agent.platforms import arm

HWMON = "sys/class/hwmon/"
ORIN = (
    "RAM 2462/7844MB (lfb 1x4MB) SWAP 0/3922MB CPU [1%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% CPU@45.5C "
    "VDD_IN 4024mW/4010mW VDD_CPU_GPU_CV 698mW/690mW VDD_SOC 1250mW/1250mW"
)
NANO = "RAM 900/3956MB SWAP 0/1978MB CPU [2%@102,off] GPU@30C POM_5V_IN 1532/1600 POM_5V_GPU 40/41 POM_5V_CPU 200/200"
PI_5 = """
   3V7_WL_SW_A current(0)=0.10000000A
   VDD_CORE_A current(7)=1.50000000A
   3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.80000000V
   EXT5V_V volt(24)=5.10000000V
"""


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{text}\n")


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Function that installs a program of this text, and nothing else."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(power, "TOOL_FOLDERS", ())

    def install(name, script):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    return install


def test_chips_of_one_rail_tell_power(tmp_path):
    write(
        tmp_path,
        {
            HWMON + "hwmon0/name": "coretemp",
            HWMON + "hwmon1/name": "ina219",
            HWMON + "hwmon1/power1_input": 2_500_000,
            HWMON + "hwmon2/name": "ina226",
            HWMON + "hwmon2/power1_input": 750_000,
        },
    )
    assert power.ina_rails_w(str(tmp_path)) == {"hwmon1 ina219": 2.5, "hwmon2 ina226": 0.75}


def test_a_chip_of_three_rails_tells_voltage_and_current_of_those_that_are_connected(tmp_path):
    write(
        tmp_path,
        {
            HWMON + "hwmon3/name": "ina3221",
            HWMON + "hwmon3/in1_input": 5000,
            HWMON + "hwmon3/curr1_input": 800,
            HWMON + "hwmon3/in1_label": "VDD_IN",
            HWMON + "hwmon3/in2_input": 1000,
            HWMON + "hwmon3/curr2_input": 300,
            HWMON + "hwmon3/in3_input": 1000,
        },
    )
    assert power.ina_rails_w(str(tmp_path)) == {"VDD_IN": 4.0, "hwmon3 ina3221 2": 0.3}


@pytest.mark.parametrize(
    ("line", "rails"),
    [
        (ORIN, {"VDD_IN": 4.024, "VDD_CPU_GPU_CV": 0.698, "VDD_SOC": 1.25}),
        (NANO, {"POM_5V_IN": 1.532, "POM_5V_GPU": 0.04, "POM_5V_CPU": 0.2}),
    ],
)
def test_a_jetson_tells_its_rails_by_a_tool_that_never_ends(tmp_path, tool, line, rails):
    tool("tegrastats", f'echo "$$" > {tmp_path}/pid; while :; do echo "{line}"; done')
    assert power.tegra_rails_w("/") == rails
    assert not os.path.exists("/proc/" + (tmp_path / "pid").read_text().strip())


def test_a_raspberry_pi_5_tells_its_rails(tool):
    tool("vcgencmd", f"[ $1 = pmic_read_adc ] && echo '{PI_5}'")
    assert power.pmic_rails_w("/") == pytest.approx({"3V7_WL_SW": 0.37, "VDD_CORE": 1.2})


def test_where_nothing_tells_the_reasons_of_all_are_given(tmp_path, tool):
    tool("vcgencmd", "echo 'VCHI initialization failed'; exit 255")
    with pytest.raises(Absent) as absent:
        power.power_w(str(tmp_path))
    assert str(absent.value) == (
        "no readable /sys/class/hwmon/hwmon*/name; tegrastats is not installed; vcgencmd: VCHI initialization failed"
    )


def test_a_tool_that_hangs_is_ended(tmp_path, tool, monkeypatch):
    monkeypatch.setattr(power, "TOOL_S", 0.2)
    tool("vcgencmd", f'echo "$$" > {tmp_path}/pid; while :; do :; done')
    began = time.monotonic()
    for lines in (0, 1):
        with pytest.raises(Absent, match="vcgencmd failed"):
            power.run_tool("vcgencmd", lines=lines)
        assert not os.path.exists("/proc/" + (tmp_path / "pid").read_text().strip())
    assert time.monotonic() - began < 5


def test_a_tool_that_cannot_be_run_is_absent(tool):
    tool("tegrastats", "")
    tool("vcgencmd", "echo nothing useful")
    for source in (power.tegra_rails_w, power.pmic_rails_w):
        with pytest.raises(Absent):
            source("/")


def test_throttle_flags_come_from_the_file_or_else_from_the_tool(tmp_path, tool):
    with pytest.raises(Absent, match=r"get_throttled: No such file.*; vcgencmd is not installed"):
        arm.throttle_flags(str(tmp_path))
    tool("vcgencmd", "[ $1 = get_throttled ] && echo throttled=0x50005")
    assert arm.throttle_flags(str(tmp_path)) == 0x50005
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "0"})
    assert arm.throttle_flags(str(tmp_path)) == 0
