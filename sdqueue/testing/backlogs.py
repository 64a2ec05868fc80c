"""TurnBacklogSuite: what every store must do that keeps turns which wait, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from uuid import uuid4

import pytest

from sdqueue.sessions.lease import StoreAndLock
from sdqueue.sessions.locks.asyncio import AsyncioLockBackend
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.stores.backlog import Deferred, Kept, Standing, TurnBacklog
from sdqueue.sessions.stores.store import SessionStore
from sdqueue.testing.backlog_refusals import RefusedTurnCases, both, refused
from sdqueue.testing.records import HOSTILE_IDS, end

HOSTILE_TURN_IDS = [*HOSTILE_IDS, "", "\x00", "\ud800", "\ud800b", "1", "01", "t/../t", "a\nb", "x" * 400]
"""Turn ids that a store which pastes them into paths, keys or queries takes for something else."""


class TurnBacklogSuite(RefusedTurnCases):
    """Every store with a backlog passes these; derive from it as from ``SessionStoreSuite``, also in one class::

        class TestMyStore(SessionStoreSuite, TurnBacklogSuite):
            @pytest.fixture
            async def store(self, tmp_path):
                ...

    The index of sessions that have a backlog is one for the whole store, so give a shared one a namespace for
    each test.
    """

    async def reopen(self, store: SessionStore) -> SessionStore:
        """Another store object on the same data, as another process has it; whoever makes it closes it."""
        return store

    @pytest.fixture
    def session_id(self) -> str:
        """A session that nobody else has."""
        return f"suite-{uuid4().hex}"

    # Order

    async def test_turns_come_back_in_order(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        assert await backlog.deferred(session_id, count=10) == []
        bodies = [b"", bytes(range(256)), b"\xff\x00\xff", b"x" * 100_000, "ünï\n".encode()]
        turns = [Deferred(f"t{n}", body) for n, body in enumerate(bodies)]
        assert await backlog.defer(session_id, turns[:3], limit=10) == [Kept.ADDED] * 3
        assert await backlog.defer(session_id, turns[3:], limit=10) == [Kept.ADDED] * 2
        found = await backlog.deferred(session_id, count=10)
        assert [(turn.turn_id, turn.body) for turn in found] == [(turn.turn_id, turn.body) for turn in turns]
        _check_positions(found)

    async def test_they_come_in_parts(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        await put(backlog, session_id, *(f"t{n:02}" for n in range(12)))
        assert await backlog.deferred(session_id, count=0) == []
        found: list[Deferred] = []
        while part := await backlog.deferred(session_id, after=found[-1].position if found else 0, count=5):
            assert len(part) <= 5
            found += part
        assert [turn.turn_id for turn in found] == [f"t{n:02}" for n in range(12)]
        assert await backlog.deferred(session_id, after=found[6].position, count=2) == found[7:9]

    async def test_a_turn_waits_once(self, store: SessionStore, session_id: str) -> None:
        """A repeat is welcome, is told apart, and changes nothing: neither its place nor what is kept of it."""
        backlog = both(store)
        await put(backlog, session_id, "a", "b")
        first = await backlog.deferred(session_id, count=10)
        again = [Deferred("b", b"other"), Deferred("c", b"one"), Deferred("a", b"other"), Deferred("c", b"two")]
        there, added = Kept.THERE, Kept.ADDED
        assert await backlog.defer(session_id, again, limit=10) == [there, added, there, there]
        found = await backlog.deferred(session_id, count=10)
        assert found[:2] == first
        assert [(turn.turn_id, turn.body) for turn in found[2:]] == [("c", b"one")]

    async def test_nothing_to_defer_is_nothing(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        assert await backlog.defer(session_id, [], limit=10) == []
        assert await waiting(backlog, session_id) == []
        assert await backlog.backlogged() == {}

    async def test_turns_are_taken_out(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        await put(backlog, session_id, "a", "b", "c", "d")
        await backlog.undefer(session_id, ["b", "unknown", "d"])
        assert await waiting(backlog, session_id) == ["a", "c"]
        await backlog.undefer(session_id, ["b"])
        await backlog.undefer(session_id, [])
        await backlog.undefer(f"{session_id}-other", ["a"])
        assert await waiting(backlog, session_id) == ["a", "c"]
        await put(backlog, session_id, "b")
        assert await waiting(backlog, session_id) == ["a", "c", "b"]

    async def test_no_position_is_given_twice(self, store: SessionStore, session_id: str) -> None:
        """Who reads on from the last position that it knows must not miss a turn, whatever happened in between."""
        backlog = both(store)
        last = 0
        for n in range(4):
            await put(await self._other(store), session_id, f"t{n}")
            (turn,) = await backlog.deferred(session_id, after=last, count=10)
            assert turn.position > last
            last = turn.position
            await backlog.undefer(session_id, [turn.turn_id])
            if n == 2:
                await store.delete(session_id)

    # The limit

    async def test_no_more_wait_than_the_limit(self, store: SessionStore, session_id: str) -> None:
        """Those that fit are taken, the others are not; a turn that waits already is none in excess."""
        backlog = both(store)
        turns = [Deferred(name, b"") for name in "abcd"]
        assert await backlog.defer(session_id, turns, limit=3) == [*[Kept.ADDED] * 3, Kept.LEFT_OUT]
        more = [Deferred(name, b"") for name in "xbc"]
        assert await backlog.defer(session_id, more, limit=3) == [Kept.LEFT_OUT, Kept.THERE, Kept.THERE]
        assert await backlog.defer(session_id, more, limit=0) == [Kept.LEFT_OUT, Kept.THERE, Kept.THERE]
        assert await waiting(backlog, session_id) == ["a", "b", "c"]
        await backlog.undefer(session_id, ["a"])
        assert await backlog.defer(session_id, more, limit=3) == [Kept.ADDED, Kept.THERE, Kept.THERE]
        assert await waiting(backlog, session_id) == ["b", "c", "x"]

    async def test_many_who_defer_at_once(self, store: SessionStore, session_id: str) -> None:
        """Eight tasks with two openings append five times two turns: each one's order holds, and so does the limit."""
        backlog = both(store)
        sides = [backlog, await self._other(store)]

        async def append(writer: int) -> list[Kept]:
            kept: list[Kept] = []
            for n in range(5):
                turns = [Deferred(f"{writer}.{n}.{half}", b"") for half in "ab"]
                kept += await sides[writer % 2].defer(session_id, turns, limit=70)
            return kept

        kept = await asyncio.gather(*(append(writer) for writer in range(8)))
        found = await backlog.deferred(session_id, count=100)
        _check_positions(found)
        assert [len(found), sum(map(sum, kept))] == [70, 70]
        for writer in range(8):
            names = [f"{writer}.{n}.{half}" for n in range(5) for half in "ab"]
            mine = [name for name, waits in zip(names, kept[writer], strict=True) if waits]
            assert [turn.turn_id for turn in found if turn.turn_id.startswith(f"{writer}.")] == mine

    # What is known of a session

    async def test_a_backlog_has_a_standing(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        assert await backlog.standing(session_id, "a") == Standing(0, None)
        await put(backlog, session_id, "a", "b", "c")
        assert await backlog.standing(session_id, "a") == Standing(3, None)
        assert await backlog.standing(session_id, "unknown") == Standing(3, None)
        assert await backlog.standing(f"{session_id}-other", "a") == Standing(0, None)
        await backlog.undefer(session_id, ["a", "b"])
        assert await backlog.standing(session_id, "a") == Standing(1, None)
        await backlog.undefer(session_id, ["c"])
        assert await backlog.standing(session_id, "a") == Standing(0, None)

    async def test_a_lease_knows_the_standing_of_its_turn(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        leasing = StoreAndLock(store, AsyncioLockBackend())
        await put(backlog, session_id, "a", "b")
        kept = await refused(backlog, session_id, "x")
        for turn_id, standing in (("a", Standing(2)), ("x", Standing(2, kept)), (None, Standing())):
            async with leasing.lease(session_id, turn_id=turn_id) as lease:
                assert Standing(lease.waiting, lease.refusal) == standing

    async def test_a_record_and_a_backlog_are_two_things(self, store: SessionStore, session_id: str) -> None:
        """Neither a save nor the end of a turn touches the backlog, and nothing of the backlog the record."""
        backlog = both(store)
        await put(backlog, session_id, "t", "u")
        kept = await refused(backlog, session_id, "x")
        assert await store.load(session_id) is None
        record = SessionRecord()
        end(record, "t", "reply")
        await store.save(session_id, record)
        assert await backlog.standing(session_id, "x") == Standing(2, kept)
        await backlog.undefer(session_id, ["t"])
        await put(backlog, session_id, "v")
        loaded = await store.load(session_id)
        assert loaded == record
        assert loaded is not None
        assert loaded.stored == record.stored
        end(loaded, "u", "reply")
        await store.save(session_id, loaded)
        assert await waiting(backlog, session_id) == ["u", "v"]

    async def test_another_opening_sees_the_same_backlog(self, store: SessionStore, session_id: str) -> None:
        backlog, other = both(store), await self._other(store)
        await put(backlog, session_id, "a", "b")
        assert await other.deferred(session_id, count=10) == await backlog.deferred(session_id, count=10)
        assert await other.standing(session_id, "a") == Standing(2)
        assert await other.backlogged() == await backlog.backlogged()
        await other.undefer(session_id, ["a"])
        await put(other, session_id, "c")
        assert await waiting(backlog, session_id) == ["b", "c"]

    @pytest.mark.parametrize("name", HOSTILE_TURN_IDS, ids=lambda name: ascii(name)[1:25])
    async def test_hostile_turn_ids_are_just_ids(self, store: SessionStore, session_id: str, name: str) -> None:
        backlog = both(store)
        await put(backlog, session_id, "before", name, "after")
        assert await waiting(backlog, session_id) == ["before", name, "after"]
        await backlog.undefer(session_id, [name])
        assert await waiting(backlog, session_id) == ["before", "after"]
        kept = await refused(backlog, session_id, name)
        assert kept.turn_id == name
        assert await backlog.standing(session_id, name) == Standing(2, kept)
        assert await backlog.standing(session_id, "other") == Standing(2)

    async def test_backlogs_do_not_mix(self, store: SessionStore) -> None:
        """Session ids that look alike, or like paths, keys or patterns, are all different sessions."""
        backlog = both(store)
        names = [*HOSTILE_IDS, "\ud800", "\ud801"]
        for number, name in enumerate(names):
            assert all(await backlog.defer(name, [Deferred("t", str(number).encode())], limit=1))
        assert set(await backlog.backlogged()) == set(names)
        for name in names[::2]:
            await store.delete(name)
        for number, name in enumerate(names):
            found = await backlog.deferred(name, count=10)
            assert [turn.body for turn in found] == ([str(number).encode()] if number % 2 else [])
        assert set(await backlog.backlogged()) == set(names[1::2])

    async def test_a_delete_takes_everything(self, store: SessionStore, session_id: str) -> None:
        """With a record or without: turns, refusals and the listing."""
        backlog = both(store)
        for saved in (False, True):
            await put(backlog, session_id, "a")
            await refused(backlog, session_id, "x")
            if saved:
                await store.save(session_id, SessionRecord())
            await store.delete(session_id)
            assert await waiting(backlog, session_id) == []
            assert await backlog.standing(session_id, "x") == Standing()
            assert await backlog.backlogged() == {}
        await put(backlog, session_id, "a", "x")
        assert await waiting(backlog, session_id) == ["a", "x"]

    # The list of sessions

    async def test_sessions_with_a_backlog_are_listed(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        assert await backlog.backlogged() == {}
        await put(backlog, session_id, "a")
        await put(backlog, f"{session_id}-other", "a")
        listed = await backlog.backlogged()
        assert set(listed) == {session_id, f"{session_id}-other"}
        await backlog.unlist(session_id, listed[session_id])
        await backlog.unlist(session_id, listed[session_id])
        await backlog.unlist("unknown", "mark")
        assert await backlog.backlogged() == {f"{session_id}-other": listed[f"{session_id}-other"]}
        assert await waiting(backlog, session_id) == ["a"]

    async def test_a_listing_anew_has_another_mark(self, store: SessionStore, session_id: str) -> None:
        """Also where all turns wait already: who appended them may have died before it listed them."""
        backlog = both(store)
        marks: list[str] = []
        for again in (put(backlog, session_id, "a"), put(backlog, session_id, "a"), backlog.enlist(session_id)):
            await again
            listed = await backlog.backlogged()
            for stale in marks:
                await backlog.unlist(session_id, stale)
            assert await backlog.backlogged() == listed
            marks.append(listed[session_id])
        assert len(set(marks)) == 3
        await backlog.unlist(session_id, marks[-1])
        assert await backlog.backlogged() == {}
        await put(backlog, session_id, "a")
        assert set(await backlog.backlogged()) == {session_id}

    async def test_a_session_without_a_backlog_may_be_listed(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        await backlog.enlist(session_id)
        listed = await backlog.backlogged()
        assert set(listed) == {session_id}
        assert await backlog.standing(session_id, "t") == Standing()
        await backlog.unlist(session_id, listed[session_id])
        assert await backlog.backlogged() == {}

    async def test_thousands_of_sessions_are_listed(self, store: SessionStore, session_id: str) -> None:
        backlog = both(store)
        names = [f"{session_id}-{n}" for n in range(2_500)]
        for start in range(0, len(names), 100):
            await asyncio.gather(*(backlog.enlist(name) for name in names[start : start + 100]))
        assert set(await backlog.backlogged()) == set(names)

    async def test_no_turn_is_left_unlisted(self, store: SessionStore, session_id: str) -> None:
        """One appends twice while another takes out what waits and then takes the session off the list.

        All interleavings; the one that must not happen: A appends and lists, B drains and sees nothing left, A appends
        and lists, B takes the session off: A's second turn waits where nobody looks.
        """
        backlog = both(store)
        orders = set(itertools.permutations("AABBBB"))
        for number, order in enumerate(sorted(orders)):
            name = f"{session_id}-{number}"
            await put(backlog, name, "first")
            appending = [["a"], ["b"]]
            drain = Drain(backlog, name)
            for who in order:
                if who == "A":
                    await put(backlog, name, *appending.pop(0))
                else:
                    await drain.step()
            left = await waiting(backlog, name)
            assert not left or name in await backlog.backlogged(), order

    # Cancellation

    async def test_a_cancelled_append_happens_wholly_or_not(self, store: SessionStore, session_id: str) -> None:
        """It is cancelled after 0, 1, 2 … steps of the event loop; its repeat says so in any case, and lists it."""
        backlog = both(store)
        for steps in range(12):
            name = f"{session_id}-{steps}"
            turns = [Deferred("a", b""), Deferred("b", b"")]
            task = asyncio.create_task(backlog.defer(name, turns, limit=2))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await waiting(backlog, name) in ([], ["a", "b"])
            assert all(await backlog.defer(name, turns, limit=2))
            assert await waiting(backlog, name) == ["a", "b"]
            assert name in await backlog.backlogged()

    async def _other(self, store: SessionStore) -> TurnBacklog:
        return both(await self.reopen(store))


class Drain:
    """Somebody who works a backlog off, step by step."""

    def __init__(self, backlog: TurnBacklog, session_id: str) -> None:
        self._backlog, self._session_id = backlog, session_id
        self._steps = iter((self._read, self._empty, self._look, self._unlist))
        self._mark: str | None = None
        self._left = 0

    async def step(self) -> None:
        """The next one."""
        await next(self._steps)()

    async def _read(self) -> None:
        self._mark = (await self._backlog.backlogged()).get(self._session_id)

    async def _empty(self) -> None:
        await self._backlog.undefer(self._session_id, await waiting(self._backlog, self._session_id))

    async def _look(self) -> None:
        self._left = (await self._backlog.standing(self._session_id, "")).waiting

    async def _unlist(self) -> None:
        if self._mark is not None and not self._left:
            await self._backlog.unlist(self._session_id, self._mark)


async def put(backlog: TurnBacklog, session_id: str, *turn_ids: str) -> None:
    """Append turns, which all must be taken."""
    turns = [Deferred(turn_id, b"{}") for turn_id in turn_ids]
    assert all(await backlog.defer(session_id, turns, limit=10_000))


async def waiting(backlog: TurnBacklog, session_id: str) -> list[str]:
    """The ids of the turns that wait, in order."""
    return [turn.turn_id for turn in await backlog.deferred(session_id, count=10_000)]


def _check_positions(turns: Sequence[Deferred]) -> None:
    positions = [turn.position for turn in turns]
    assert positions == sorted(set(positions))
    assert all(position > 0 for position in positions)
