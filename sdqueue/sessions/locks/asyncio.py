"""AsyncioLockBackend: one task at a time on a session, within one process."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from sdqueue.sessions.locks.lock import Held


class AsyncioLockBackend:
    """Serialises the tasks of one event loop, first come, first served.

    A key is in the table exactly as long as somebody holds it; its value are those who wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._tokens = itertools.count(1)

    @property
    def entries(self) -> int:
        """How many keys are held now; 0 when nobody works."""
        return len(self._waiting)

    def acquire(self, key: str) -> AbstractAsyncContextManager[Held]:
        """Hold the lock for the length of an ``async with`` block."""
        return _Holding(self, key)

    async def aclose(self) -> None:
        """Nothing to close; for the symmetry with other backends."""

    async def take(self, key: str) -> Held:
        """Wait for the lock and take it, for whoever builds on this; :meth:`release` gives it back."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
            return Held(key, next(self._tokens))
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Release may have handed the lock over in the same tick in which this task was cancelled: the
            # future is done, and without passing it on nobody would ever hold or release the key again.
            if turn.done() and not turn.cancelled():
                self.release(key)
            elif turn in waiting:  # not where a release has passed over it already
                waiting.remove(turn)
            raise
        return Held(key, next(self._tokens))

    def release(self, key: str) -> None:
        """Give the lock to whoever waits longest, or forget the key."""
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]


class _Holding:
    """One use of the lock; may be entered once."""

    def __init__(self, backend: AsyncioLockBackend, key: str) -> None:
        self._backend = backend
        self._key = key

    async def __aenter__(self) -> Held:
        return await self._backend.take(self._key)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.release(self._key)
