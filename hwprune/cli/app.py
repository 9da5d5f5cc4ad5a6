"""The root command: global options, and where every exception ends as one line and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

import hwprune
from hwprune.cli.compare import compare
from hwprune.cli.config import config
from hwprune.cli.console import close_logging, configure_logging
from hwprune.cli.context import Session
from hwprune.cli.device import device
from hwprune.cli.export import export
from hwprune.cli.failures import INTERRUPTED, RESUMABLE, explain
from hwprune.cli.finetune import finetune
from hwprune.cli.measure import measure
from hwprune.cli.output import emit_json
from hwprune.cli.quickstart import quickstart
from hwprune.cli.report import report
from hwprune.cli.scan import scan
from hwprune.cli.search import search
from hwprune.cli.store import store
from hwprune.cli.train import train

HELP = """Prune convolutional networks for a device, by what was measured on it.

\b
hwprune quickstart                        all of it on this computer, in minutes
hwprune scan mobilenet_v2                 is pruning it worth it here? without data, in minutes
hwprune device add local                  register this computer
hwprune device add pi4 --ssh pi@pi4.local register a board
hwprune device profile local PROBLEM.yaml measure kernels, fit the latency model
hwprune measure MODEL.onnx --device pi4   latency of any network, measured
hwprune search PROBLEM.yaml               find the front of pruned networks
hwprune export runs/RUN --point ID        take one of them home
hwprune compare runs/RUN runs/RUN         fronts of several devices side by side
"""


class Root(click.Group):
    """The group whose every exception is explained instead of shown."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run one command and end the process with its exit code, whatever ``standalone_mode``."""
        arguments = list(sys.argv[1:] if args is None else args)
        session = Session()
        try:
            code = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra, obj=session)
        except (Exception, click.Abort) as error:
            code = _tell(error, session, as_json="--json" in arguments)
        finally:
            close_logging()
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click would end in silence on any broken pipe, and only that of our output is harmless."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RuntimeError("a pipe to another process broke") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of their use."""
        return list(self.commands)


def _tell(error: BaseException, session: Session, as_json: bool) -> int:
    """Say what went wrong, to people and on request to programs; the exit code."""
    failure = explain(error)
    if failure.exit_code in RESUMABLE and session.console.resumable:
        resume = f"resume with: hwprune search --resume {session.console.resumable}"
        failure = replace(failure, message=f"{failure.message}; {resume}")
    if session.debug:
        traceback.print_exception(error)
    if as_json:
        emit_json(failure.as_dict())
    click.echo(failure.message if failure.exit_code == INTERRUPTED else f"error: {failure.message}", err=True)
    return failure.exit_code


@click.group(cls=Root, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(hwprune.__version__, message="%(version)s")
@click.option("-v", "--verbose", count=True, help="Tell details.")
@click.option("-q", "--quiet", is_flag=True, help="Tell warnings and errors only.")
@click.option("--log-file", type=click.Path(dir_okay=False, path_type=Path), help="Append everything to this file.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--home", type=click.Path(file_okay=False), help="Folder of devices, store and artifacts [$HWPRUNE_HOME]."
)
@click.option("--store", "store_url", metavar="URL", help="Database of measurements [$HWPRUNE_STORE].")
@click.pass_obj
def root(
    session: Session,
    verbose: int,
    quiet: bool,
    log_file: Path | None,
    debug: bool,
    home: str | None,
    store_url: str | None,
) -> None:
    """Take the global options."""
    session.start(verbosity=-1 if quiet else 2 if debug else verbose, debug=debug, home=home, store_url=store_url)
    configure_logging(session.verbosity, log_file)
    if session.verbosity < 1:
        # Third parties' warnings are for those who asked for details.
        warnings.simplefilter("ignore")


for command in (quickstart, scan, device, measure, train, search, finetune, report, compare, export, config, store):
    root.add_command(command)
