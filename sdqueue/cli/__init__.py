"""The command line: ``sdqueue``, one file a command."""

from sdqueue.cli.app import main

__all__ = ["main"]
