"""SessionWorker: what a caller may rely on, whoever else works on the session and wherever it is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sdqueue.errors import LockLost, VersionConflict
from sdqueue.sessions import (
    AsyncioLockBackend,
    FileLockBackend,
    InMemorySessionStore,
    Retention,
    SessionInit,
    SessionRecord,
    SessionWorker,
    SQLiteSessionStore,
    TurnOutcome,
)
from sdqueue.sessions.lease import StoreAndLock
from tests.sessions.stubs import (
    KINDS,
    LookingStore,
    ModelDown,
    Plain,
    dialog,
    said,
    take,
    take_named,
)


@pytest.fixture
def store() -> LookingStore:
    return LookingStore()


# What is promised of one worker


async def test_a_new_session_is_created_answered_and_kept(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    async with worker.acquire("s") as handle:
        result = await handle.turn("one")
    assert result.text == "1: one"
    assert worker.cache_size == 1
    assert await said(store) == dialog("one")


async def test_a_session_goes_on_after_its_agent_was_dropped(store: LookingStore) -> None:
    built: list[Plain] = []

    def make() -> Plain:
        built.append(Plain())
        return built[-1]

    worker = SessionWorker(agent_factory=make, store=store)
    await take(worker, "one")
    await take(worker, "two")
    assert len(built) == 1
    await worker.close_session("s")
    assert worker.cache_size == 0
    await take(worker, "three")
    assert len(built) == 2
    assert await said(store) == dialog("one", "two", "three")


async def test_sessions_have_agents_of_their_own(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    async with worker.acquire("a") as a, worker.acquire("b") as b:
        assert a.agent is not b.agent
        await a.turn("one")
    assert await said(store, "b") == []


async def test_blocks_of_one_session_come_one_after_another(store: LookingStore) -> None:
    """Those that wait go on with the same agent: what was in memory when they came is not what is there now."""
    built: list[Plain] = []

    def make() -> Plain:
        built.append(Plain())
        return built[-1]

    worker = SessionWorker(agent_factory=make, store=store)
    inside = 0

    async def one(text: str) -> None:
        nonlocal inside
        async with worker.acquire("s") as handle:
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            await handle.turn(text)
            inside -= 1

    texts = [str(n) for n in range(20)]
    await asyncio.gather(*(one(text) for text in texts))
    assert await said(store) == dialog(*texts)
    assert len(built) == 1


def test_exactly_one_factory_is_needed() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        SessionWorker()
    with pytest.raises(ValueError, match="exactly one"):
        SessionWorker(agent_factory=Plain, agent_factory_ctx=lambda init: Plain())


def test_a_negative_number_of_sessions_is_refused() -> None:
    with pytest.raises(ValueError, match="max_sessions is -1"):
        SessionWorker(agent_factory=Plain, max_sessions=-1)


async def test_a_factory_with_context_gets_id_and_metadata_and_is_asked_once(store: LookingStore) -> None:
    inits: list[SessionInit] = []

    def make(init: SessionInit) -> Plain:
        inits.append(init)
        return Plain()

    worker = SessionWorker(agent_factory_ctx=make, store=store)
    shared = {"playbook": {"id": "A"}}
    for _ in range(2):
        async with worker.acquire("s", init=SessionInit("s", shared)) as handle:
            await handle.turn("one")
            handle.session.metadata["playbook"]["id"] = "changed"
    assert inits == [SessionInit("s", {"playbook": {"id": "A"}})]
    assert shared == {"playbook": {"id": "A"}}


async def test_metadata_alone_is_saved_and_nothing_else_is_written(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    await take(worker, "one")
    for value in (1, 1, True):
        async with worker.acquire("s") as handle:
            handle.session.metadata["flag"] = value
    record = await store.load("s")
    assert record is not None
    assert record.metadata["flag"] is True
    assert store.saves == ["s"] * 3


async def test_the_session_shows_the_turn_after_the_block(store: LookingStore) -> None:
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s") as handle:
        await handle.turn("one")
    assert [(m.role, m.content) for m in handle.session.chat_ctx.items] == dialog("one")


async def test_a_factory_that_raises_leaves_the_session_free(store: LookingStore) -> None:
    locks = AsyncioLockBackend()

    def make() -> Plain:
        raise ModelDown("no model")

    worker = SessionWorker(agent_factory=make, store=store, lock_backend=locks)
    with pytest.raises(ModelDown):
        await take(worker, "one")
    assert locks.entries == 0
    assert not worker._in_use
    assert await said(store) is None


# What is kept in memory


async def test_the_least_recently_used_agent_is_dropped_first(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store, max_sessions=2)
    for name in ("a", "b", "a", "c"):
        await take(worker, name, session_id=name)
    assert list(worker._cache) == ["a", "c"]


async def test_an_agent_in_use_is_not_evicted(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store, max_sessions=1)
    async with worker.acquire("s") as handle:
        await handle.turn("one")
        agent = handle.agent
        await take(worker, "x", session_id="a")
        await take(worker, "x", session_id="b")
        await handle.turn("two")
        assert handle.agent is agent
    assert list(worker._cache) == ["s"]
    assert await said(store) == dialog("one", "two")


async def test_close_session_by_another_task_drops_the_agent_when_its_block_ends(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    async with worker.acquire("s") as handle:
        await handle.turn("one")
        await asyncio.create_task(worker.close_session("s"))
    assert worker.cache_size == 0
    assert await said(store) == dialog("one")


async def test_close_session_without_persist_forgets_a_session_wherever_it_is_in_memory(store: LookingStore) -> None:
    """superdialog 0.3: a conversation that has come to its end must not be resumed."""
    here, elsewhere = (SessionWorker(agent_factory=Plain, store=store) for _ in "ab")
    await take(here, "one", "goodbye")
    for worker in (here, elsewhere):
        await take(worker, "one")
        await worker.close_session("s", persist=False)
        assert await said(store) is None
        assert worker.cache_size == 0
    await take(here, "again")
    assert await said(store) == dialog("again")


async def test_close_session_without_persist_inside_the_block_forgets_the_session_with_it(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    await take(worker, "one")
    async with asyncio.timeout(60), worker.acquire("s") as handle:
        await handle.turn("goodbye")
        await worker.close_session("s", persist=False)
    assert await said(store) is None
    assert worker.cache_size == 0
    assert not worker._in_use


async def test_a_block_that_fails_forgets_nothing(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    await take(worker, "one")

    async def close_and_fail() -> None:
        async with worker.acquire("s"):
            await worker.close_session("s", persist=False)
            raise ModelDown

    with pytest.raises(ModelDown):
        await close_and_fail()
    assert await said(store) == dialog("one")


async def test_close_session_without_persist_waits_for_whoever_works_on_the_session(store: LookingStore) -> None:
    """Another worker is in the middle of a turn: it ends, is saved, and is forgotten then."""
    locks = AsyncioLockBackend()
    busy, closing = (SessionWorker(agent_factory=Plain, store=store, lock_backend=locks) for _ in "ab")
    async with busy.acquire("s") as handle:
        forgetting = asyncio.create_task(closing.close_session("s", persist=False))
        await asyncio.sleep(0)
        await handle.turn("one")
    await forgetting
    assert store.saves == ["s"]
    assert await said(store) is None


async def test_close_session_of_an_unknown_session_does_nothing(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    await worker.close_session("s")
    assert not worker._in_use
    assert store.saves == []


async def test_uses_that_overlap_end_well_each_by_itself(store: LookingStore) -> None:
    """The save of a joint lease gives the lock back at once: B comes in before A's block has wholly ended.

    With one mark for both, A's end would take B's away, and B would fail at its own.
    """

    class NoLock:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *error: object) -> None: ...

    class NoLocks:
        def acquire(self, key: str) -> Any:
            return NoLock()

    worker = SessionWorker(agent_factory=Plain, store=store, lock_backend=NoLocks())
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def b() -> None:
        async with worker.acquire("s"):
            inside.set()
            await go_on.wait()

    async with worker.acquire("s") as handle:
        await handle.turn("one")
        other = asyncio.create_task(b())
        await inside.wait()
    go_on.set()
    with pytest.raises(VersionConflict):
        await other  # both took the session for a new one; the later save loses
    assert not worker._in_use
    assert await said(store) == dialog("one")


# Two processes on one session


@pytest.fixture(params=["memory", "sqlite and files"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """Two stores and two locks of the same sessions, as two processes have them."""
    if request.param == "memory":
        memory, lock = InMemorySessionStore(), AsyncioLockBackend()
        yield (memory, lock), (memory, lock)
        return
    one, two = (SQLiteSessionStore(tmp_path / "s.db") for _ in "ab")
    yield (one, FileLockBackend(tmp_path / "locks")), (two, FileLockBackend(tmp_path / "locks"))
    await one.aclose()
    await two.aclose()


@pytest.mark.parametrize("agent", KINDS)
async def test_two_workers_in_turn_lose_nothing(agent: Any, pair: Any) -> None:
    workers = [SessionWorker(agent_factory=agent, store=store, lock_backend=lock) for store, lock in pair]
    texts = [str(n) for n in range(6)]
    for n, text in enumerate(texts):
        await take(workers[n % 2], text)
    assert await said(pair[0][0]) == dialog(*texts)


async def test_two_workers_at_once_lose_nothing(pair: Any) -> None:
    workers = [SessionWorker(agent_factory=Plain, store=store, lock_backend=lock) for store, lock in pair]
    await asyncio.gather(*(take(workers[n % 2], f"{n}") for n in range(10)))
    record = await pair[0][0].load("s")
    items = record.chat_ctx.items
    assert sorted(m.content for m in items[::2]) == [str(n) for n in range(10)]
    assert [m.content for m in items[1::2]] == [f"{n}: {m.content}" for n, m in enumerate(items[::2], 1)]
    assert record.version == 10


async def test_a_stale_writer_gets_version_conflict_and_changes_nothing(store: LookingStore) -> None:
    """A holds a lock that is worth nothing (it was paused past its life); B takes a turn meanwhile."""
    a, b = (SessionWorker(agent_factory=Plain, store=store) for _ in "ab")
    await take(a, "one")

    async def slow() -> None:
        async with a.acquire("s") as handle:
            await handle.turn("stale")
            await take(b, "two")

    with pytest.raises(VersionConflict):
        await slow()
    assert a.cache_size == 0
    await take(a, "three")
    assert await said(store) == dialog("one", "two", "three")


@pytest.mark.parametrize("agent", KINDS)
async def test_a_deleted_conversation_does_not_come_back(agent: Any, pair: Any) -> None:
    """A answers, the session is deleted, B answers and comes to A's version, A answers: with B's conversation only."""
    a, b = (SessionWorker(agent_factory=agent, store=store, lock_backend=lock) for store, lock in pair)
    await take(a, "old")
    await pair[1][0].delete("s")
    await take(b, "new")
    await take(a, "more")
    assert await said(pair[0][0]) == dialog("new", "more")
    record = await pair[0][0].load("s")
    assert record.version == 2
    assert (record.agent_state or {"texts": ["new", "more"]})["texts"] == ["new", "more"]
    assert record.flow_state is None or record.flow_state.userdata["texts"] == ["new", "more"]


async def test_a_conversation_deleted_during_a_turn_does_not_come_back(store: LookingStore) -> None:
    """A's lock is worth nothing; while A answers, the session is deleted and B brings it to A's version again."""
    a, b = (SessionWorker(agent_factory=Plain, store=store) for _ in "ab")
    await take(a, "old")

    async def slow() -> None:
        async with a.acquire("s") as handle:
            await handle.turn("stale")
            await store.delete("s")
            await take(b, "new")

    with pytest.raises(VersionConflict, match="deleted and created anew"):
        await slow()
    await take(a, "more")
    assert await said(store) == dialog("new", "more")


async def test_a_session_in_memory_is_read_again_only_where_it_has_changed(tmp_path: Path) -> None:
    """A long conversation must not be read for every turn. B's turn and B's delete are seen all the same."""

    class Counting(SQLiteSessionStore):
        loads = 0

        async def load(self, session_id: str) -> SessionRecord | None:
            self.loads += 1
            return await super().load(session_id)

    mine, other = Counting(tmp_path / "s.db"), SQLiteSessionStore(tmp_path / "s.db")
    a, b = (SessionWorker(agent_factory=Plain, store=store) for store in (mine, other))
    await take(a, "1", "2", "3")
    assert mine.loads == 1
    await take(b, "4")
    await take(a, "5", "6")
    assert mine.loads == 2
    assert await said(other) == dialog(*"123456")
    await other.delete("s")
    await take(a, "1", "2")
    assert mine.loads == 3
    assert await said(other) == dialog(*"12")
    await mine.aclose()
    await other.aclose()


async def test_a_lost_lock_saves_nothing(store: LookingStore) -> None:
    class Losing(AsyncioLockBackend):
        lost = False

        def acquire(self, key: str) -> Any:
            return _Losing(self, super().acquire(key))

    class _Losing:
        def __init__(self, locks: Losing, inner: Any) -> None:
            self.locks, self.inner = locks, inner

        async def __aenter__(self) -> Any:
            return await self.inner.__aenter__()

        async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
            await self.inner.__aexit__(kind, error, trace)
            if isinstance(error, asyncio.CancelledError) and self.locks.lost:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                raise LockLost("renewal failed")

    locks = Losing()
    worker = SessionWorker(agent_factory=Plain, store=store, lock_backend=locks)
    await take(worker, "one")

    async def lose() -> None:
        async with worker.acquire("s") as handle:
            locks.lost = True
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await handle.turn("hang")

    with pytest.raises(LockLost):
        await lose()
    assert await said(store) == dialog("one")
    assert worker.cache_size == 0


# Turns that are remembered and counted


async def test_a_turn_is_recalled_by_another_process(store: LookingStore) -> None:
    outcome = TurnOutcome("t1", 1.0, ('{"text":"hi"}',))
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s", turn_id="t1") as handle:
        assert handle.recall("t1") is None
        handle.seq += 1
        handle.remember(outcome, Retention())
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s", turn_id="t1") as handle:
        assert handle.recall("t1") == outcome
        assert handle.seq == 1


async def test_only_so_many_replies_are_kept_and_all_ids(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    for n in range(5):
        async with worker.acquire("s") as handle:
            handle.remember(TurnOutcome(f"t{n}", float(n), (f"reply {n}",)), Retention(replies=2, ids_s=3.0))
    async with SessionWorker(agent_factory=Plain, store=store).acquire("s") as handle:
        found = [handle.recall(f"t{n}") for n in range(5)]
    assert [o.replies if o else "forgotten" for o in found] == [
        "forgotten",
        None,
        None,
        ("reply 3",),
        ("reply 4",),
    ]


async def test_outcomes_of_a_failed_block_are_not_kept(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    await take(worker, "one")

    async def fail() -> None:
        async with worker.acquire("s") as handle:
            handle.remember(TurnOutcome("t", 1.0, ()), Retention())
            handle.seq += 1
            raise ModelDown

    with pytest.raises(ModelDown):
        await fail()
    async with worker.acquire("s") as handle:
        assert handle.recall("t") is None
        assert handle.seq == 0


async def test_beginnings_are_counted_until_the_turn_ends(store: LookingStore) -> None:
    """A process that dies leaves its beginning behind; one that only fails takes it back."""
    worker = SessionWorker(agent_factory=Plain, store=store)
    assert await store.begin("s", "t") == 1  # a process died here
    for _ in range(2):
        with pytest.raises(ModelDown):
            await take_named(worker, "fail")
    async with worker.acquire("s", turn_id="t") as handle:
        assert handle.begun == 2
        handle.remember(TurnOutcome("t", 1.0, ()), Retention())
    assert await store.begin("s", "t") == 1


async def test_a_block_that_changes_nothing_takes_its_beginning_back(store: LookingStore) -> None:
    worker = SessionWorker(agent_factory=Plain, store=store)
    await take(worker, "one")
    for _ in range(3):
        async with worker.acquire("s", turn_id="t") as handle:
            assert handle.begun == 1


async def test_a_store_that_cannot_count_says_one() -> None:
    class Small:
        def __init__(self) -> None:
            self.inner = InMemorySessionStore()

        async def load(self, session_id: str) -> SessionRecord | None:
            return await self.inner.load(session_id)

        async def save(self, session_id: str, record: SessionRecord) -> None:
            await self.inner.save(session_id, record)

        async def delete(self, session_id: str) -> None:
            await self.inner.delete(session_id)

    worker = SessionWorker(agent_factory=Plain, store=Small())
    for _ in range(2):
        with pytest.raises(ModelDown):
            await take_named(worker, "fail")
    async with worker.acquire("s", turn_id="t") as handle:
        assert handle.begun == 1
        await handle.turn("one")
    assert not isinstance(worker._store, InMemorySessionStore)
    assert isinstance(worker._leasing, StoreAndLock)


async def test_a_wrapped_store_keeps_what_it_offers() -> None:
    """Given a wrapper that passes everything on by ``__getattr__``, then its backlog is seen on every Python."""

    class Wrapper:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    store: Any = Wrapper(InMemorySessionStore())
    worker = SessionWorker(agent_factory=Plain, store=store)
    assert worker.backlog is store
    await store.begin("s", "t")
    async with worker.acquire("s", turn_id="t") as h:
        assert h.begun == 2
