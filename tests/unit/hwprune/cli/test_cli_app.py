import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from device_agents.errors import UnknownDeviceError
from hwprune.cli.app import Root, root
from hwprune.cli.context import Session
from hwprune.errors import InfeasibleError, UnknownNameError, UntrustedError
from latency_models.errors import UnknownRegressorError


def program(raised: BaseException) -> Root:
    """A program with one command, which fails as said."""

    @click.group(cls=Root)
    @click.option("--debug", is_flag=True)
    @click.pass_obj
    def group(session: Session, debug: bool) -> None:
        session.debug = debug

    @group.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.pass_obj
    def fail(session: Session, as_json: bool) -> None:
        session.console.resumable = Path("runs/r1")
        raise raised

    assert isinstance(group, Root)
    return group


@pytest.mark.parametrize(
    ("raised", "kind", "exit_code", "said"),
    [
        (UnknownNameError("method", "hmp", ["hamp"]), "unknown_name", 2, "did you mean 'hamp'?"),
        (UnknownDeviceError("pi", ["pi4"]), "unknown_device", 3, "did you mean 'pi4'?"),
        (UnknownRegressorError("forst", ["forest"]), "unknown_regressor", 2, "did you mean 'forest'?"),
        (UntrustedError("too unsteady: wait"), "untrusted", 4, "too unsteady: wait"),
        (InfeasibleError("cannot be met: raise it"), "infeasible", 5, "cannot be met: raise it"),
        (OSError(errno.ENOSPC, "No space left", "runs/a.csv"), "disk_full", 1, "writing runs/a.csv: free some"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "disk_full", 1, "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "file", 1, "x: Permission denied"),
        (MemoryError(), "memory", 1, "out of memory"),
        (ZeroDivisionError("by\nzero"), "internal", 1, "ZeroDivisionError: by zero"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "internal", 1, "a pipe to another process broke"),
        (KeyboardInterrupt(), "interrupted", 130, "hwprune search --resume runs/r1"),
        (click.UsageError("no."), "usage", 2, "no"),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(
    raised: BaseException, kind: str, exit_code: int, said: str
) -> None:
    plain = CliRunner().invoke(program(raised), ["fail"])
    assert plain.exit_code == exit_code
    assert plain.stdout == ""
    assert said in plain.stderr
    assert len(plain.stderr.strip().splitlines()) == 1
    assert "Traceback" not in plain.stderr
    as_json = CliRunner().invoke(program(raised), ["fail", "--json"])
    assert as_json.exit_code == exit_code
    error = json.loads(as_json.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, exit_code)
    assert said in error["message"]


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(program(ZeroDivisionError("by zero")), ["--debug", "fail"])
    assert "Traceback" in result.stderr
    assert "raise raised" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch"], "No such command 'serch'"),
        (["search"], "name a PROBLEM.yaml, or --resume RUN"),
        (["search", "x.yaml", "--bugdet", "3"], "No such option"),
        (["search", "x.yaml", "--budget", "0"], "a budget of nothing"),
        (["search", "--resume", "runs/r1", "--budget", "3"], "drop --budget"),
        (["search", "x.yaml", "--resume", "runs/r1"], "drop PROBLEM.yaml"),
        (["export", "runs/r1"], "Missing option '--point'"),
        (["device", "profile", "local", "--set", "seed=1"], "name one"),
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(root, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_every_command_has_help() -> None:
    commands = [[]]
    while commands:
        path = commands.pop()
        command: click.Command = root
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        result = CliRunner().invoke(root, [*path, "--help"])
        assert result.exit_code == 0, path
        assert command.help, path
        if isinstance(command, click.Group):
            commands += [[*path, name] for name in command.commands]


def test_help_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['hwprune', '--help']\n"
        "from hwprune.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'tvm', 'sklearn', 'scipy', 'numpy', 'sqlalchemy', 'matplotlib', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "quickstart" in done.stdout


def test_module_runs_like_the_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hwprune", "config", "check", str(tmp_path / "absent.yaml"), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "config"


def test_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hwprune", "config", "schema"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_with_130_and_the_way_to_go_on() -> None:
    code = (
        "import pathlib, time, click\n"
        "from hwprune.cli.app import root\n"
        "@root.command()\n"
        "@click.pass_obj\n"
        "def wait(session):\n"
        "    session.console.resumable = pathlib.Path('runs/r1')\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "root(['wait'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.strip() == "interrupted; resume with: hwprune search --resume runs/r1"


def test_log_file_keeps_what_quiet_does_not_say(tmp_path: Path) -> None:
    log = tmp_path / "hwprune.log"
    arguments = ["--quiet", "--log-file", str(log), "--home", str(tmp_path / "home"), "device", "list"]
    result = CliRunner().invoke(root, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "INFO hwprune: no devices yet" in log.read_text()


def test_log_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["--log-file", str(tmp_path / "absent" / "a.log"), "device", "list"])
    assert result.exit_code == 1
    assert "a.log: No such file or directory" in result.stderr
