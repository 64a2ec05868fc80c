"""Discarding a letter releases the session that is parked behind its turn, before the letter is gone."""

from __future__ import annotations

import asyncio

import pytest

from sdqueue.brokers import MemoryBroker, Topology
from sdqueue.deadletters import DeadLetters, LetterFilter
from sdqueue.errors import RecordCorrupt, RecordTooNew, StoreUnavailable
from sdqueue.sessions import AsyncioLockBackend, InMemorySessionStore, LockBackend, SessionRecord, SessionStore
from tests.deadletters.office import Office, ids


class Parking:
    """An office whose clerk knows the sessions."""

    def __init__(self, office: Office, store: InMemorySessionStore) -> None:
        self.office = office
        self.store = store
        self.locks = AsyncioLockBackend()
        self.letters = DeadLetters(office.broker, store=store, locks=self.locks)

    async def park(self, session: str, turn_id: str) -> None:
        await self.store.save(session, SessionRecord(parked_by=turn_id))

    async def parked_by(self, session: str) -> str | None:
        record = await self.store.load(session)
        assert record is not None
        return record.parked_by


@pytest.fixture
async def parking() -> Parking:
    broker = MemoryBroker(Topology("parking", partitions=4))
    await broker.__aenter__()
    await broker.apply()
    return Parking(Office(broker, broker), InMemorySessionStore())


async def test_the_session_goes_on_and_others_stay_as_they_are(parking: Parking) -> None:
    for session in ("s1", "s2"):
        await parking.park(session, f"t-{session}")
        await parking.office.bury(f"t-{session}", session)
    await parking.office.bury("other", "s1")
    assert ids((await parking.letters.discard(LetterFilter(names=frozenset({"other"})))).letters) == ["other"]
    assert await parking.parked_by("s1") == "t-s1", "it waits for another turn"

    await parking.letters.discard(LetterFilter(session_id="s1"))
    assert (await parking.parked_by("s1"), await parking.parked_by("s2")) == (None, "t-s2")
    assert list(await parking.store.backlogged()) == ["s1"], "whoever has the partition must look at its backlog"
    assert await parking.office.names() == ["t-s2"]


async def test_a_session_that_cannot_be_released_keeps_its_letter(
    parking: Parking, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parking.park("s", "t1")
    await parking.office.bury("t1")
    for error in (StoreUnavailable("away"), RecordTooNew("newer")):

        async def fail(*_: object, error: Exception = error) -> None:
            raise error

        for method in ("load", "save"):
            with monkeypatch.context() as patch:
                patch.setattr(parking.store, method, fail)
                with pytest.raises(type(error)):
                    await parking.letters.discard(LetterFilter())
            assert await parking.office.names() == ["t1"]
    await parking.letters.discard(LetterFilter())
    assert (await parking.parked_by("s"), await parking.office.names()) == (None, [])


async def test_a_discard_that_is_stopped_after_the_release_may_be_repeated(
    parking: Parking, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parking.park("s", "t1")
    await parking.office.bury("t1")
    save = parking.store.save

    async def save_and_stop(session_id: str, record: SessionRecord) -> None:
        await save(session_id, record)
        raise StoreUnavailable("saved, but nobody was told")

    with monkeypatch.context() as patch:
        patch.setattr(parking.store, "save", save_and_stop)
        with pytest.raises(StoreUnavailable):
            await parking.letters.discard(LetterFilter())
    assert (await parking.parked_by("s"), await parking.office.names()) == (None, ["t1"])
    assert list(await parking.store.backlogged()) == ["s"]
    assert len((await parking.letters.discard(LetterFilter())).letters) == 1


async def test_a_session_that_nobody_can_read_is_no_hindrance(
    parking: Parking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what the turn died of."""

    async def damaged(_: str) -> SessionRecord | None:
        raise RecordCorrupt("no JSON")

    await parking.office.bury("t1", reason="record")
    monkeypatch.setattr(parking.store, "load", damaged)
    assert len((await parking.letters.discard(LetterFilter())).letters) == 1


async def test_a_running_turn_of_a_session_that_is_not_parked_is_not_waited_for(parking: Parking) -> None:
    await parking.store.save("s", SessionRecord())
    await parking.office.bury("t1")
    async with asyncio.timeout(30), parking.locks.acquire("s"):
        assert len((await parking.letters.discard(LetterFilter())).letters) == 1


async def test_replaying_leaves_the_session_parked_until_the_turn_is_answered(parking: Parking) -> None:
    await parking.park("s", "t1")
    await parking.office.bury("t1")
    await parking.letters.replay(LetterFilter())
    assert await parking.parked_by("s") == "t1"


async def test_a_session_is_released_without_a_letter_too(parking: Parking) -> None:
    await parking.park("s", "t1")
    assert not await parking.letters.release("s", "t2")
    assert not await parking.letters.release("nobody", "t1")
    assert not await DeadLetters(parking.office.broker).release("s", "t1"), "it knows no sessions"
    assert await parking.letters.release("s", "t1")
    assert await parking.parked_by("s") is None
    assert not await parking.letters.release("s", "t1")


@pytest.mark.parametrize("given", [{"store": InMemorySessionStore()}, {"locks": AsyncioLockBackend()}])
async def test_a_store_without_locks_is_refused(parking: Parking, given: dict[str, SessionStore | LockBackend]) -> None:
    with pytest.raises(ValueError, match="both store and locks"):
        DeadLetters(parking.office.broker, **given)  # type: ignore[arg-type]  # that is the mistake
