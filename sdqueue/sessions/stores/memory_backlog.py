"""MemoryBacklog: the backlogs of sessions in this process's memory."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.sealing.seal import Sealing
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred, Kept, Standing
from sdqueue.sessions.stores.sealed_turns import open_refusal, open_turns, seal_refusal, seal_turns


class MemoryBacklog:
    """The part of :class:`~sdqueue.InMemorySessionStore` that is a :class:`~sdqueue.TurnBacklog`."""

    _sealing: Sealing

    def __init__(self) -> None:
        self._deferred: dict[str, dict[str, Deferred]] = {}
        self._refused: dict[str, dict[str, tuple[float, str]]] = {}
        self._marks: dict[str, str] = {}
        self._positions: Iterator[int] = itertools.count(1)

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        """See :meth:`TurnBacklog.defer <sdqueue.sessions.stores.backlog.TurnBacklog.defer>`."""
        sealed = await seal_turns(self._sealing, session_id, turns)
        waiting, refused = self._deferred.get(session_id, {}), self._refused.get(session_id, {})
        kept: list[Kept] = []
        for turn in sealed:
            if turn.turn_id in waiting:
                kept.append(Kept.THERE)
            elif turn.turn_id not in refused and len(waiting) < limit:
                waiting[turn.turn_id] = replace(turn, position=next(self._positions))
                kept.append(Kept.ADDED)
            else:
                kept.append(Kept.LEFT_OUT)
        if any(kept):
            self._deferred[session_id] = waiting
            await self.enlist(session_id)
        return kept

    async def deferred(self, session_id: str, *, after: int = 0, count: int) -> list[Deferred]:
        """See :meth:`TurnBacklog.deferred <sdqueue.sessions.stores.backlog.TurnBacklog.deferred>`."""
        while True:
            waiting = self._deferred.get(session_id, {}).values()
            turns = list(itertools.islice((turn for turn in waiting if turn.position > after), count))
            opened, erased = await open_turns(self._sealing, session_id, turns)
            if not erased:
                return opened
            await self.undefer(session_id, erased)

    async def undefer(self, session_id: str, turn_ids: Sequence[str]) -> None:
        """See :meth:`TurnBacklog.undefer <sdqueue.sessions.stores.backlog.TurnBacklog.undefer>`."""
        waiting = self._deferred.get(session_id, {})
        for turn_id in turn_ids:
            waiting.pop(turn_id, None)
        if not waiting:
            self._deferred.pop(session_id, None)

    async def standing(self, session_id: str, turn_id: str) -> Standing:
        """See :meth:`TurnBacklog.standing <sdqueue.sessions.stores.backlog.TurnBacklog.standing>`."""
        waiting = len(self._deferred.get(session_id, ()))
        _, refused = self._refused.get(session_id, {}).get(turn_id, (0.0, None))
        return Standing(waiting, await open_refusal(self._sealing, session_id, turn_id, refused))

    async def refuse(self, session_id: str, outcome: TurnOutcome, *, retention: Retention) -> TurnOutcome | None:
        """See :meth:`TurnBacklog.refuse <sdqueue.sessions.stores.backlog.TurnBacklog.refuse>`."""
        text = await seal_refusal(self._sealing, session_id, outcome)
        turn_id = outcome.turn_id
        if turn_id in self._deferred.get(session_id, ()) or self._has_ended(session_id, turn_id):
            return None
        if turn_id not in self._refused.get(session_id, ()) and self._has_begun(session_id, turn_id):
            return None
        refused = self._refused.setdefault(session_id, {})
        if turn_id in refused:
            return await open_refusal(self._sealing, session_id, turn_id, refused[turn_id][1]) or outcome
        refused[turn_id] = outcome.at, text
        horizon = outcome.at - retention.ids_s
        while len(refused) > REFUSALS or next(iter(refused.values()))[0] < horizon:
            del refused[next(iter(refused))]
        return outcome

    async def backlogged(self) -> dict[str, str]:
        """See :meth:`TurnBacklog.backlogged <sdqueue.sessions.stores.backlog.TurnBacklog.backlogged>`."""
        return dict(self._marks)

    async def enlist(self, session_id: str) -> None:
        """See :meth:`TurnBacklog.enlist <sdqueue.sessions.stores.backlog.TurnBacklog.enlist>`."""
        self._marks[session_id] = secrets.token_hex(8)

    async def unlist(self, session_id: str, mark: str) -> None:
        """See :meth:`TurnBacklog.unlist <sdqueue.sessions.stores.backlog.TurnBacklog.unlist>`."""
        if self._marks.get(session_id) == mark:
            del self._marks[session_id]

    def _has_ended(self, session_id: str, turn_id: str) -> bool:
        """Whether the session's record knows how this turn ended."""
        raise NotImplementedError

    def _has_begun(self, session_id: str, turn_id: str) -> bool:
        """Whether this turn was begun without an end."""
        raise NotImplementedError

    def _forget_backlog(self, session_id: str) -> None:
        for table in (self._deferred, self._refused, self._marks):
            table.pop(session_id, None)
