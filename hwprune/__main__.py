"""``python -m hwprune``: the command without its script on the path."""

from hwprune.cli import main

main()
