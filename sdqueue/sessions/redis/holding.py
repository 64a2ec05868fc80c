"""Holding: one lock in the hands of one task, from the first attempt until it is given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sdqueue.errors import LockLost
from sdqueue.sessions.redis.keys import Keys

if TYPE_CHECKING:
    from sdqueue.sessions.redis.watchdog import Watchdog


class Holding:
    """A lock that a task holds, or is about to.

    When it is lost the task is cancelled, and the end of its block turns this cancellation, and no other one, into
    :class:`~sdqueue.errors.LockLost`, in the way of :func:`asyncio.timeout`.

    Parameters:
        key: the session id.
        keys: its keys in Redis.
        name: of this one use, ``<owner>:<number>``.
    """

    __slots__ = ("_cancelling", "_reason", "_task", "asking", "key", "keys", "name", "renewed_at")

    def __init__(self, key: str, keys: Keys, name: bytes) -> None:
        self.key = key
        self.keys = keys
        self.name = name
        self.renewed_at = 0.0
        """When the last renewal that succeeded was sent, on the monotonic clock."""
        self.asking = False
        """Whether an attempt is under way that may get it."""
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._reason: str | None = None

    @property
    def lost(self) -> bool:
        """Whether it was lost."""
        return self._reason is not None

    def start(self, watchdog: Watchdog, renewed_at: float) -> None:
        """It is held by the current task now."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.renewed_at = renewed_at
        watchdog.add(self)

    def lose(self, reason: str) -> None:
        """Stop the task in its block."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def error(self) -> LockLost:
        """What the block raises."""
        return LockLost(
            f"the lock of session {self.key!r} was lost while it was held: {self._reason or 'somebody else has it'}; "
            "nothing was saved, so repeat the turn"
        )

    def end(self, watchdog: Watchdog, error: BaseException | None) -> None:
        """It is no longer held.

        Parameters:
            error: what ends the block.

        Raises:
            LockLost: it was lost, and the block ends by that and not by something else.
        """
        watchdog.discard(self)
        if self._reason is None or self._task is None:
            return
        others = self._task.uncancel() > self._cancelling
        if error is None or (isinstance(error, asyncio.CancelledError) and not others):
            raise self.error() from error
