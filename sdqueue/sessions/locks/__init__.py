"""Session locks: one process at a time works on a session."""

from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.locks.file import FileLockBackend
from sdqueue.sessions.locks.lock import Held, LockBackend
from sdqueue.sessions.locks.redis import RedisLockBackend

__all__ = ["AsyncioLockBackend", "FileLockBackend", "Held", "LockBackend", "RedisLockBackend"]
