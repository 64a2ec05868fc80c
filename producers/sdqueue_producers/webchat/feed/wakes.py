"""Wakes: tells those who watch a session, in this process, that there may be something to read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Wake:
    """Something that can be waited for, again and again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Let the watcher go on."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next wake, or take one that came meanwhile; false after ``timeout_s`` seconds without any."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Wakes:
    """The watchers of this process, by session."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Wake]] = {}

    @contextmanager
    def watch(self, session_id: str) -> Iterator[Wake]:
        """A wake for the length of a block."""
        wake = Wake()
        self._watchers.setdefault(session_id, set()).add(wake)
        try:
            yield wake
        finally:
            watchers = self._watchers[session_id]
            watchers.discard(wake)
            if not watchers:
                del self._watchers[session_id]

    def wake(self, session_id: str) -> None:
        """Wake those who watch this session."""
        for wake in self._watchers.get(session_id, ()):
            wake.set()

    def wake_all(self) -> None:
        """Wake everybody: something may have been missed."""
        for watchers in self._watchers.values():
            for wake in watchers:
                wake.set()
