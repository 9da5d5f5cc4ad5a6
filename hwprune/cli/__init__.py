"""The ``hwprune`` command: one module a noun, no logic; data on standard output, all else on standard error."""


def main() -> None:
    """Entry point of the console script."""
    from hwprune.cli.app import root

    root(prog_name="hwprune")
