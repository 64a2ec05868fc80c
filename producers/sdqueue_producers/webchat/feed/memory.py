"""MemoryFeed: what visitors see, for a producer in one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Self

from sdqueue_producers.webchat.feed.feed import LARGEST_READ, Draft, Entry, FeedLimits, Mode, Page, Place, continues
from sdqueue_producers.webchat.feed.wakes import Wake, Wakes


@dataclass
class _Log:
    epoch: int
    newest: int = 0
    floor: int = 0
    touched: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)  # by slot, in order
    done: dict[str, None] = field(default_factory=dict)


class MemoryFeed:
    """Keeps the logs in this process, for ``memory://``: ingress and egress must be one process then.

    Parameters:
        limits: how much is kept, and for how long.
    """

    def __init__(self, limits: FeedLimits | None = None) -> None:
        self._limits = FeedLimits() if limits is None else limits
        self._wakes = Wakes()
        self._logs: OrderedDict[str, _Log] = OrderedDict()  # the one that was touched last is the last
        self._epoch = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def add(self, session_id: str, draft: Draft) -> bool:
        """See :class:`Feed`."""
        self._expire()
        log = self._logs.get(session_id)
        if log is None:
            self._epoch = max(self._epoch + 1, int(time.time() * 1000))
            log = self._logs[session_id] = _Log(self._epoch)
        if draft.slot in log.done:
            there = log.entries.get(draft.slot)
            if draft.mode is not Mode.EDIT or (there is not None and there.body == draft.body):
                return False
        log.newest += 1
        log.entries.pop(draft.slot, None)
        log.entries[draft.slot] = Entry(Place(log.epoch, log.newest), draft.slot, draft.body)
        if draft.mode is not Mode.GROW:
            log.done.pop(draft.slot, None)
            log.done[draft.slot] = None
        while len(log.entries) > self._limits.entries:
            slot = next(iter(log.entries))
            log.floor = log.entries.pop(slot).place.number
        while len(log.done) > self._limits.slots:
            del log.done[next(iter(log.done))]
        log.touched = time.monotonic()
        self._logs.move_to_end(session_id)
        self._wakes.wake(session_id)
        return True

    async def read(self, session_id: str, after: Place | None) -> Page:
        """See :class:`Feed`."""
        self._expire()
        log = self._logs.get(session_id)
        if log is None:
            return Page((), reset=after is not None)
        reset = after is not None and not continues(after, epoch=log.epoch, newest=log.newest, floor=log.floor)
        entries = log.entries.values()
        found = [entry for entry in entries if after is None or reset or entry.place > after]
        return Page(found[:LARGEST_READ], reset)

    def watch(self, session_id: str) -> AbstractContextManager[Wake]:
        """See :class:`Feed`."""
        return self._wakes.watch(session_id)

    def _expire(self) -> None:
        oldest = time.monotonic() - self._limits.ttl_s
        while self._logs and next(iter(self._logs.values())).touched < oldest:
            self._logs.popitem(last=False)
