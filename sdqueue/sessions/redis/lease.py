"""RedisLeasing: a session locked and loaded in one round trip, saved and given back in another."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.redis.keys import LEASE_KEYS, RECORD_KEYS, Keys
from sdqueue.sessions.redis.opening import open_record
from sdqueue.sessions.redis.records import Saving, turn_bytes
from sdqueue.sessions.redis.scripts import ABANDON, COMMIT, LEASE, Script, ScriptRunner
from sdqueue.sessions.ring import TurnOutcome
from sdqueue.sessions.sealing.seal import Sealing
from sdqueue.sessions.stores.sealed_turns import open_refusal
from sdqueue.sessions.stores.store import beginnings

if TYPE_CHECKING:
    from sdqueue.sessions.lease import SessionLease
    from sdqueue.sessions.locks.redis import RedisLockBackend


class RedisLeasing:
    """Takes sessions up whose lock and record are in the same Redis.

    Parameters:
        locks: the lock backend.
        scripts: the store's connections.
        ttl_ms: the life of a session's keys.
        sealing: seals and opens records.
    """

    def __init__(self, locks: RedisLockBackend, scripts: ScriptRunner, ttl_ms: int, sealing: Sealing) -> None:
        self._locks = locks
        self._scripts = scripts
        self._ttl_ms = ttl_ms
        self._sealing = sealing

    def lease(
        self, session_id: str, *, known: Stored | None = None, turn_id: str | None = None
    ) -> AbstractAsyncContextManager[SessionLease]:
        """See :class:`~sdqueue.sessions.lease.Leasing`."""
        return _Lease(self._locks, self._scripts, self._ttl_ms, self._sealing, session_id, known, turn_id)


class _Lease:
    """One use of a session; may be entered once."""

    __slots__ = ("_args", "_holding", "_keys", "_known", "_locks", "_saved", "_scripts", "_sealing", "_ttl_ms", "_turn",
                 "_turn_id", "attempt", "begun", "record", "refusal", "started", "unchanged", "waiting")  # fmt: skip

    def __init__(
        self,
        locks: RedisLockBackend,
        scripts: ScriptRunner,
        ttl_ms: int,
        sealing: Sealing,
        session_id: str,
        known: Stored | None,
        turn_id: str | None,
    ) -> None:
        self._locks = locks
        self._scripts = scripts
        self._ttl_ms = ttl_ms
        self._sealing = sealing
        self._turn_id = turn_id or ""
        self._known = (known or Stored()).revision
        self._turn = b"" if turn_id is None else turn_bytes(turn_id)
        self._holding = locks.holding(session_id)
        self._keys = self._holding.keys[:RECORD_KEYS]
        self._args = (self._holding.name, *locks.lock_args)
        self._saved = False
        self.record: SessionRecord | None = None
        self.unchanged = False
        self.begun = 0
        self.attempt = 0
        self.started = False
        self.waiting = 0
        self.refusal: TurnOutcome | None = None

    async def __aenter__(self) -> SessionLease:
        answer = await self._locks.enter(self._holding, self._take, self._undo, self._scripts)
        _, count, self.waiting, refused, reply = answer
        self.begun, self.attempt = beginnings(count)
        self.unchanged = len(reply) == 1 and reply[0] != b""
        try:
            if refused:
                self.refusal = await open_refusal(self._sealing, self._holding.key, self._turn_id, refused)
            if not self.unchanged:
                self.record = await open_record(self._sealing, self._scripts, self._keys, self._holding.key, reply)
        except BaseException as error:
            await self._locks.leave(self._holding, error, self._undo, self._scripts)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._locks.leave(self._holding, error, None if self._saved else self._undo, self._scripts)

    async def save(self, record: SessionRecord) -> None:
        """See :meth:`~sdqueue.sessions.lease.SessionLease.save`. It releases the lock at once."""
        holding = self._holding
        seal = await self._sealing.writing(holding.key, record.stored)
        saving = Saving.of(holding.key, record, self._ttl_ms, seal=seal)
        # From here on the script itself checks that the lock is held: a cancellation by the watchdog while it runs
        # would leave open whether it was saved.
        self._locks.watchdog.discard(holding)
        answer = await self._commit(saving)
        if answer != b"lost" and not saving.finish(record, answer):
            saving = Saving.of(holding.key, record, self._ttl_ms, seal=seal, whole=True)
            answer = await self._commit(saving)
            if answer != b"lost":
                saving.finish(record, answer)
        if answer == b"lost":
            raise holding.error()
        self._saved = True

    async def _commit(self, saving: Saving) -> bytes:
        answer: bytes = await self._scripts.call(COMMIT, self._keys, (*self._args, *saving.args))
        return answer

    def _take(self, dead: bytes) -> asyncio.Future[Any]:
        args = (*self._args, dead, self._known, self._turn, self._ttl_ms)
        return self._scripts.call(LEASE, self._holding.keys[:LEASE_KEYS], args)

    def _undo(self, taken: bool) -> tuple[Script, Keys, tuple[Any, ...]]:
        return ABANDON, self._keys, (*self._args, self._turn if taken else b"", b"1" if self.started else b"")
