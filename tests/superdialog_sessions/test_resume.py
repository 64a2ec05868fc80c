"""Sessions that go on in another worker, as in another process: both workers on each of our stores."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from superdialog.machine.models import TransitionRecord

from sdqueue import (
    FileSessionStore,
    InMemorySessionStore,
    RecordCorrupt,
    RecordError,
    RedisSessionStore,
    SQLiteSessionStore,
    VersionConflict,
)
from tests.superdialog_sessions.brains import BRAINS, Plain, machine
from tests.superdialog_sessions.conftest import Layer


@pytest.fixture(params=["memory", "file", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> AsyncIterator[Any]:
    opened = {
        "memory": InMemorySessionStore,
        "file": lambda: FileSessionStore(tmp_path),
        "sqlite": lambda: SQLiteSessionStore(tmp_path / "sessions.db"),
        "redis": lambda: RedisSessionStore(request.getfixturevalue("redis_url"), namespace=namespace),
    }[request.param]()
    yield opened
    await opened.aclose()


@pytest.mark.parametrize("max_sessions", [0, 1000])
@pytest.mark.parametrize("brain", BRAINS)
async def test_every_turn_in_a_new_worker(layer: Layer, store: Any, brain: str, max_sessions: int) -> None:
    for n, text in enumerate(("one", "two", "three"), 1):
        worker = layer.SessionWorker(agent_factory=BRAINS[brain], store=store, max_sessions=max_sessions)
        async with worker.acquire("s") as handle:
            assert (await handle.turn(text)).text == f"{n}: {text}"
            handle.session.metadata["turns"] = n
    record = await store.load("s")
    assert [m.content for m in record.chat_ctx.items if m.role == "user"] == ["one", "two", "three"]
    assert record.metadata == {"turns": 3}


async def test_a_machine_gets_its_log_back_as_its_own_objects(layer: Layer, store: Any) -> None:
    """It reads their attributes at the next transition; the dicts that they were stored as have none."""
    worker = layer.SessionWorker(agent_factory=machine, store=store)
    async with worker.acquire("s") as handle:
        await handle.turn("one")
    async with layer.SessionWorker(agent_factory=machine, store=store).acquire("s") as handle:
        await handle.turn("two")
        state = handle.agent.flow_state
    assert all(type(entry) is TransitionRecord for entry in state.transition_log)
    assert [entry.user_message for entry in state.transition_log] == ["one", "two"]
    assert state.userdata == {"last": "two"}


async def test_a_machine_that_is_looked_at_keeps_its_past(layer: Layer, store: Any) -> None:
    """Looked at, then given a note, each in a new worker: a machine that has not answered reports an empty state."""
    for step in ("turn", "look", "note", "look"):
        async with layer.SessionWorker(agent_factory=machine, store=store).acquire("s") as handle:
            if step == "turn":
                await handle.turn("one")
            elif step == "note":
                handle.assist("a VIP")
    record = await store.load("s")
    assert [(m.role, m.content) for m in record.chat_ctx.items] == [
        ("user", "one"), ("assistant", "1: one"), ("system", "a VIP"),
    ]  # fmt: skip
    assert record.flow_state.current_node_id == "n1"
    async with layer.SessionWorker(agent_factory=machine, store=store).acquire("s") as handle:
        assert (await handle.turn("two")).text == "2: two"


async def test_a_log_that_is_no_machines_is_named(store: Any) -> None:
    """Where another program has written it, the error says so instead of failing somewhere in the machine."""
    layer = Layer("superdialog")
    async with layer.SessionWorker(agent_factory=machine, store=store).acquire("s") as handle:
        await handle.turn("one")
    record = await store.load("s")
    record.flow_state.transition_log = [{"to": "n1"}]
    await store.save("s", record)
    worker = layer.SessionWorker(agent_factory=machine, store=store)

    async def turn() -> None:
        async with worker.acquire("s") as handle:
            await handle.turn("two")

    with pytest.raises(RecordCorrupt, match=r"transition_log.*entry 0"):
        await turn()


async def test_what_json_cannot_hold_is_refused_and_leaves_the_session(layer: Layer, store: Any) -> None:
    async def turn(worker: Any, born: Any) -> None:
        async with worker.acquire("s") as handle:
            await handle.turn("one")
            handle.session.metadata["born"] = born

    await turn(layer.SessionWorker(agent_factory=Plain, store=store), "1815")
    with pytest.raises(RecordError, match="datetime"):
        await turn(layer.SessionWorker(agent_factory=Plain, store=store), datetime.datetime(1815, 12, 10))
    record = await store.load("s")
    assert (record.version, record.metadata) == (1, {"born": "1815"})


async def test_turns_of_both_workers_in_one_session(store: Any) -> None:
    """While an application moves from superdialog's worker to ours, or back, neither loses what the other did."""
    texts = ["one", "two", "three", "four"]
    for n, text in enumerate(texts, 1):
        layer = Layer(("superdialog", "sdqueue")[n % 2])
        async with layer.SessionWorker(agent_factory=machine, store=store).acquire("s") as handle:
            assert (await handle.turn(text)).text == f"{n}: {text}"
    record = await store.load("s")
    assert [entry["user_message"] for entry in record.flow_state.transition_log] == texts
    assert (record.version, record.flow_state.current_node_id, record.flow_state.userdata) == (
        4,
        "n4",
        {"last": "four"},
    )


async def test_a_stale_agent_of_superdialogs_worker_is_told_and_can_be_let_go(store: Any) -> None:
    """As docs/drop-in.md says. Until it is let go, it is refused; the session stays as the other process left it."""
    worker = Layer("superdialog").SessionWorker(agent_factory=Plain, store=store)
    other = Layer("sdqueue").SessionWorker(agent_factory=Plain, store=_Elsewhere(store))

    async def turn(worker: Any, text: str) -> str:
        async with worker.acquire("s") as handle:
            result = await handle.turn(text)
        answer: str = result.text
        return answer

    await turn(worker, "one")
    await turn(other, "two")
    for _ in range(2):
        with pytest.raises(VersionConflict, match="version 2"):
            await turn(worker, "three")
    with pytest.raises(VersionConflict):
        await worker.close_session("s")
    assert await turn(worker, "three") == "3: three"
    record = await store.load("s")
    assert [m.content for m in record.chat_ctx.items if m.role == "user"] == ["one", "two", "three"]


class _Elsewhere:
    """The store as another process has it: what is loaded through this, the first knows nothing of."""

    def __init__(self, store: Any) -> None:
        self.load, self.save, self.delete = store._read, store.save, store.delete
