"""LogWriter: writes to a log what is said, and never lets anybody wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
"""Seconds that closing waits for what is still to be written."""


class LogWriter:
    """Writes in the background, the entries of each turn in order and those that wait together.

    A log that is slow or away costs its readers deltas, which the final reply makes good, and costs the turn nothing:
    memory is bounded, and nobody waits longer than it wants to.

    Parameters:
        log: where to. Closed by whoever made it.
        on_trouble: told of an append that failed.
    """

    def __init__(self, log: DeltaLog, on_trouble: Callable[[str], None]) -> None:
        self.log = log
        self.on_trouble = on_trouble
        self.size = 0
        """Characters that wait to be written."""
        self.busy: dict[tuple[str, str], LogLine] = {}
        """Lines with something to write."""

    def line(self, session_id: str, turn_id: str) -> LogLine:
        """What writes the entries of a turn; the one that is at it, so that what comes next stands behind."""
        key = session_id, turn_id
        return self.busy.get(key) or LogLine(self, key)

    async def aclose(self) -> None:
        """Write what can be written soon, and end."""
        tasks = [line.task for line in self.busy.values() if line.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class LogLine:
    """Writes the entries of one turn; made by :meth:`LogWriter.line`.

    An attempt of which a delta was left out is written no further: what follows a gap would read as if nothing were
    missing. So whoever writes the deltas of an attempt keeps its line.
    """

    def __init__(self, writer: LogWriter, key: tuple[str, str]) -> None:
        self.task: asyncio.Task[None] | None = None
        self._writer = writer
        self._key = key
        self._entries: list[LogEntry] = []
        self._left_out: int | None = None

    def write(self, entry: LogEntry) -> None:
        """Let an entry be written soon."""
        writer, attempt = self._writer, entry.offset.attempt
        full = len(self._entries) >= MOST_ENTRIES and not entry.offset.is_end
        if full or writer.size + len(entry.body) > MOST_BYTES:
            self._left_out = attempt
        if self._left_out == attempt:
            return
        self._entries.append(entry)
        writer.size += len(entry.body)
        if self.task is None:
            writer.busy[self._key] = self
            self.task = asyncio.create_task(self._drain(), name=f"stream log of turn {self._key[1]}")

    async def written(self, *, timeout: float) -> bool:
        """Wait until nothing is to be written any more, ``timeout`` seconds at most. Whether that is so."""
        if self.task is None:
            return True
        _, pending = await asyncio.wait({self.task}, timeout=timeout)
        return not pending

    async def _drain(self) -> None:
        writer = self._writer
        try:
            while self._entries:
                entries, self._entries = self._entries, []
                try:
                    await self._append(entries)
                finally:
                    writer.size -= sum(len(entry.body) for entry in entries)
        finally:
            writer.size -= sum(len(entry.body) for entry in self._entries)
            self._entries.clear()
            self.task = None
            if writer.busy.get(self._key) is self:
                del writer.busy[self._key]

    async def _append(self, entries: list[LogEntry]) -> None:
        for number in range(ENDING_TRIES):
            try:
                await self._writer.log.append(*self._key, entries)
            except Exception as error:  # noqa: BLE001 -- whatever a log fails of, the turn must not
                self._writer.on_trouble(f"{type(error).__name__}: {error}")
            else:
                return
            deltas = [entry for entry in entries if not entry.offset.is_end]
            if deltas:
                self._leave_out(deltas[-1].offset.attempt)
            entries = [entry for entry in entries if entry.offset.is_end]
            if not entries or number == ENDING_TRIES - 1:
                return
            await asyncio.sleep(PAUSE_S)

    def _leave_out(self, attempt: int) -> None:
        """Write no more of an attempt, what came while its failing append was under way included."""
        self._left_out = attempt
        left = [entry for entry in self._entries if entry.offset.attempt != attempt]
        self._writer.size -= sum(len(entry.body) for entry in self._entries) - sum(len(entry.body) for entry in left)
        self._entries = left
