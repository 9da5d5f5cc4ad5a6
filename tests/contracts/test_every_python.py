"""The shipped files run on every Python from 3.8 on: on each that is on this machine, and by reading for the others."""

from __future__ import annotations

import array
import ast
import functools
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from device_agents import bundle
from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.transport import LoopbackTransport

LIBRARY = Path(__file__).parents[1] / "unit/device_agents/plain_library.c"
INPUT = array.array("f", range(10)).tobytes()
EXPECTED = array.array("f", [2.0 * number for number in range(10)]).tobytes()
OLDEST = (3, 8)
MINORS = range(8, 14)

SHIPPED = {name: text.decode() for name, text in bundle.sources().items()}

#: Methods, keywords and builtins that came after 3.8 and that no module's list of names shows.
NEWER_METHODS = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "with_stem", "hardlink_to", "add_note"}
NEWER_KEYWORDS = {
    "zip": {"strict"},
    "dataclass": {"slots", "kw_only", "match_args"},
    "Popen": {"process_group", "pipesize"},
    "run": {"process_group", "pipesize"},
    "sha256": {"usedforsecurity"},
    "glob": {"root_dir"},
}
NEWER_BUILTINS = {"aiter", "anext", "ExceptionGroup", "BaseExceptionGroup", "EncodingWarning"}
#: Classes that take no square brackets before 3.9, wherever brackets are evaluated.
PLAIN_CLASSES = {"list", "dict", "set", "tuple", "type", "frozenset", "Popen", "Queue", "Pattern", "Match", "deque"}


