"""MemoryDeltaLog: streamed answers in this process's memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence

from sdqueue.streaming.log import LARGEST_READ, LogEntry, LogLimits
from sdqueue.streaming.offset import BEGINNING, StreamOffset


class MemoryDeltaLog:
    """Keeps streamed answers for the consumers and clients of one process, which share the object.

    Parameters:
        limits: how much is kept, and for how long.
    """

    def __init__(self, limits: LogLimits | None = None) -> None:
        self._limits = LogLimits() if limits is None else limits
        self._logs: OrderedDict[tuple[str, str], _Log] = OrderedDict()  # the one that was touched last is the last
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        self._expire()
        key = session_id, turn_id
        log = self._logs.setdefault(key, _Log())
        for entry in entries:
            log.add(entry, self._limits.entries)
        log.touched = time.monotonic()
        self._logs.move_to_end(key)
        for event in self._waiting.get(key, ()):
            event.set()

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        """See :class:`~sdqueue.streaming.DeltaLog`."""
        key = session_id, turn_id
        deadline = time.monotonic() + wait_s
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            while True:
                event.clear()
                self._expire()
                log = self._logs.get(key)
                found = [] if log is None else [entry for entry in log.entries if entry.offset > after]
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return None if log is None else found[:LARGEST_READ]
                await asyncio.wait({waiting := asyncio.ensure_future(event.wait())}, timeout=left)
                waiting.cancel()
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    async def aclose(self) -> None:
        """Nothing to close; for the symmetry with other logs."""

    def _expire(self) -> None:
        oldest = time.monotonic() - self._limits.ttl_s
        while self._logs and next(iter(self._logs.values())).touched < oldest:
            self._logs.popitem(last=False)


class _Log:
    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.newest = BEGINNING
        self.touched = time.monotonic()

    def add(self, entry: LogEntry, most: int) -> None:
        if entry.offset <= self.newest:
            return
        if entry.offset.attempt != self.newest.attempt and not entry.offset.is_end:
            self.entries.clear()
        self.newest = entry.offset
        self.entries.append(entry)
        del self.entries[:-most]
