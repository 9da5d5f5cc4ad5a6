"""What all commands share: global options, the console, the home folder; and options that several of them take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwprune.cli.console import Console

if TYPE_CHECKING:
    from hwprune.experiments.home import Home


class Session:
    """One call of the program.

    Attributes:
        console: messages and progress.
        debug: show tracebacks.
        verbosity: -1 quiet, 0 normal, 1 and more for details.
    """

    def __init__(self) -> None:
        self.console = Console()
        self.debug = False
        self.verbosity = 0
        self._home: str | None = None
        self._store_url: str | None = None

    def start(self, verbosity: int, debug: bool, home: str | None, store_url: str | None) -> None:
        """Take the global options."""
        self.console = Console(quiet=verbosity < 0)
        self.verbosity, self.debug = verbosity, debug
        self._home, self._store_url = home, store_url

    @property
    def home(self) -> Home:
        """Where devices, store and artifacts live."""
        from hwprune.experiments.home import Home

        return Home.find(self._home, self._store_url)


def examples(*commands: str) -> str:
    """The end of a command's help: how it is called."""
    return "\b\n" + "\n".join(["For example:", *(f"  {command}" for command in commands)])


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
runs_option = click.option(
    "--runs",
    "runs_folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder that the run's folder is made in.",
)
overrides_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of the config."
)
scenario_option = click.option(
    "--scenario",
    "scenario_text",
    metavar="LOAD",
    default="burst",
    show_default=True,
    help="What a device is put through meanwhile: burst, sustained:10m, paced:30Hz; +cold behind it empties caches.",
)
pool_option = click.option(
    "--pool", is_flag=True, help="The devices are identical boards: one job, its measuring spread over all of them."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work.",
)
scheduler_option = click.option(
    "--scheduler", metavar="ADDRESS", help="Share it among the workers of a Dask cluster instead: tcp://HOST:PORT."
)
problem_argument = click.argument("problem_path", metavar="PROBLEM.yaml", type=click.Path(path_type=Path))
run_argument = click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
