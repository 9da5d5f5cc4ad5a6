"""Packages of the device's Python, as their folders tell: none is imported, and no other Python started to ask."""

from __future__ import annotations

import glob
import os
import re
import site
import sys

from device_agents.agent.host_state import Absent

#: What lies beside ONNX Runtime, under whichever name it was packed, and its version.
ONNXRUNTIME = re.compile(
    r"onnxruntime([-_](gpu|openvino|qnn|training))?-(?P<version>\d[^-]*)(-py[\d.]+)?\.(dist|egg)-info"
)

#: A virtual environment that sees the system's packages too.
WITH_SYSTEM = re.compile(r"^\s*include-system-site-packages\s*=\s*true\s*$", re.IGNORECASE | re.MULTILINE)


def folders() -> list[str]:
    """Where packages lie: those of the virtual environment, if this Python is one's, of the user and of the system.

    Agents start without ``site``, which would find them by importing what some of them leave there.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    users, systems = [site.getusersitepackages()], site.getsitepackages()
    try:
        with open(os.path.join(home, "pyvenv.cfg"), encoding="utf-8") as file:
            has_system = WITH_SYSTEM.search(file.read()) is not None
    except OSError:
        return users + systems
    own = os.path.join(glob.escape(home), "lib*", "python{}.{}".format(*sys.version_info), "site-packages")
    return sorted(glob.glob(own)) + users + (systems if has_system else [])


def onnxruntime(root: str) -> str:
    """Version of ONNX Runtime for the Python that runs the agent."""
    for folder in folders():
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), "onnxruntime*-info"))):
            found = ONNXRUNTIME.fullmatch(os.path.basename(path))
            if found:
                return found["version"]
    raise Absent("onnxruntime is not installed for " + sys.executable)
