"""RedisBacklog: the backlogs of sessions in Redis."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sdqueue.errors import RecordCorrupt
from sdqueue.sessions.redis.keys import LEASE_KEYS, KeySpace
from sdqueue.sessions.redis.records import turn_bytes
from sdqueue.sessions.redis.scripts import (
    BACKLOGGED,
    DEFER,
    DEFERRED,
    REFUSE,
    STANDING,
    UNDEFER,
    UNLIST,
    ScriptRunner,
)
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.sealing.seal import Sealing
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred, Kept, Standing
from sdqueue.sessions.stores.sealed_turns import open_refusal, open_turns, seal_refusal, seal_turns


class RedisBacklog:
    """The part of :class:`~sdqueue.RedisSessionStore` that is a :class:`~sdqueue.TurnBacklog`.

    A backlog is in the session's keys and lives as long as they do. The index of sessions that have one is a key of
    the namespace, ``<namespace>:backlogged``: in a cluster it is elsewhere, so that it is written in a second step.
    """

    _keys: KeySpace
    _scripts: ScriptRunner
    _sealing: Sealing
    _ttl_ms: int

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        """See :meth:`TurnBacklog.defer <sdqueue.sessions.stores.backlog.TurnBacklog.defer>`."""
        sealed = await seal_turns(self._sealing, session_id, turns)
        parts = [part for turn in sealed for part in (turn_bytes(turn.turn_id), turn.body)]
        args = (limit, self._ttl_ms, len(turns), *parts)
        kept = [Kept(answer) for answer in await self._scripts.call(DEFER, self._keys.session(session_id), args)]
        # After the turns, so that nobody can find the backlog empty and the session listed for it. Also where all
        # were there already: who appended them may have died before this line.
        if any(kept):
            await self.enlist(session_id)
        return kept

    async def deferred(self, session_id: str, *, after: int = 0, count: int) -> list[Deferred]:
        """See :meth:`TurnBacklog.deferred <sdqueue.sessions.stores.backlog.TurnBacklog.deferred>`."""
        while True:
            turns = await self._deferred(session_id, after, count)
            opened, erased = await open_turns(self._sealing, session_id, turns)
            if not erased:
                return opened
            await self.undefer(session_id, erased)

    async def _deferred(self, session_id: str, after: int, count: int) -> list[Deferred]:
        found = await self._scripts.call(DEFERRED, self._keys.session(session_id), (after, count))
        if any(len(turn) < 3 for turn in found):
            raise RecordCorrupt(
                f"session {session_id!r}: a turn of its backlog has no message; "
                "see whether Redis evicts keys (maxmemory-policy)"
            )
        return [Deferred(_text(turn), body, int(position)) for turn, position, body in found]

    async def undefer(self, session_id: str, turn_ids: Sequence[str]) -> None:
        """See :meth:`TurnBacklog.undefer <sdqueue.sessions.stores.backlog.TurnBacklog.undefer>`."""
        args = (self._ttl_ms, *map(turn_bytes, turn_ids))
        await self._scripts.call(UNDEFER, self._keys.session(session_id), args)

    async def standing(self, session_id: str, turn_id: str) -> Standing:
        """See :meth:`TurnBacklog.standing <sdqueue.sessions.stores.backlog.TurnBacklog.standing>`."""
        keys = self._keys.session(session_id)[:LEASE_KEYS]
        waiting, refused = await self._scripts.call(STANDING, keys, (turn_bytes(turn_id),))
        return Standing(waiting, await open_refusal(self._sealing, session_id, turn_id, refused))

    async def refuse(self, session_id: str, outcome: TurnOutcome, *, retention: Retention) -> TurnOutcome | None:
        """See :meth:`TurnBacklog.refuse <sdqueue.sessions.stores.backlog.TurnBacklog.refuse>`."""
        text = await seal_refusal(self._sealing, session_id, outcome)
        horizon = outcome.at - retention.ids_s
        args = (turn_bytes(outcome.turn_id), repr(outcome.at), text, repr(horizon), REFUSALS, self._ttl_ms)
        kept = await self._scripts.call(REFUSE, self._keys.session(session_id), args)
        if kept is None:
            return None
        return await open_refusal(self._sealing, session_id, outcome.turn_id, kept) or outcome

    async def backlogged(self) -> dict[str, str]:
        """See :meth:`TurnBacklog.backlogged <sdqueue.sessions.stores.backlog.TurnBacklog.backlogged>`."""
        found: dict[str, str] = {}
        cursor = b"0"
        while True:  # in parts, so that a long index keeps nobody waiting
            cursor, part = await self._scripts.call(BACKLOGGED, (self._keys.backlogged,), (cursor,))
            found |= {_text(session): mark.decode() for session, mark in zip(part[::2], part[1::2], strict=True)}
            if cursor == b"0":
                return found

    async def enlist(self, session_id: str) -> None:
        """See :meth:`TurnBacklog.enlist <sdqueue.sessions.stores.backlog.TurnBacklog.enlist>`."""
        await self._scripts.command("HSET", self._keys.backlogged, turn_bytes(session_id), secrets.token_hex(8))

    async def unlist(self, session_id: str, mark: str) -> None:
        """See :meth:`TurnBacklog.unlist <sdqueue.sessions.stores.backlog.TurnBacklog.unlist>`."""
        await self._scripts.call(UNLIST, (self._keys.backlogged,), (turn_bytes(session_id), mark.encode()))

    async def _mark(self, session_id: str) -> str | None:
        """The mark of a session that is listed."""
        mark = await self._scripts.command("HGET", self._keys.backlogged, turn_bytes(session_id))
        return None if mark is None else mark.decode()


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
