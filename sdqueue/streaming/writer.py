"""LogWriter: writes to a log what is said, and never lets anybody wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sdqueue.streaming.log import DeltaLog, LogEntry

MOST_ENTRIES: Final = 256
"""Deltas of one turn that wait to be written; after these the rest of the attempt is left out."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""Characters of all turns together that wait to be written."""

ENDING_TRIES: Final = 3
"""How often the reply that ends a turn is tried to be written."""

PAUSE_S: Final = 0.5
"""Seconds between two tries."""

CLOSE_S: Final = 1.0
"""Seconds that :meth:`LogWriter.aclose` waits for what is still to be written."""


class LogWriter:
    """Writes in the background, the entries of each turn in order and those that wait together.

    A log that is slow or away costs its readers deltas, which the final reply makes good, and costs the turn nothing:
    memory is bounded, and :meth:`written` waits no longer than it is told to.

    Parameters:
        log: where to. Closed by whoever made it.
        on_trouble: told of an append that failed.
    """

    def __init__(self, log: DeltaLog, on_trouble: Callable[[str], None]) -> None:
        self._log = log
        self._on_trouble = on_trouble
        self._lines: dict[tuple[str, str], _Line] = {}
        self._size = 0

    def write(self, session_id: str, turn_id: str, entry: LogEntry) -> None:
        """Let an entry be written soon."""
        key = session_id, turn_id
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
            line.task = asyncio.create_task(self._drain(key, line), name=f"stream log of turn {turn_id}")
        attempt = entry.offset.attempt
        if self._size + len(entry.body) > MOST_BYTES or (len(line.entries) >= MOST_ENTRIES and not entry.offset.is_end):
            line.left_out = attempt
        # What follows a gap would read as if nothing were missing.
        if line.left_out != attempt:
            line.entries.append(entry)
            self._size += len(entry.body)

    async def written(self, session_id: str, turn_id: str, *, timeout: float) -> bool:
        """Wait until nothing of a turn is to be written any more, ``timeout`` seconds at most. Whether that is so."""
        line = self._lines.get((session_id, turn_id))
        if line is None or line.task is None:
            return True
        _, pending = await asyncio.wait({line.task}, timeout=timeout)
        return not pending

    async def aclose(self) -> None:
        """Write what can be written soon, and end."""
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _drain(self, key: tuple[str, str], line: _Line) -> None:
        try:
            while line.entries:
                entries, line.entries = line.entries, []
                try:
                    await self._append(key, line, entries)
                finally:
                    self._size -= sum(len(entry.body) for entry in entries)
        finally:
            self._size -= sum(len(entry.body) for entry in line.entries)
            del self._lines[key]

    async def _append(self, key: tuple[str, str], line: _Line, entries: list[LogEntry]) -> None:
        for number in range(ENDING_TRIES):
            try:
                await self._log.append(*key, entries)
            except Exception as error:  # noqa: BLE001 -- whatever a log fails of, the turn must not
                self._on_trouble(f"{type(error).__name__}: {error}")
            else:
                return
            line.left_out = entries[-1].offset.attempt
            entries = [entry for entry in entries if entry.offset.is_end]
            if not entries or number == ENDING_TRIES - 1:
                return
            await asyncio.sleep(PAUSE_S)


@dataclass(eq=False, slots=True)
class _Line:
    """What is to be written of one turn."""

    entries: list[LogEntry] = field(default_factory=list)
    left_out: int | None = None
    """The attempt whose deltas are written no more, since some of them are missing."""
    task: asyncio.Task[None] | None = None
