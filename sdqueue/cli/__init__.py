"""The command line: ``sdqueue``, one file a command."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run a command; a probe is one that must not take the time that bringing in all the others takes."""
    if sys.argv[1:2] == ["health"]:
        from sdqueue.cli.health import main as run
    else:
        from sdqueue.cli.app import main as run
    run()
