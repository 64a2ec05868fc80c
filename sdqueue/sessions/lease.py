"""SessionLease: a session taken up by this process, locked and loaded, until it is saved or given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, runtime_checkable

from sdqueue.sessions.locks.lock import LockBackend
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import TurnOutcome
from sdqueue.sessions.stores.backlog import TurnBacklog
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import RevisionCheck, SessionStore, StartCounter, TurnCounter, beginnings


class SessionLease(Protocol):
    """A session held by this process."""

    record: SessionRecord | None
    """What is stored; ``None`` where there is nothing, and where it is ``unchanged`` and was not read."""
    unchanged: bool
    """Whether the store still has the very state that the caller knows."""
    begun: int
    """How often the turn named at the start was begun without an end, this time included; 0 where none was named."""
    attempt: int
    """The number of this start of the agent on that turn: greater than that of every earlier one, whichever process it
    was in and however it ended; 0 where none was named."""
    started: bool
    """To be set where the agent is started: its beginning counts for the numbers of later ones even if taken back."""
    waiting: int
    """How many turns wait in the backlog, the one named at the start included where it does; 0 where none was named."""
    refusal: TurnOutcome | None
    """How the turn named at the start was refused, where it was."""

    async def save(self, record: SessionRecord) -> None:
        """Store the record, at most once a lease; it may release the lock at once.

        Raises:
            VersionConflict, LockLost, StoreUnavailable, RecordError: see :meth:`SessionStore.save`.
        """
        ...


class Leasing(Protocol):
    """A way to take sessions up."""

    def lease(
        self, session_id: str, *, known: Stored | None = None, turn_id: str | None = None
    ) -> AbstractAsyncContextManager[SessionLease]:
        """Lock and load a session; leaving the block releases it.

        Parameters:
            session_id: the session.
            known: the state that the caller has in memory, where it has one: it is not read again.
            turn_id: count a beginning of this turn. Leaving the block without a save takes it back.

        Raises:
            LockLost, StoreUnavailable, RecordError: on entry or in the block.
        """
        ...


@runtime_checkable
class SupportsLeasing(Protocol):
    """A store that can lock and load in one round trip, together with a lock backend of the same service."""

    def leasing(self, lock_backend: LockBackend) -> Leasing | None:
        """The joint way, or ``None`` where the two do not belong together."""
        ...


class StoreAndLock:
    """Leases from any store and any lock, each asked by itself."""

    def __init__(self, store: SessionStore, lock_backend: LockBackend) -> None:
        self._store = store
        self._locks = lock_backend
        self._check = store if offers(store, RevisionCheck) else None
        self._counter: TurnCounter = store if offers(store, TurnCounter) else _NoCounter()
        self._starts = store if offers(store, StartCounter) else None
        self._backlog = store if offers(store, TurnBacklog) else None

    @asynccontextmanager
    async def lease(
        self, session_id: str, *, known: Stored | None = None, turn_id: str | None = None
    ) -> AsyncIterator[SessionLease]:
        """See :class:`Leasing`."""
        async with self._locks.acquire(session_id):
            lease = _Lease(self._store, session_id)
            if known is not None and self._check is not None:
                lease.unchanged = await self._check.is_current(session_id, known)
            if not lease.unchanged:
                lease.record = record = await self._store.load(session_id)
                lease.unchanged = record is not None and known is not None and known.is_same(record.stored)
            if turn_id is None:
                yield lease
                return
            lease.begun, lease.attempt = beginnings(await self._counter.begin(session_id, turn_id))
            try:
                if self._backlog is not None:
                    standing = await self._backlog.standing(session_id, turn_id)
                    lease.waiting, lease.refusal = standing.waiting, standing.refusal
                yield lease
            except BaseException as error:
                if not lease.saved:
                    await self._rewind_after(error, session_id, turn_id, lease.started)
                raise
            if not lease.saved:
                await self._rewind(session_id, turn_id, lease.started)

    async def _rewind(self, session_id: str, turn_id: str, started: bool) -> None:
        if started and self._starts is not None:
            await self._starts.rewind_started(session_id, turn_id)
        else:
            await self._counter.rewind(session_id, turn_id)

    async def _rewind_after(self, error: BaseException, session_id: str, turn_id: str, started: bool) -> None:
        try:
            await self._rewind(session_id, turn_id, started)
        except Exception as second:  # noqa: BLE001 - told with the error that came first, which is the cause
            error.add_note(f"taking back the beginning of turn {turn_id!r} failed too: {second}")


class _Lease:
    def __init__(self, store: SessionStore, session_id: str) -> None:
        self._store = store
        self._session_id = session_id
        self.record: SessionRecord | None = None
        self.unchanged = False
        self.begun = 0
        self.attempt = 0
        self.started = False
        self.waiting = 0
        self.refusal: TurnOutcome | None = None
        self.saved = False

    async def save(self, record: SessionRecord) -> None:
        await self._store.save(self._session_id, record)
        self.saved = True


class _NoCounter:
    """Stands in for a store that cannot count: every beginning is the first."""

    async def begin(self, session_id: str, turn_id: str) -> int:
        return 1

    async def rewind(self, session_id: str, turn_id: str) -> None:
        return None


def leasing_for(store: SessionStore, lock_backend: LockBackend) -> Leasing:
    """The best way to take up sessions of this store under this lock."""
    joint = store.leasing(lock_backend) if offers(store, SupportsLeasing) else None
    return joint or StoreAndLock(store, lock_backend)
