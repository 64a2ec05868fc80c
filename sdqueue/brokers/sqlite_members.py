"""Members: the processes that consume from one SQLite database, and how they see each other live and die.

A member holds an ``flock`` on a file of its own. The kernel frees it when the process dies, however it dies, and
keeps it while the process is only stopped. Beside it lies a FIFO: a byte in it means "look into the database".
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from collections.abc import Iterable
from pathlib import Path


class Member:
    """This process among those that consume: a locked file and a FIFO, both gone after :meth:`close`.

    Parameters:
        directory: where the files of all members lie; made where it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_path, self._wake_path = directory / f"{self.name}.lock", directory / f"{self.name}.wake"
        os.mkfifo(self._wake_path, 0o600)
        # Open for writing as well, so that the last ringer's closing is not taken for an end of file.
        self.wake = os.open(self._wake_path, os.O_RDWR | os.O_NONBLOCK)
        # Gets its name when it is locked: a lock file that can be locked by somebody else has no living owner.
        unnamed = directory / f"{self.name}.new"
        self._lock: int | None = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(self._lock_path)
        # A forked child would share the lock and keep it after the death of this process.
        os.register_at_fork(after_in_child=_Release(self))

    def vanished(self) -> bool:
        """Whether its file was removed by somebody, so that others take this process for dead."""
        return not self._lock_path.exists()

    def release(self) -> None:
        """Close the lock, and leave the file; the kernel frees the lock with the last copy of it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Remove the files: everybody may take over what this member has."""
        if self._lock is not None:
            self._lock_path.unlink(missing_ok=True)
            self._wake_path.unlink(missing_ok=True)
            os.close(self.wake)
            self.release()


class _Release:
    """Does not keep its member alive: functions registered for forks can never be taken back."""

    def __init__(self, member: Member) -> None:
        self._member = weakref.ref(member)

    def __call__(self) -> None:
        member = self._member()
        if member is not None:
            member.release()


class Peers:
    """The other members.

    Parameters:
        directory: see :class:`Member`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._locks: dict[str, int] = {}
        self._bells: dict[str, int] = {}

    def ring(self, names: Iterable[str]) -> None:
        """Make members look into the database. One that is dead or asleep is passed over: it will look anyway."""
        for name in names:
            try:
                bell = self._bells.get(name)
                if bell is None:
                    bell = os.open(self._directory / f"{name}.wake", os.O_WRONLY | os.O_NONBLOCK)
                    self._bells[name] = bell
                os.write(bell, b"!")
            except BlockingIOError:
                continue  # a full FIFO has rung already
            except OSError:
                self._close(self._bells, name)  # nobody has it open: the member is dead, which dead() will find

    def dead(self, names: Iterable[str]) -> list[str]:
        """Those that are dead. They stay locked by this process until :meth:`bury` or :meth:`leave`."""
        return [name for name in names if self._is_dead(name)]

    def _is_dead(self, name: str) -> bool:
        lock = self._locks.get(name)
        try:
            if lock is None:
                lock = self._locks[name] = os.open(self._directory / f"{name}.lock", os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def bury(self, name: str) -> None:
        """Remove what a dead member has left."""
        (self._directory / f"{name}.lock").unlink(missing_ok=True)
        (self._directory / f"{name}.wake").unlink(missing_ok=True)
        self.leave(name)

    def leave(self, name: str) -> None:
        """Let go of a member, so that somebody else may find it dead."""
        self._close(self._locks, name)
        self._close(self._bells, name)

    def keep(self, names: set[str]) -> None:
        """Forget all others."""
        for name in (self._locks.keys() | self._bells.keys()) - names:
            self.leave(name)

    def sweep(self, known: set[str]) -> None:
        """Remove files of members that died before or after they were known."""
        for path in self._directory.glob("*.lock"):
            if path.stem not in known:
                if self._is_dead(path.stem):
                    self.bury(path.stem)
                self.leave(path.stem)

    def close(self) -> None:
        """Let go of all."""
        self.keep(set())

    @staticmethod
    def _close(files: dict[str, int], name: str) -> None:
        file = files.pop(name, None)
        if file is not None:
            os.close(file)
