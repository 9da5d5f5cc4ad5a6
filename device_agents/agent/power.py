"""Power just now, from sensors of boards: INA chips, and what Jetsons and Raspberry Pis tell by their tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from device_agents.agent.host_state import Absent, read_all, read_text
from device_agents.agent.pipes import Inbox

#: Drivers whose channels are rails of a board; other chips tell voltages of which nobody knows the current.
CHIPS = ("ina219", "ina226", "ina231", "ina238", "ina3221")

#: Where boards keep their tools; sessions without a login shell may not have all of it in PATH.
TOOL_FOLDERS = ("/usr/bin", "/usr/sbin", "/opt/vc/bin")

#: A driver that has to wake up its GPU first takes seconds.
TOOL_S = 10.0

#: ``VDD_IN 4024mW/4012mW``, in older releases ``VDD_IN 4024/4012``: now and on average, on a rail in capitals.
TEGRA_RAIL = re.compile(r"\b((?:VDD|POM|VIN|SYS5V|NC)\w*) (\d+)(?:mW)?/\d+(?:mW)?")

#: ``VDD_CORE_A current(7)=1.2A`` and ``VDD_CORE_V volt(15)=0.9V``.
PMIC_LINE = re.compile(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]")


def power_w(root: str) -> dict[str, float]:
    """Watts by rail, from the first source there is.

    Raises:
        Absent: no source; the text names what each of them said.
    """
    reasons = []
    for source in (ina_rails_w, tegra_rails_w, pmic_rails_w):
        try:
            return source(root)
        except (Absent, ValueError) as error:
            reasons.append(str(error))
    raise Absent("; ".join(reasons))


def ina_rails_w(root: str) -> dict[str, float]:
    """Rails of INA chips, by label where they have one.

    Raises:
        Absent: there is none.
    """
    rails: dict[str, float] = {}
    for path, chip in read_all(root, "sys/class/hwmon/hwmon*/name").items():
        if chip in CHIPS:
            rails.update(_chip_rails_w(root, os.path.dirname(path), chip))
    if not rails:
        raise Absent("no INA chip among /sys/class/hwmon")
    return rails


def _chip_rails_w(root: str, folder: str, chip: str) -> dict[str, float]:
    name = f"{os.path.basename(folder)} {chip}"
    try:
        # Microwatts of the one rail that this chip is on.
        return {name: int(read_text(root, folder + "/power1_input")) / 1e6}
    except Absent:
        pass  # a chip of several rails, which tells voltage and current
    rails = {}
    for channel in (1, 2, 3):
        try:
            millivolts = int(read_text(root, f"{folder}/in{channel}_input"))
            milliamperes = int(read_text(root, f"{folder}/curr{channel}_input"))
        except Absent:
            continue  # a channel that is not connected
        try:
            label = read_text(root, f"{folder}/in{channel}_label")
        except Absent:
            label = f"{name} {channel}"
        rails[label] = millivolts * milliamperes / 1e6
    return rails


def tegra_rails_w(root: str) -> dict[str, float]:
    """Rails of a Jetson, by the first line of ``tegrastats``.

    Raises:
        Absent: the tool is not there, or names no rail.
    """
    line = run_tool("tegrastats", "--interval", "100", lines=1)
    rails = {name: int(milliwatts) / 1e3 for name, milliwatts in TEGRA_RAIL.findall(line)}
    if not rails:
        raise Absent("tegrastats names no rail")
    return rails


def pmic_rails_w(root: str) -> dict[str, float]:
    """Rails of a Raspberry Pi 5, by ``vcgencmd pmic_read_adc``.

    Raises:
        Absent: the tool is not there, or the board is another one.
    """
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in PMIC_LINE.findall(run_tool("vcgencmd", "pmic_read_adc")):
        found[unit][rail] = float(value)
    rails = {rail: amperes * found["V"][rail] for rail, amperes in found["A"].items() if rail in found["V"]}
    if not rails:
        raise Absent("vcgencmd pmic_read_adc names no rail: the board has no such sensor")
    return rails


def run_tool(name: str, *arguments: str, lines: int = 0) -> str:
    """What a tool of the board prints; it is run without a shell and ended after a few seconds.

    Args:
        name: of the program.
        arguments: fixed ones; nothing from the wire comes here.
        lines: end the tool after so many lines; 0 to wait for its own end.

    Raises:
        Absent: it is not installed, or fails.
    """
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(TOOL_FOLDERS))
    if path is None:
        raise Absent(f"{name} is not installed")
    try:
        with subprocess.Popen(
            [path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                if lines:
                    return _first_lines(process, lines)
                text = process.communicate(timeout=TOOL_S)[0].decode(errors="replace").strip()
            finally:
                process.kill()
    except (OSError, subprocess.TimeoutExpired, TimeoutError, EOFError, ValueError) as error:
        raise Absent(f"{name} failed: {error}") from error
    if process.returncode != 0:
        raise Absent("{}: {}".format(name, " ".join(text.split()) or f"status {process.returncode}"))
    return text


def _first_lines(process: subprocess.Popen[bytes], count: int) -> str:
    assert process.stdout is not None
    inbox = Inbox(process.stdout.fileno(), line_bytes_max=1 << 16)
    return "\n".join(inbox.line(TOOL_S).decode(errors="replace") for _ in range(count))
