"""The LockBackend protocol: one process at a time works on a session."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Held:
    """A lock that is held.

    Parameters:
        key: the session id.
        token: the fencing token. Of two holders of one key the later one has the larger token.
    """

    key: str
    token: int


@runtime_checkable
class LockBackend(Protocol):
    """Serialises work on a key between tasks, processes or machines.

    Every backend passes ``sdqueue.testing.LockBackendSuite``. Locks are fair (first come, first served among those
    who wait in one process, and for Redis between processes too), are released only by their holder, and leave
    nothing behind. ``acquire`` is not a coroutine: it returns the context manager.
    """

    def acquire(self, key: str) -> AbstractAsyncContextManager[Held]:
        """Hold the lock for the length of an ``async with`` block.

        Raises (on entry or in the block):
            LockLost: it could not be kept; the task in the block is cancelled and the block raises this.
            StoreUnavailable: the lock service cannot be reached.
        """
        ...
