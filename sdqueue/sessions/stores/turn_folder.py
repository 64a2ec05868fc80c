"""TurnFolder: turns of a session as files, one each, in order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sdqueue.sessions.locks.file import safe_name
from sdqueue.sessions.stores.session_folder import sync

_DIGITS: Final = 20


class Entry(NamedTuple):
    """A file of the folder: its number, and the name made of the turn's id."""

    number: int
    turn: str

    @classmethod
    def of(cls, number: int, turn_id: str) -> Entry:
        """The entry of a turn."""
        return cls(min(max(number, 0), 10**_DIGITS - 1), safe_name(turn_id))

    @classmethod
    def named(cls, name: str) -> Entry:
        """The entry with this file name."""
        return cls(int(name[:_DIGITS]), name[_DIGITS + 1 :])

    def __str__(self) -> str:
        return f"{self.number:0{_DIGITS}}.{self.turn}"


class TurnFolder:
    """A directory that is made with its first turn. Who changes it holds the session's ``flock``; readers need not.

    Parameters:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """All turns, by their numbers."""
        return map(Entry.named, sorted(self._names()))

    def find(self, turn_id: str) -> Entry | None:
        """The turn with this id."""
        end = f".{safe_name(turn_id)}"
        return next((Entry.named(name) for name in self._names() if name.endswith(end)), None)

    def count(self) -> int:
        """How many turns there are."""
        return len(self._names())

    def read(self, entry: Entry) -> bytes | None:
        """What is kept of a turn; ``None`` where it was taken out meanwhile."""
        try:
            return (self.path / str(entry)).read_bytes()
        except FileNotFoundError:
            return None

    def add(self, turns: Sequence[tuple[Entry, bytes]]) -> None:
        """Keep turns; on the disk on return.

        They appear in this order, so what a crash leaves of them is their beginning.
        """
        if not self.path.exists():
            self.path.mkdir()
            sync(self.path.parent)
        for number, (_, content) in enumerate(turns):
            with self._temporary(number).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for number, (entry, _) in enumerate(turns):
            self._temporary(number).replace(self.path / str(entry))
        sync(self.path)

    def remove(self, entries: Iterable[Entry]) -> None:
        """Take turns out, which need not survive a power cut: that they come again does no harm."""
        for entry in entries:
            (self.path / str(entry)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the directory with all that is in it."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.path) if name[_DIGITS : _DIGITS + 1] == "."]
        except FileNotFoundError:
            return []

    def _temporary(self, number: int) -> Path:
        # What a crash has left of such a file is replaced by the next.
        return self.path / f"{number}.tmp"
