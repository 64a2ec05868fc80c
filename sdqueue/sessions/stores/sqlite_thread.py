"""SQLiteThread: one SQLite connection on a thread of its own, whose writers share transactions."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from sdqueue.errors import StoreUnavailable

T = TypeVar("T")
Text = str | bytes
"""A string as SQLite takes it, see :func:`to_text`."""

_LARGEST_BATCH: Final = 256
"""So many writers share a transaction: enough to hide the sync, few enough to let other processes in."""


def to_text(value: str) -> Text:
    """A string as SQLite takes it: its texts cannot hold lone surrogates, so such a one is a blob."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def from_blob(value: bytes) -> str:
    """The string of :func:`to_text`, read with a cast to a blob."""
    return value.decode("utf-8", "surrogatepass")


@dataclass(eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    writes: bool
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: Exception | None = None


class SQLiteThread:
    """Runs functions on a connection, outside the event loop.

    What waits at the same time shares one transaction and so one sync to the disk (group commit). Each writer
    has a savepoint of its own: its failure takes nobody with it, and nobody hears of success before the
    commit.

    Parameters:
        path: the database; its directory is made when it is needed.
        schema: statements that create what is missing.
        timeout_s: how long another process's transaction is waited for.
        durable: whether what is committed survives a power cut, for a sync to the disk each time. Without it, it
            survives the death of the process only.
    """

    def __init__(self, path: Path, schema: str, *, timeout_s: float, durable: bool = True) -> None:
        self._path = path
        self._schema = schema
        self._timeout_s = timeout_s
        self._durable = durable
        self._mutex = threading.Lock()
        self._jobs: list[_Job] = []
        self._draining = False
        self._executor: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize[..., SQLiteThread] | None = None
        self._running = threading.Lock()
        """Held by the thread that works: a store that is used again while it closes has two for a moment."""

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on one consistent state of the database.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        result: T = await self._submit(_Job(work, writes=False))
        return result

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in a transaction; returns when it is committed and on the disk.

        A cancelled one happens wholly or not at all. Whatever ``work`` raises undoes it alone.

        Raises:
            StoreUnavailable: the database cannot be used; nothing was changed.
        """
        result: T = await self._submit(_Job(work, writes=True))
        return result

    async def close(self) -> None:
        """Finish what was submitted, then end. Idempotent; a later use opens the database again."""
        with self._mutex:
            executor, self._executor = self._executor, None
        if executor is None:
            return
        closing = executor.submit(self._close)
        executor.shutdown(wait=False)
        await asyncio.wrap_future(closing)

    async def _submit(self, job: _Job) -> Any:
        with self._mutex:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite {self._path.name}")
            self._jobs.append(job)
            if not self._draining:
                self._draining = True
                self._executor.submit(self._drain)
        return await asyncio.wrap_future(job.future)

    def _drain(self) -> None:
        """Run what waits, until nothing does. On the thread."""
        while True:
            with self._mutex:
                batch, self._jobs = self._jobs[:_LARGEST_BATCH], self._jobs[_LARGEST_BATCH:]
                if not batch:
                    self._draining = False
                    return
            # A caller that was cancelled while it waited is dropped here; later ones run to their end.
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            with self._running:
                self._run(batch)
            for job in batch:
                if job.error is not None:
                    job.future.set_exception(job.error)
                else:
                    job.future.set_result(job.result)

    def _run(self, batch: list[_Job]) -> None:
        try:
            connection = self._open()
        except Exception as error:  # noqa: BLE001  # raised again in the tasks that submitted the jobs
            for job in batch:
                job.error = self._explain(error)
            return
        # Reads come first, so that none sees what a failing commit takes back.
        self._transaction(connection, "BEGIN", [job for job in batch if not job.writes])
        self._transaction(connection, "BEGIN IMMEDIATE", [job for job in batch if job.writes])

    def _transaction(self, connection: sqlite3.Connection, begin: str, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            connection.execute(begin)
            for job in jobs:
                connection.execute("SAVEPOINT job")
                try:
                    job.result = job.work(connection)
                except Exception as error:
                    job.error = self._explain(error)
                    if not connection.in_transaction:
                        raise  # a full disk and the like end the whole transaction
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # raised again in the tasks that submitted the jobs
            for job in jobs:
                job.error = job.error or self._explain(error)
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        # Who forgets to close leaves no open file behind; the last to close also merges the log into the
        # file.
        self._finalizer = weakref.finalize(self, connection.close)
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                # Two processes that change the journal mode of a new file at once: one is told "locked"
                # without the wait that the timeout promises.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in self._schema.split(";"):
            connection.execute(statement)
        connection.execute("COMMIT")

    def _close(self) -> None:
        with self._running:
            self._connection = None
            if self._finalizer is not None:
                self._finalizer()

    def _explain(self, error: Exception) -> Exception:
        if not isinstance(error, (sqlite3.Error, OSError)):
            return error
        unavailable = StoreUnavailable(
            f"{self._path}: {error}; check that it is an SQLite database that this process may write to, "
            "with room on the disk, and that no stopped process holds a transaction on it"
        )
        unavailable.__cause__ = error
        return unavailable
