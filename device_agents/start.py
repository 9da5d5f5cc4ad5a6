"""What a device's Python runs when it is given the shipped file, where this is called ``__main__.py``.

Compiling the modules takes a small board many seconds. So that not every start of an agent and of each of its processes
does it again, the board's own Python does it once, and a second file beside the first holds the bytecode.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import marshal
import os
import sys

#: Head of bytecode that is not compared with its source (PEP 552): the file's name tells of which sources it is.
HEAD = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)

#: A board may believe to be in 1970, which no archive can hold.
EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def with_bytecode(bundle: str) -> str:
    """The file beside ``bundle`` that holds its modules' bytecode, made if it is not there.

    Its name is the digest of the sources, the kind of bytecode and its own digest: no other version and no other Python
    finds it there, and one that was torn is made anew. ``bundle`` itself where nothing can be written.
    """
    stem = bundle[: -len("pyz")] + importlib.util.MAGIC_NUMBER.hex()
    part = f"{stem}.{os.getpid()}.part"
    try:
        for path in glob.glob(glob.escape(stem) + ".*.pyz"):
            if path == named(stem, path):
                return path
            os.unlink(path)
        compile_into(bundle, part)
        path = named(stem, part)
        os.replace(part, path)
    except OSError:
        return bundle
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return path


def named(stem: str, path: str) -> str:
    """What the file at ``path`` is to be called, by its contents."""
    with open(path, "rb") as file:
        return f"{stem}.{hashlib.sha256(file.read()).hexdigest()[:12]}.pyz"


def compile_into(bundle: str, path: str) -> None:
    """Write the bytecode of the modules in ``bundle`` to ``path``."""
    import zipfile  # takes longer to import than all else that a start needs

    with zipfile.ZipFile(bundle) as sources, zipfile.ZipFile(path, "w") as compiled:
        for name in sources.namelist():
            code = compile(sources.read(name), f"{bundle}/{name}", "exec", dont_inherit=True)
            compiled.writestr(zipfile.ZipInfo(name + "c", EARLIEST_ZIP_DATE), HEAD + marshal.dumps(code))


if __name__ == "__main__":
    shipped = os.path.abspath(sys.argv[0])
    sys.path[0] = with_bytecode(shipped)

    from device_agents.agent.__main__ import main

    main(shipped, sys.path[0])