@functools.cache
def find_python(minor):
    """An interpreter of that version on this machine, or None."""
    name = f"python3.{minor}"
    places = [shutil.which(name), *sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"))]
    for place in filter(None, places):
        # A name on the path may be a shim of a version that is not chosen, or lack ctypes.
        tried = subprocess.run([place, "-I", "-c", "import ctypes"], capture_output=True, check=False)
        if tried.returncode == 0:
            return str(place)
    return None


@pytest.fixture(params=MINORS, ids=lambda minor: f"3.{minor}")
def python(request):
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"no Python 3.{request.param} on this machine")
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Path and digest of a network."""
    path = tmp_path_factory.mktemp("library") / "network.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(LIBRARY), "-o", str(path)], check=True)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_bundle_measures_on_it(python, library, tmp_path):
    path, digest = library
    with AgentClient(LoopbackTransport(tmp_path / "agent", python), holder="a test") as client:
        assert client.describe()["python"].startswith("CPython 3.")
        assert client.state()["cpu_times_s"]
        client.put(path, digest)
        handle = client.load(digest, self_test=SelfTest(INPUT, EXPECTED)).handle
        assert client.run(handle, INPUT) == EXPECTED
        (result,) = client.measure([TimingRequest(handle)], blocks=3, block_ms_min=1.0, warmup_ms_max=20.0)
        assert len(result.blocks) == 3
        client.unload(handle)
        assert client.clean() == path.stat().st_size


def test_every_module_is_imported_there_without_a_warning(python, tmp_path):
    modules = [name[: -len(".py")].replace("/", ".") for name in SHIPPED if not name.endswith("__.py")]
    code = (
        "import importlib, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    subprocess.run([python, "-I", "-S", "-W", "error", "-c", code, bundle.build(tmp_path)], check=True, timeout=60)


def test_what_must_not_be_read_is_refused_there_at_once(python, tmp_path):
    code = (
        "import sys, time\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from device_agents import protocol\n"
        "lines = [b'[' * 10**6, b'{\"a\":' * 10**6, b'{\"a\":' + b'9' * 10**7 + b'}']\n"
        'for line in [*lines, b\'{"a":NaN}\', b\'{"a":1,"a":1}\']:\n'
        "    try:\n"
        "        protocol.decode(line)\n"
        "        print('taken')\n"
        "    except protocol.BadRequest:\n"
        "        print('refused')\n"
    )
    done = subprocess.run(
        [python, "-I", "-S", "-c", code, bundle.build(tmp_path)], capture_output=True, check=True, timeout=30
    )
    assert done.stdout.split() == [b"refused"] * 5


def test_every_name_of_the_standard_library_is_there(python):
    wanted = sorted({pair for text in SHIPPED.values() for pair in names_used(text)})
    assert ("os", "pread") in wanted
    code = (
        "import importlib, json, sys\n"
        "for module, name in json.loads(sys.argv[1]):\n"
        "    if not hasattr(importlib.import_module(module), name):\n"
        "        importlib.import_module(module + '.' + name)\n"
    )
    subprocess.run([python, "-I", "-S", "-c", code, json.dumps(wanted)], check=True, timeout=60)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_text_is_that_of_the_oldest(name):
    ast.parse(SHIPPED[name], feature_version=OLDEST)
    assert complaints(SHIPPED[name]) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 'a'.removeprefix('b')", "removeprefix"),
        ("x = zip(a, b, strict=True)", "zip(strict=)"),
        ("x = subprocess.Popen(a, process_group=0)", "Popen(process_group=)"),
        ("x = {**a} | b", "| of dictionaries"),
        ("X = dict[str, int]", "dict[...]"),
        ("x = cast(re.Pattern[str], y)", "Pattern[...]"),
        ("def f(x: int) -> None: ...", "annotations without the future"),
        ("from __future__ import annotations\nclass A(list[int]): x: dict[str, int]", "list[...]"),
        ("with open(a) as x, open(b) as y: raise ExceptionGroup", "ExceptionGroup"),
        ("@functools.cache\n@a.b[0].c\ndef f(): ...", "a decorator that is no name or call"),
    ],
)
def test_what_is_newer_is_found(text, complaint):
    assert complaints(text) == [complaint]


@pytest.mark.parametrize(
    "text", ["match x:\n case 1: pass", "with (open(a) as x, open(b) as y): pass", "def f[T](x): pass"]
)
def test_newer_syntax_is_found(text):
    with pytest.raises(SyntaxError):
        ast.parse(text, feature_version=OLDEST)


def names_used(text):
    """Pairs of a module of the standard library and a name of it that the text uses."""
    tree = ast.parse(text)
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("device_agents"):
            yield from ((node.module, alias.name) for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def complaints(text):
    """What in the text is newer than the oldest Python, as far as reading tells."""
    tree = ast.parse(text)
    is_lazy = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    annotations = set(unevaluated(tree))
    found = ["annotations without the future"] if annotations and not is_lazy else []
    for node in ast.walk(tree):
        if node in annotations:
            continue
        found += newer(node)
    return found


def unevaluated(tree):
    """All nodes inside of annotations."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                yield from ast.walk(getattr(node, field))


def newer(node):
    """Complaints about one node."""
    if isinstance(node, ast.Attribute):
        if node.attr in NEWER_METHODS:
            yield node.attr
    elif isinstance(node, ast.Call):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        yield from (f"{called}({word.arg}=)" for word in node.keywords if word.arg in NEWER_KEYWORDS.get(called, ()))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        if any(isinstance(side, (ast.Dict, ast.DictComp)) for side in (node.left, node.right)):
            yield "| of dictionaries"
    elif isinstance(node, ast.Subscript):
        name = getattr(node.value, "attr", getattr(node.value, "id", ""))
        if name in PLAIN_CLASSES:
            yield f"{name}[...]"
    elif isinstance(node, ast.Name) and node.id in NEWER_BUILTINS:
        yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield from ("a decorator that is no name or call" for one in node.decorator_list if not is_dotted(one))


def is_dotted(node):
    """Whether a decorator is a dotted name, or a call of one: all that 3.8 takes."""
    node = node.func if isinstance(node, ast.Call) else node
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)
