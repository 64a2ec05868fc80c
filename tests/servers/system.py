"""Where the programs of a server are and how they are started: on this machine as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path


class System:
    """This machine. ``debian.Debian`` is another release in a folder."""

    place = "local instance"
    """How a run reports a server from here."""

    def find(self, *names: str) -> Path | None:
        """The first of these commands that is installed; servers may be where only root's PATH looks."""
        admin = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/sbin")
        path = os.pathsep.join([os.environ.get("PATH", ""), *admin])
        for name in names:
            found = shutil.which(name, path=path)
            if found:
                return Path(found)
        return None

    def has(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def lacks(self, program: str) -> str:
        """What to say when there is no such program."""
        return f"{program} is not installed"

    def command(self, words: Sequence[str | Path], folder: Path) -> list[str]:
        """The command that starts a program of this system, working in a folder of the machine.

        The process that it starts becomes the program: its id, its end and the signals to it are the program's.
        """
        del folder  # the caller starts it there
        return [str(word) for word in words]


MACHINE = System()
