"""The fourteen defects of superdialog's session layer (0.2.8): each a test that fails with the defect in.

The names start with the number of the defect in the list that this project keeps of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sdqueue.agents import ChatMessage, FlowState
from sdqueue.errors import RecordError, SessionClosed, StoreUnavailable, VersionConflict
from sdqueue.sessions import (
    AsyncioLockBackend,
    InMemorySessionStore,
    NullSessionStore,
    SessionInit,
    SessionRecord,
    SessionWorker,
)
from tests.sessions.stubs import (
    KINDS,
    Durable,
    FailingStore,
    Lazy,
    LookingStore,
    ModelDown,
    NoAssist,
    Plain,
    dialog,
    said,
    take,
)


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


def worker_on(store: Any, agent: Any = Plain, **more: Any) -> SessionWorker:
    return SessionWorker(agent_factory=agent, store=store, **more)


@pytest.mark.parametrize("agent", KINDS)
async def test_01_a_cached_agent_learns_of_turns_taken_elsewhere(agent: Any, store: InMemorySessionStore) -> None:
    """A takes turn 1, B turn 2, A turn 3: with a stale cache A's third would not know of B's second, and lose it."""
    locks = AsyncioLockBackend()
    a, b = (worker_on(store, agent, lock_backend=locks) for _ in "ab")
    await take(a, "one")
    await take(b, "two")
    await take(a, "three")
    assert await said(store) == dialog("one", "two", "three")


async def test_01_an_agent_of_a_deleted_session_does_not_answer_the_next_one_of_that_name(
    store: InMemorySessionStore,
) -> None:
    """Deleted and begun anew elsewhere, the session comes to the very version that A has in memory."""
    a, b = worker_on(store), worker_on(store)
    await take(a, "secret")
    await store.delete("s")
    async with b.acquire("s") as handle:
        await handle.turn("hello")
        await handle.turn("hello?")
    await take(a, "who am I?")
    assert await said(store) == dialog("hello", "hello?", "who am I?")


async def test_02_eviction_writes_nothing() -> None:
    """A has an old state of s in memory, B a newer one in the store; A evicts s."""
    store = LookingStore()
    a, b = worker_on(store, max_sessions=1), worker_on(store)
    await take(a, "one")
    await take(b, "two")
    await take(a, "other", session_id="other")
    assert await said(store) == dialog("one", "two")
    assert store.saves == ["s", "s", "other"]


@pytest.mark.parametrize("agent", KINDS)
async def test_03_acquire_without_a_turn_leaves_the_record(agent: Any, store: InMemorySessionStore) -> None:
    """Given a session with a past, when a new process takes it up and does nothing, then nothing is written."""
    await take(worker_on(store, agent), "one", "two")
    before = await store.load("s")
    async with worker_on(store, agent).acquire("s") as handle:
        assert handle.session.id == "s"
    assert await store.load("s") == before


async def test_03_a_note_on_a_machine_that_is_not_built_yet_leaves_the_past(store: InMemorySessionStore) -> None:
    await take(worker_on(store, Lazy), "one")
    async with worker_on(store, Lazy).acquire("s") as handle:
        handle.assist("be brief")
    assert await said(store) == [*dialog("one"), ("system", "be brief")]
    record = await store.load("s")
    assert record is not None
    assert record.flow_state is not None
    assert record.flow_state.current_node_id == "n1"


@pytest.mark.parametrize("agent", KINDS)
async def test_03_a_worker_that_keeps_no_agents_loses_nothing(agent: Any, store: InMemorySessionStore) -> None:
    worker = worker_on(store, agent, max_sessions=0)
    await take(worker, "one", "two")
    assert await said(store) == dialog("one", "two")
    assert worker.cache_size == 0


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("agent", KINDS)
async def test_04_a_note_after_the_turn_is_kept_and_comes_once(
    agent: Any, restart: bool, store: InMemorySessionStore
) -> None:
    worker = worker_on(store, agent)
    async with worker.acquire("s") as handle:
        await handle.turn("one")
        handle.assist("be brief")
    assert await said(store) == [*dialog("one"), ("system", "be brief")]
    if restart:
        worker = worker_on(store, agent)
    await take(worker, "two")
    assert await said(store) == [*dialog("one"), ("system", "be brief"), *dialog("one", "two")[2:]]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("agent", KINDS)
async def test_04_a_note_in_a_second_block_comes_once(agent: Any, restart: bool, store: InMemorySessionStore) -> None:
    """With one list shared by session and agent it would come twice."""
    worker = worker_on(store, agent)
    await take(worker, "one")
    if restart:
        worker = worker_on(store, agent)
    async with worker.acquire("s") as handle:
        handle.assist("be brief")
    expected = [*dialog("one"), ("system", "be brief")]
    assert await said(store) == expected
    await take(worker, "two")
    assert await said(store) == [*expected, *dialog("one", "two")[2:]]


@pytest.mark.parametrize("text", ["fail", "hang"])
@pytest.mark.parametrize("agent", KINDS)
async def test_05_a_half_turn_is_not_saved_and_its_agent_not_used_again(
    agent: Any, text: str, store: InMemorySessionStore
) -> None:
    worker = worker_on(store, agent)
    await take(worker, "one")
    before = await store.load("s")
    with pytest.raises((ModelDown, TimeoutError)):
        async with asyncio.timeout(0.02):
            await take(worker, text)
    assert await store.load("s") == before
    assert worker.cache_size == 0
    await take(worker, "two")
    assert await said(store) == dialog("one", "two")


@pytest.mark.parametrize("text", ["fail", "hang"])
@pytest.mark.parametrize("agent", KINDS)
async def test_05_a_half_turn_is_not_saved_where_its_error_is_caught_inside_the_block(
    agent: Any, text: str, store: InMemorySessionStore
) -> None:
    """Answering "sorry" inside the block is what a web handler does; turns before and after it in the block count."""
    worker = worker_on(store, agent)
    await take(worker, "one")
    async with worker.acquire("s") as handle:
        await handle.turn("two")
        with pytest.raises((ModelDown, TimeoutError)):
            async with asyncio.timeout(0.02):
                await handle.turn(text)
        await handle.turn("three")
    await take(worker, "four")
    assert await said(store) == dialog("one", "two", "three", "four")
    record = await store.load("s")
    assert record is not None
    if agent is Lazy:
        assert record.flow_state is not None
        assert record.flow_state.userdata == {"texts": ["one", "two", "three", "four"]}
    if agent is Durable:
        assert record.agent_state == {"texts": ["one", "two", "three", "four"]}


@pytest.mark.parametrize("agent", [Lazy, Durable])
async def test_05_a_failed_turn_of_an_agent_in_memory_spoils_nothing_that_is_saved_later(
    agent: Any, store: InMemorySessionStore
) -> None:
    """Agents report the very objects that they go on to change; what was saved of them is still to be saved again."""
    worker = worker_on(store, agent)
    await take(worker, "one")
    before = await store.load("s")
    async with worker.acquire("s") as handle:
        with pytest.raises(ModelDown):
            await handle.turn("fail")
        handle.session.metadata["failed"] = True
    after = await store.load("s")
    assert before is not None
    assert after is not None
    assert after.metadata == {"failed": True}
    assert (after.flow_state, after.agent_state) == (before.flow_state, before.agent_state)


async def test_05_a_block_whose_only_turn_failed_changes_nothing(store: InMemorySessionStore) -> None:
    worker = worker_on(store)
    await take(worker, "one")
    before = await store.load("s")
    async with worker.acquire("s") as handle:
        with pytest.raises(ModelDown):
            await handle.turn("fail")
    assert await store.load("s") == before


@pytest.mark.parametrize("agent", KINDS)
async def test_06_a_stream_read_after_the_block_says_so(agent: Any, store: InMemorySessionStore) -> None:
    async with worker_on(store, agent).acquire("s") as handle:
        stream = await handle.turn("one", stream=True)
    with pytest.raises(SessionClosed, match="inside the acquire block"):
        async for _ in stream:
            pass


async def test_06_barge_in_keeps_what_was_said(store: InMemorySessionStore) -> None:
    async with worker_on(store).acquire("s") as handle:
        async for _ in await handle.turn("one", stream=True):
            break
    assert await said(store) == [("user", "one"), ("assistant", "1: ")]


async def test_06_an_agent_that_ignores_stream_gives_one_piece(store: InMemorySessionStore) -> None:
    async with worker_on(store, NoAssist).acquire("s") as handle:
        chunks = [chunk async for chunk in await handle.turn("one", stream=True)]
    assert [(chunk.text, chunk.done) for chunk in chunks] == [("1: one", True)]
    assert chunks[0].turn is not None
    assert await said(store) == dialog("one")


async def test_07_an_evicted_session_is_nobody_elses_trouble() -> None:
    """Given s in memory and a store that can save no more of s, when other sessions push s out, they go on."""
    store = FailingStore()
    worker = worker_on(store, max_sessions=1)
    await take(worker, "one")
    broken = store.save

    async def refuse_s(session_id: str, record: SessionRecord) -> None:
        if session_id == "s":
            raise StoreUnavailable("s cannot be saved")
        await broken(session_id, record)

    store.save = refuse_s  # type: ignore[method-assign]
    await take(worker, "one", session_id="other")
    assert await said(store, "other") == dialog("one")


async def test_07_a_save_that_would_fail_does_not_hide_the_error_of_the_block() -> None:
    store = FailingStore()
    store.fault = StoreUnavailable("away")
    with pytest.raises(ModelDown):
        await take(worker_on(store), "fail")


async def test_07_a_failing_save_is_seen_and_its_agent_dropped() -> None:
    store = FailingStore()
    worker = worker_on(store)
    await take(worker, "one")
    store.fault = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable, match="away"):
        await take(worker, "lost")
    store.fault = None
    await take(worker, "two")
    assert await said(store) == dialog("one", "two")


async def test_08_version_grows_and_created_at_stays(store: InMemorySessionStore) -> None:
    worker = worker_on(store)
    await take(worker, "one")
    first = await store.load("s")
    await take(worker, "two")
    await take(worker_on(store), "three")
    last = await store.load("s")
    assert first is not None
    assert last is not None
    assert (first.version, last.version) == (1, 3)
    assert last.created_at == first.created_at
    assert last.last_turn_at >= first.last_turn_at


async def test_09_what_was_handed_out_changes_nothing_that_is_stored(store: InMemorySessionStore) -> None:
    """Neither a loaded record nor a handle whose block has ended is connected with the session any more."""
    worker = worker_on(store, Lazy)
    async with worker.acquire("s", init=SessionInit("s", {"plan": {"name": "free"}})) as handle:
        await handle.turn("one")
    before = await store.load("s")
    loaded = await store.load("s")
    assert loaded is not None
    loaded.chat_ctx.append(ChatMessage("user", "smuggled"))
    for metadata in (loaded.metadata, handle.session.metadata):
        metadata["plan"]["name"] = "smuggled"
    handle.session.chat_ctx.append(ChatMessage("user", "smuggled"))
    assert await store.load("s") == before
    await take(worker, "two")
    after = await store.load("s")
    assert after is not None
    assert after.metadata == {"plan": {"name": "free"}}
    assert await said(store) == dialog("one", "two")


async def test_09_a_deleted_session_stays_deleted(store: InMemorySessionStore) -> None:
    worker = worker_on(store)
    await take(worker, "one", "two")
    await store.delete("s")
    assert await said(store) is None
    await take(worker, "again")
    assert await said(store) == dialog("again")


async def test_09_a_session_deleted_during_a_turn_is_not_brought_back(store: InMemorySessionStore) -> None:
    worker = worker_on(store)
    await take(worker, "one")

    async def turn_and_delete() -> None:
        async with worker.acquire("s") as handle:
            await handle.turn("two")
            await store.delete("s")

    with pytest.raises(VersionConflict):
        await turn_and_delete()
    assert await said(store) is None


async def test_10_nothing_is_left_of_a_session_that_nobody_works_on(store: InMemorySessionStore) -> None:
    locks = AsyncioLockBackend()
    worker = worker_on(store, lock_backend=locks, max_sessions=3)
    for n in range(10):
        await take(worker, "one", session_id=f"s{n}")
        await worker.close_session(f"never seen {n}")
    assert locks.entries == 0
    assert worker.cache_size == 3
    assert not worker._in_use


async def test_10_close_session_inside_acquire_ends_at_once(store: InMemorySessionStore) -> None:
    worker = worker_on(store)
    async with asyncio.timeout(60):
        async with worker.acquire("s") as handle:
            await handle.turn("one")
            await worker.close_session("s")
    assert worker.cache_size == 0
    assert await said(store) == dialog("one")


async def test_11_an_agent_that_has_no_position_any_more_clears_the_stored_one(store: InMemorySessionStore) -> None:
    class Leaving(Plain):
        flow_state: FlowState | None = FlowState("start")

        def load_flow_state(self, state: Any) -> None:
            self.flow_state = state

    worker = worker_on(store, Leaving)
    await take(worker, "one")
    async with worker.acquire("s") as handle:
        await handle.turn("two")
        handle.agent.flow_state = None
    record = await store.load("s")
    assert record is not None
    assert record.flow_state is None


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("agent", KINDS)
async def test_11_a_reset_before_the_first_turn_of_a_resumed_agent_holds(
    agent: Any, restart: bool, store: InMemorySessionStore
) -> None:
    worker = worker_on(store, agent)
    await take(worker, "one")
    if restart:
        worker = worker_on(store, agent)
    async with worker.acquire("s") as handle:
        handle.reset()
    assert await said(store) == []
    record = await store.load("s")
    assert record is not None
    assert (record.flow_state, record.agent_state) == (None, None)
    await take(worker, "again")
    assert await said(store) == dialog("again")


async def test_12_a_falsy_store_and_lock_are_used_all_the_same() -> None:
    class FalsyStore(InMemorySessionStore):
        def __len__(self) -> int:
            return 0

    class FalsyLocks(AsyncioLockBackend):
        used = 0

        def __bool__(self) -> bool:
            return False

        def acquire(self, key: str) -> Any:
            self.used += 1
            return super().acquire(key)

    store, locks = FalsyStore(), FalsyLocks()
    await take(worker_on(store, lock_backend=locks), "one")
    assert await said(store) == dialog("one")
    assert locks.used == 1


async def test_13_a_resumed_session_gets_the_init_that_it_was_created_with(store: InMemorySessionStore) -> None:
    inits: list[SessionInit] = []

    def make(init: SessionInit) -> Plain:
        inits.append(init)
        return Plain()

    first = SessionInit("s", {"playbook": "A"})
    for init in (first, SessionInit("s", {"playbook": "B"}), None):
        worker = SessionWorker(agent_factory_ctx=make, store=store)
        async with worker.acquire("s", init=init) as handle:
            await handle.turn("one")
            assert handle.session.metadata == {"playbook": "A"}
    assert inits == [first, first, first]


async def test_13_a_session_created_without_a_turn_keeps_its_init(store: InMemorySessionStore) -> None:
    async with worker_on(store).acquire("s", init=SessionInit("s", {"playbook": "A"})):
        pass
    async with worker_on(store).acquire("s", init=SessionInit("s", {"playbook": "B"})) as handle:
        assert handle.session.metadata == {"playbook": "A"}


async def test_14_with_the_null_store_nothing_is_remembered_after_release() -> None:
    worker = worker_on(NullSessionStore())
    for _ in range(2):
        async with worker.acquire("call") as handle:
            assert handle.agent.chat_ctx.items == []
            await handle.turn("one")
            await handle.turn("two")
            assert len(handle.agent.chat_ctx.items) == 4
        assert worker.cache_size == 0


async def test_records_that_cannot_be_written_are_refused_and_harm_nothing(store: InMemorySessionStore) -> None:
    worker = worker_on(store)
    await take(worker, "one")
    before = await store.load("s")
    with pytest.raises(RecordError):
        async with worker.acquire("s") as handle:
            handle.session.metadata["lock"] = asyncio.Lock()
    assert await store.load("s") == before
    await take(worker, "two")
    assert await said(store) == dialog("one", "two")
