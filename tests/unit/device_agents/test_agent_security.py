"""What the shipped sources never do, found by reading them: run what came over the wire, or trust a clock."""

import ast
import inspect

import pytest

from device_agents import bundle, client, protocol, replies
from device_agents.agent.__main__ import Agent

SHIPPED = {name: text.decode() for name, text in bundle.sources().items()}
HOST_SIDE = {module.__name__: inspect.getsource(module) for module in (client, replies)}

#: Modules that turn bytes or texts into code or objects of the sender's choice, or open ways besides the wire.
FORBIDDEN_MODULES = {
    "pickle", "marshal", "shelve", "dill", "code", "codeop", "runpy", "imp", "pty", "socket", "socketserver", "http",
    "urllib", "ftplib", "telnetlib", "xmlrpc", "multiprocessing", "tempfile", "datetime",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
#: Attributes by their module: shells, code, and clocks that somebody can set.
FORBIDDEN_ATTRIBUTES = {
    "os": {"system", "popen", "execv", "execve", "execvp", "execl", "execlp", "spawnv", "spawnl", "fork"},
    "subprocess": {"getoutput", "getstatusoutput", "call", "check_output"},
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "clock"},
    "importlib": {"reload"},
    "ctypes": {"pythonapi", "py_object"},
}  # fmt: skip


def offences(text):
    """Everything in the text that is forbidden."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [name for name in modules if name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += [node.attr] if node.attr in FORBIDDEN_ATTRIBUTES.get(node.value.id, ()) else []
        elif isinstance(node, ast.Call):
            found += [node.func.id] if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS else []
            found += ["shell="] if any(word.arg == "shell" for word in node.keywords) else []
    return found


#: The start compiles the shipped file itself, before there is a wire; it reads no bytecode.
COMPILING = {"__main__.py": ["marshal", "compile"]}


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_shipped_runs_what_came_over_the_wire_or_asks_a_clock_that_can_be_set(name):
    assert offences(SHIPPED[name]) == COMPILING.get(name, [])
    assert "marshal.load" not in SHIPPED[name]


@pytest.mark.parametrize("name", HOST_SIDE)
def test_nothing_on_the_hosts_end_runs_what_came_over_the_wire(name):
    assert set(offences(HOST_SIDE[name])) <= {"socket", "datetime"}  # for the holder's name


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)",
        "import pickle",
        "from marshal import loads",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import time\ntime.time()",
        "from multiprocessing.connection import Client",
    ],
)
def test_an_offence_is_found(text):
    assert len(offences(text)) == 1


def test_programs_are_started_from_lists_that_begin_with_a_fixed_name():
    """Every start of a program, so that a new one is looked at: where, and what stands first in its list."""
    starts = {}
    for name, text in SHIPPED.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.Popen", "subprocess.run"):
                starts.setdefault(name.rsplit("/", 1)[-1], []).append(ast.unparse(node.args[0]))
    assert starts == {
        "children.py": ["command"],
        "governor.py": ["command"],
        "host_facts.py": ["loaders[:1]"],
        "power.py": ["[path, *arguments]"],
    }


def test_tools_get_no_argument_that_is_not_in_the_source():
    for name, text in SHIPPED.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "run_tool":
                for argument in node.args:
                    names = {part.id for part in ast.walk(argument) if isinstance(part, ast.Name)}
                    assert names <= {"query"}, (name, ast.unparse(node))


def test_the_agent_has_a_method_for_every_verb_and_no_other():
    verbs = {name[len("do_") :] for name in vars(Agent) if name.startswith("do_")}
    assert verbs == set(protocol.ARGUMENTS) == set(replies.RESULTS)


def test_no_argument_of_any_verb_is_a_path():
    texts = {
        f"{verb}.{name}"
        for verb, arguments in protocol.ARGUMENTS.items()
        for name, check in arguments.items()
        if takes(check, "../../etc/passwd")
    }
    # The holder's name is written into the lock and shown; the input is decoded from base64, which this text is not.
    assert texts == {"hello.who", "run.input"}


def takes(check, value):
    try:
        check(value)
    except protocol.BadRequest:
        return False
    return True
