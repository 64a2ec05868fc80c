"""LoopWatch: sees that the event loop is blocked, and by what."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Self

BEAT_S = 0.25
BLOCKED_S = 1.0
"""A loop that has not moved for so long delays every turn of the process."""


class LoopWatch:
    """Watches the running loop from a thread, for the length of a ``with`` block.

    Parameters:
        on_blocked: called with ``seconds``, ``task`` (the name of the task that holds the loop) and ``stack``; at
            once from the watching thread when a block is noticed, since a loop that stays blocked for ever could
            never say so itself, and then each time the block has doubled.
    """

    def __init__(self, on_blocked: Callable[..., None]) -> None:
        self._on_blocked = on_blocked
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sdqueue-loopwatch", daemon=True)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        self._last = time.monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _watch(self) -> None:
        said = BLOCKED_S
        while not self._ended.wait(BEAT_S):
            blocked = time.monotonic() - self._last
            if blocked < BLOCKED_S:
                said = BLOCKED_S
            elif blocked >= said:
                said = 2 * blocked
                self._tell(blocked)

    def _tell(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        task = asyncio.current_task(self._loop)
        stack = "".join(traceback.format_stack(frame)[-8:]) if frame else ""
        self._on_blocked(seconds=blocked, task=task.get_name() if task else "", stack=stack)
