"""FileLockBackend: one process at a time on a session, among the processes of one machine."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType

from sdqueue.errors import StoreUnavailable
from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.locks.lock import Held

_FIRST_WAIT_S = 0.005
_LONGEST_WAIT_S = 0.05


class FileLockBackend:
    """Serialises the processes of one machine by ``flock`` on a file for each key.

    The kernel frees the lock of a process that dies, at once; there is no time limit and nothing to renew,
    and a stopped process keeps its locks. Tasks of one process are served first come, first served; between
    processes whoever looks first (every 5 to 50 ms) gets it. The directory must be on a local file system.

    Tokens are nanoseconds since 1970, pushed on where that would not grow, so they grow between processes too
    as long as nobody sets the clock back.

    Parameters:
        directory: where the files are, made when it is needed. A file exists while its lock is held, and says
            by which process.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._local = AsyncioLockBackend()
        self._last_token = 0

    @property
    def entries(self) -> int:
        """How many keys this process holds or waits for now; 0 when it does not work."""
        return self._local.entries

    def acquire(self, key: str) -> AbstractAsyncContextManager[Held]:
        """Hold the lock for the length of an ``async with`` block.

        Raises (on entry):
            StoreUnavailable: the directory cannot be used.
        """
        return _Holding(self, key)

    async def aclose(self) -> None:
        """Nothing to close; for the symmetry with other backends."""

    async def take(self, key: str) -> tuple[Held, int]:
        """Wait for the lock and take it; the second value is the file descriptor for :meth:`release`."""
        await self._local.take(key)
        try:
            fd = await self._flock(key)
        except BaseException:
            self._local.release(key)
            raise
        try:
            return Held(key, self._next_token(fd)), fd
        except OSError as error:
            self.release(key, fd)
            raise unusable(self._directory, error) from error

    def release(self, key: str, fd: int) -> None:
        """Give the lock to whoever is next."""
        try:
            drop_flock(self._path(key), fd)
        except OSError as error:
            raise unusable(self._directory, error) from error
        finally:
            self._local.release(key)

    async def _flock(self, key: str) -> int:
        path, wait = self._path(key), _FIRST_WAIT_S
        while True:
            try:
                fd = try_flock(path)
            except OSError as error:
                raise unusable(self._directory, error) from error
            if fd is not None:
                return fd
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT_S)

    def _next_token(self, fd: int) -> int:
        # A file that is there already was left by a holder that died; its token must be passed too.
        left = os.pread(fd, 64, 0).split()
        before = int(left[1]) if len(left) == 2 and left[1].isdigit() else 0
        self._last_token = max(self._last_token + 1, before + 1, time.time_ns())
        os.pwrite(fd, f"{os.getpid():>10} {self._last_token}\n".encode(), 0)
        return self._last_token

    def _path(self, key: str) -> Path:
        return self._directory / f"{safe_name(key)}.lock"


class _Holding:
    """One use of the lock; may be entered once."""

    def __init__(self, backend: FileLockBackend, key: str) -> None:
        self._backend = backend
        self._key = key
        self._fd = -1

    async def __aenter__(self) -> Held:
        held, self._fd = await self._backend.take(self._key)
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.release(self._key, self._fd)


def safe_name(key: str) -> str:
    """A file name for any key: the start of it, for people, and a hash that no other key has.

    Never longer than 110 characters, of ASCII, and unchanged on file systems that ignore case.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{re.sub('[^A-Za-z0-9_-]', '_', key[:45])}-{digest}"


def try_flock(path: Path) -> int | None:
    """Lock the file at this path, made where it is not there; ``None`` while somebody else holds it.

    Raises:
        OSError: the directory cannot be used.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A holder removes its file. Between our open and our flock it may have done so, and a third process
        # may hold a new file of the same name: two holders, unless the lock counts only on the file that is
        # there now.
        if _is_at(fd, path):
            return fd
    except BlockingIOError:
        pass  # held by somebody else
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def drop_flock(path: Path, fd: int) -> None:
    """Remove and unlock a file that :func:`try_flock` locked.

    A child made by fork meanwhile has a copy of the descriptor and so of the lock, but on a file without a name.
    """
    try:
        if _is_at(fd, path):
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def unusable(directory: Path, error: Exception) -> StoreUnavailable:
    """What to say where a directory cannot be used."""
    return StoreUnavailable(
        f"{directory}: {error}; check that it is a directory that this process may write to, with room on the disk"
    )


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
