"""The part of TurnBacklogSuite that is about turns which are refused without having run."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Protocol, cast

import pytest

from sdqueue.errors import RecordError
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores.backlog import REFUSALS, Deferred, Kept, Standing, TurnBacklog
from sdqueue.sessions.stores.offers import offers
from sdqueue.sessions.stores.store import SessionStore, TurnCounter
from sdqueue.testing.records import end

DAY = Retention()


class StoreWithBacklog(SessionStore, TurnBacklog, Protocol):
    """A store of records and of turns that wait."""


class RefusedTurnCases:
    """What a store must do with turns that are refused; run as a part of ``TurnBacklogSuite``."""

    async def reopen(self, store: SessionStore) -> SessionStore:
        """See ``TurnBacklogSuite``."""
        return store

    async def test_the_first_refusal_is_kept(self, store: SessionStore, session_id: str) -> None:
        """Every byte of it: a repeat of the turn gets the same reply, from whichever process."""
        backlog, other = both(store), both(await self.reopen(store))
        outcome = TurnOutcome("t", 1_000.5, ('{"text":"é\\u00e9 🦊"}', "not JSON \ud800"), "dead", "by")
        assert await backlog.refuse(session_id, outcome, retention=DAY) == outcome
        for at in (2_000.0, 2_000_000_000.0):
            later = TurnOutcome("t", at, ("another",), "dead")
            assert await other.refuse(session_id, later, retention=DAY) == outcome
        assert await other.standing(session_id, "t") == Standing(0, outcome)
        assert await other.standing(session_id, "other") == Standing()
        assert await other.standing(f"{session_id}-other", "t") == Standing()

    async def test_a_refusal_needs_no_replies(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        for replies in (None, ()):
            outcome = TurnOutcome(f"t-{replies}", 1_000.0, replies, "dead")
            assert await backlog.refuse(session_id, outcome, retention=DAY) == outcome
            assert (await backlog.standing(session_id, outcome.turn_id)).refusal == outcome

    async def test_of_many_refusals_at_once_one_is_kept(self, store: SessionStore, session_id: str) -> None:
        sides = [both(store), both(await self.reopen(store))]
        outcomes = [TurnOutcome("t", 1_000.0 + n, (f"reply {n}",), "dead") for n in range(10)]
        kept = await asyncio.gather(
            *(sides[n % 2].refuse(session_id, outcome, retention=DAY) for n, outcome in enumerate(outcomes))
        )
        assert kept[0] in outcomes
        assert kept == [kept[0]] * 10

    async def test_a_turn_that_has_ended_is_not_refused(self, store: SessionStore, session_id: str) -> None:
        """With its replies still in the ring, or only its id known."""
        backlog = both(store)
        record = SessionRecord()
        for turn_id in ("id only", "in the ring"):
            end(record, turn_id, "reply", keep=1)
        await store.save(session_id, record)
        for turn_id in ("id only", "in the ring"):
            assert await backlog.refuse(session_id, TurnOutcome(turn_id, 1_000.0), retention=DAY) is None
            assert await backlog.standing(session_id, turn_id) == Standing()
        await refused(backlog, session_id, "new")
        await refused(backlog, f"{session_id}-other", "in the ring")

    async def test_a_turn_that_waits_is_not_refused(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        assert all(await backlog.defer(session_id, [Deferred("t", b"")], limit=1))
        assert await backlog.refuse(session_id, TurnOutcome("t", 1_000.0), retention=DAY) is None
        assert await backlog.standing(session_id, "t") == Standing(1)
        await backlog.undefer(session_id, ["t"])
        await refused(backlog, session_id, "t")

    async def test_a_turn_that_has_begun_is_not_refused(self, store: SessionStore, session_id: str) -> None:
        """Whoever runs it has seen no refusal, and its answer would be the second one. A refusal before that stays."""
        if not offers(store, TurnCounter):
            pytest.skip("the store counts no beginnings")
        backlog = both(store)
        await store.begin(session_id, "t")
        assert await backlog.refuse(session_id, TurnOutcome("t", 1_000.0), retention=DAY) is None
        assert await backlog.standing(session_id, "t") == Standing()
        await store.rewind(session_id, "t")
        outcome = await refused(backlog, session_id, "t")
        await store.begin(session_id, "t")
        assert await backlog.refuse(session_id, TurnOutcome("t", 2_000.0), retention=DAY) == outcome

    async def test_a_refused_turn_does_not_wait(self, store: SessionStore, session_id: str) -> None:
        """Its user was told so already, though there may be room by now."""
        backlog = both(store)
        await refused(backlog, session_id, "b")
        turns = [Deferred(name, b"") for name in "abc"]
        assert await backlog.defer(session_id, turns, limit=2) == [Kept.ADDED, Kept.LEFT_OUT, Kept.ADDED]
        assert [turn.turn_id for turn in await backlog.deferred(session_id, count=10)] == ["a", "c"]
        assert all(await backlog.defer(f"{session_id}-other", [Deferred("b", b"")], limit=2))

    async def test_a_turn_either_waits_or_is_refused(self, store: SessionStore, session_id: str) -> None:
        """Whoever comes first, of two who do both at once: never both, never neither."""
        sides = [both(store), both(await self.reopen(store))]
        for n in range(20):
            turn = f"t{n}"
            refusal, (waits,) = await asyncio.gather(
                sides[n % 2].refuse(session_id, TurnOutcome(turn, 1_000.0), retention=DAY),
                sides[1 - n % 2].defer(session_id, [Deferred(turn, b"")], limit=100),
            )
            assert (refusal is None) == bool(waits)
            assert ((await sides[0].standing(session_id, turn)).refusal is None) == bool(waits)

    async def test_as_many_refusals_are_kept_as_may_come_again(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        outcomes = [TurnOutcome(f"t{n}", 1_000.0 + n, (f"reply {n}",), "dead") for n in range(REFUSALS + 20)]
        for outcome in outcomes:
            assert await backlog.refuse(session_id, outcome, retention=DAY) == outcome
        for outcome in (*outcomes[20 :: REFUSALS // 20], outcomes[-1]):
            assert (await backlog.standing(session_id, outcome.turn_id)).refusal == outcome

    async def test_refusals_outlast_their_retention(self, store: SessionStore, session_id: str) -> None:
        """Old ones may be forgotten when others come, those within the retention may not."""
        backlog = both(store)
        old = await refused(backlog, session_id, "old", at=1_000.0)
        assert await backlog.refuse(session_id, replace(old, turn_id="new", at=1_100.0), retention=Retention(ids_s=100))
        assert (await backlog.standing(session_id, "old")).refusal == old
        await backlog.refuse(session_id, replace(old, turn_id="newer", at=1_200.5), retention=Retention(ids_s=100))
        assert (await backlog.standing(session_id, "newer")).refusal is not None

    @pytest.mark.parametrize("value", [object(), b"bytes", 1], ids=lambda value: type(value).__name__)
    async def test_an_outcome_that_json_cannot_hold_is_refused(
        self, store: SessionStore, session_id: str, value: Any
    ) -> None:
        backlog = both(store)
        with pytest.raises(RecordError, match=session_id):
            await backlog.refuse(session_id, TurnOutcome("t", 1_000.0, (value,)), retention=DAY)
        assert await backlog.standing(session_id, "t") == Standing()


def both(store: Any) -> StoreWithBacklog:
    """The store as both."""
    assert offers(store, TurnBacklog)
    return cast(StoreWithBacklog, store)


async def refused(backlog: TurnBacklog, session_id: str, turn_id: str, *, at: float = 1_000.0) -> TurnOutcome:
    """Refuse a turn, which must be taken as refused; how."""
    outcome = TurnOutcome(turn_id, at, ('{"kind":"error"}',), "dead")
    assert await backlog.refuse(session_id, outcome, retention=DAY) == outcome
    return outcome
