"""Removes the containers of a process that is gone, however it ended: they would outlive it, and no fixture runs after
SIGKILL. It is told their names in advance, and started as a script, so that it needs nothing of this package.

It stands in for Ryuk, testcontainers' own, which is one more image to get, and wants the engine's socket mounted.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache
from typing import IO, Final

GONE_S: Final = 3.0
"""A container that the process asked for with its last breath may appear after its death."""


def bury(name: str) -> None:
    """See that the container of this name is removed when this process is gone."""
    grave = _open()
    grave.write(f"{name}\n".encode())
    grave.flush()


@cache
def _open() -> IO[bytes]:
    # The session of its own keeps Ctrl-C from it; the folder, because tests look for processes that work in theirs.
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    _KEPT.append(process)
    return process.stdin


_KEPT: Final[list[subprocess.Popen[bytes]]] = []


def main() -> None:
    """Read names until the other end of the pipe is gone, then remove what is left of them."""
    names = {line.strip() for line in sys.stdin}
    if not names:
        return
    import docker  # type: ignore[import-untyped]  # slow to import, and needed only now
    from docker.errors import APIError, NotFound  # type: ignore[import-untyped]

    client = docker.from_env()
    deadline = time.monotonic() + GONE_S
    while True:
        for name in names:
            try:
                client.containers.get(name).remove(force=True, v=True)
            except NotFound:
                continue
            except APIError:
                pass  # somebody else is removing it; seen to in the next round
        if time.monotonic() > deadline:
            return
        time.sleep(0.5)


if __name__ == "__main__":
    main()
