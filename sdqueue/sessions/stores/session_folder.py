"""SessionFolder: the files of sessions in one directory, and how they are written by several processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.locks.file import drop_flock, safe_name, try_flock, unusable


class SessionFolder:
    """Names, locks and writes files.

    Parameters:
        directory: where they are, made when it is needed.
        timeout_s: how long a session's file lock is waited for.
    """

    def __init__(self, directory: str | os.PathLike[str], *, timeout_s: float) -> None:
        self.directory = Path(directory)
        self._timeout_s = timeout_s

    def path(self, session_id: str, kind: str) -> Path:
        """The session's file of this kind."""
        return self.directory / f"{safe_name(session_id)}.{kind}"

    @contextmanager
    def alone(self, session_id: str) -> Iterator[None]:
        """The session's ``flock``, which orders the writers of all processes and of all threads."""
        path, wait = self.path(session_id, "lock"), 0.001
        deadline = time.monotonic() + self._timeout_s
        while (fd := try_flock(path)) is None:
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"session {session_id!r}: another process has held {path} for {self._timeout_s:g} s; "
                    "look for a stopped process that uses this directory"
                )
            time.sleep(wait)
            wait = min(wait * 1.5, 0.02)
        try:
            yield
        finally:
            drop_flock(path, fd)

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """Raise what a file system has against it as StoreUnavailable."""
        try:
            yield
        except OSError as error:
            raise unusable(self.directory, error) from error


def write_whole(path: Path, content: bytes, *, durable: bool) -> None:
    """Put a file in place of the one that is there, so that a reader finds either whole.

    Only for whoever holds the session's ``flock``: one temporary name is enough then, and what a crash has left of it
    is replaced.
    """
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        sync(path.parent)


def sync(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
