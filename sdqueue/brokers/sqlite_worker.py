"""The worker of the SQLite broker: one thread a broker, in which everything that can block happens."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from sdqueue.brokers.sqlite_ledger import Handle, Ledger, Row
from sdqueue.errors import BrokerError, BrokerUnavailable, PublishRejected

logger = logging.getLogger(__name__)

WATCH_S: Final = 0.02
"""How often a process that consumes looks whether another one has died, or has died before it could ring."""

TIDY_S: Final = 5.0
"""How often free pages are looked for."""

RETRY_S: Final = 0.0005
"""Pause before the next try for a lock that another process holds, which is usually one fsync long."""

BACKOFF_S: Final = 0.5
"""Pause after the database has failed, for what has to be done all the same."""

STOP_S: Final = 5.0
"""Longest wait for a locked database when the broker is left. After it, the kernel tells the others."""


class Receiver(Handle, Protocol):
    """A subscription, as the worker calls it in the event loop."""

    def receive(self, rows: list[Row]) -> None:
        """Take claimed messages."""

    def report_lost(self, reason: str) -> None:
        """Take note that somebody else may have them now."""


@dataclass(slots=True, eq=False)
class Job:
    """Something to do in a transaction.

    Parameters:
        work: what; it gets the ledger.
        future: whom to tell; belongs to the event loop.
        durable: tell it only when it is on the disk.
        publishes: it hands over a message, which a full disk rejects.
        lasting: try until it is done. Others fail when the database does.
        watch: look for the dead before it.
        abandoned: nobody waits for it any more; it need not be done.
    """

    work: Callable[[Ledger], Any]
    future: asyncio.Future[Any]
    durable: bool = False
    publishes: bool = False
    lasting: bool = False
    watch: bool = False
    abandoned: bool = False


Outcome: TypeAlias = tuple[Job, Any, Exception | None]


class Worker:
    """Runs jobs in a thread: those that wait at the same time share a transaction, and so an fsync.

    :meth:`submit` and :meth:`stop` are called in the event loop, everything else runs in the thread.

    Parameters:
        ledger: the database; belongs to the thread from now on.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.trouble = ""
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job] = deque()
        self._pending: list[Job] = []
        self._ringing = self._retrying = False
        self._stop_by: float | None = None
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._bell, self._ring_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._next_watch = self._next_tidy = self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="sdqueue-sqlite", daemon=True)
        self._thread.start()

    # In the event loop

    def submit(self, job: Job) -> None:
        """Queue a job; those of one round of the loop reach the thread together."""
        if self._stop_by is not None or self._stopped.done():
            job.future.set_exception(BrokerUnavailable(f"{self._ledger.path}: the broker is closed"))
            # A close that comes late has nobody who waits for it, and then it is no error that it is late.
            job.future.exception()
            return
        self._jobs.append(job)
        if not self._ringing:
            self._ringing = True
            self._loop.call_soon(self._ring)

    async def stop(self) -> None:
        """Do what is queued, and end the thread. Idempotent."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_S
            self._ring()
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _ring(self) -> None:
        self._ringing = False
        if not self._stopped.done():
            os.write(self._ring_fd, b"!")

    def _settle(
        self, outcomes: list[Outcome], claimed: list[tuple[Any, list[Row]]], lost: list[tuple[Any, str]]
    ) -> None:
        for job, result, error in outcomes:
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
        for receiver, rows in claimed:
            receiver.receive(rows)
        for receiver, reason in lost:
            receiver.report_lost(reason)

    def _end(self, error: Exception | None) -> None:
        os.close(self._ring_fd)
        os.close(self._bell)
        reason = f"{self._ledger.path}: the broker is closed" if error is None else f"its worker failed: {error!r}"
        unavailable = BrokerUnavailable(reason)
        left = [*self._pending, *self._jobs]
        self._jobs.clear()
        self._settle([(job, None, unavailable) for job in left], [], [])
        for job in left:
            if not job.future.cancelled():
                job.future.exception()
        if not self._stopped.done():
            self._stopped.set_result(None)

    # In the thread

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            while not self._finished():
                self._wait()
                self._step()
        except Exception as error:
            # A defect in here must reach every caller, or they would wait for ever.
            logger.exception("the worker of %s failed", self._ledger.path)
            failure = error
            self._ledger.lose(f"its worker failed: {error!r}")
            self._tell([], [])
        self._ledger.close()
        self._call(self._end, failure)

    def _finished(self) -> bool:
        if self._stop_by is None:
            return False
        return not (self._jobs or self._pending) or time.monotonic() > self._stop_by

    def _wait(self) -> None:
        if self._jobs and not self._retrying:
            return
        now, ready = time.monotonic(), select.poll()
        ready.register(self._bell, select.POLLIN)
        wake = self._ledger.wake
        if wake is not None:
            ready.register(wake, select.POLLIN)
        pause = None
        if self._retrying:
            pause = self._retry_at - now
            if pause <= RETRY_S:
                time.sleep(max(pause, 0))
                pause = 0.0
        elif self._ledger.hungry():
            pause = 0.0
        elif self._ledger.consuming:
            pause = self._next_watch - now
        for file, _ in ready.poll(None if pause is None else max(pause, 0) * 1000):
            os.read(file, 65536)

    def _step(self) -> None:
        """One transaction, if there is a reason for one."""
        while self._jobs:
            self._pending.append(self._jobs.popleft())
        self._pending = [job for job in self._pending if not job.abandoned]
        try:
            self._transact()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                self.trouble = "another process holds the database's lock, perhaps a stopped one (`fuser` names them)"
                self._retrying, self._retry_at = True, time.monotonic() + RETRY_S
            else:
                self._failed(error, full=code == sqlite3.SQLITE_FULL)
        except (OSError, BrokerError) as error:
            self._failed(error, full=False)
        else:
            self.trouble, self._retrying = "", False

    def _transact(self) -> None:
        ledger, now = self._ledger, time.monotonic()
        dead: list[str] = []
        if not self._pending and not ledger.consuming:
            self._tell([], [])
            return
        ledger.open()
        if now >= self._next_watch or any(job.watch for job in self._pending):
            self._next_watch = now + WATCH_S
            if ledger.vanished():
                ledger.lose(f"{ledger.path}: the file by which others see that this process lives was removed")
                ledger.open()
            dead = ledger.dead()
        if not (self._pending or dead or ledger.stirred()):
            self._tell([], [])
            self._tidy(now)
            return
        outcomes: list[Outcome] = []
        with ledger.transaction(durable=any(job.durable for job in self._pending)):
            if any(job.watch for job in self._pending):
                dead = ledger.dead()
            ledger.reap(dead)
            for job in self._pending:
                try:
                    outcomes.append((job, job.work(ledger), None))
                except BrokerError as error:
                    outcomes.append((job, None, error))
            claimed = ledger.claim()
        self._pending = []
        ledger.bury(dead)
        self._tell(outcomes, claimed)

    def _tell(self, outcomes: list[Outcome], claimed: list[tuple[Handle, list[Row]]]) -> None:
        lost, self._ledger.lost = self._ledger.lost, []
        if outcomes or claimed or lost:
            self._call(self._settle, outcomes, claimed, lost)

    def _tidy(self, now: float) -> None:
        if now >= self._next_tidy:
            self._next_tidy = now + TIDY_S
            self._ledger.tidy()

    def _failed(self, error: Exception, *, full: bool) -> None:
        """Tell those who wait, keep what has to be done; give the subscriptions up unless only space is missing."""
        self._retrying, self._retry_at = True, time.monotonic() + BACKOFF_S
        if full:
            self.trouble = "the disk is full; make room"
        else:
            self.trouble = f"{error}; check the file, its directory and their permissions"
            self._ledger.lose(f"{self._ledger.path}: {error}")
        message = f"{self._ledger.path}: {self.trouble}"
        outcomes: list[Outcome] = []
        for job in self._pending:
            if not job.lasting:
                rejected = PublishRejected(message) if full and job.publishes else BrokerUnavailable(message)
                outcomes.append((job, None, error if isinstance(error, BrokerError) else rejected))
            elif not full:
                outcomes.append((job, None, None))  # its subscription was given up with all it had
        self._pending = [job for job in self._pending if job.lasting and full]
        self._tell(outcomes, [])

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Go on in the event loop. One that was closed without leaving the broker ends the thread."""
        if self._loop.is_closed():
            self._stop_by = 0.0
            return
        self._loop.call_soon_threadsafe(callback, *arguments)
