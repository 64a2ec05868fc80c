"""The keeper of a DialogMachine: what it saves, what an edited flow does, and what of superdialog's defects is gone."""

from __future__ import annotations

import asyncio
import copy
import datetime
import json
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from superdialog.flow import FlowSet
from superdialog.flow.models import ConversationFlow
from superdialog.machine.models import TransitionRecord

from sdqueue import Client, Consumer, MemoryBroker, StateMismatch, Topology, TurnFailed
from sdqueue.agents import durable, load_conversation
from sdqueue.agents.superdialog import stamp
from sdqueue.errors import ConfigurationError, RecordCorrupt, RecordError, RecordTooNew
from sdqueue.sessions import FileSessionStore, InMemorySessionStore, SessionRecord, SessionWorker, codec
from tests.agents.superdialog import desk
from tests.agents.superdialog.desk import Desk, make_interrupted, make_patience, make_set

IN_COMPLAINT = ("#start", "#placed what=tea", "#complain")
"""The customer stands at ``complaint`` and is to return to ``pay``."""


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


async def converse(store: Any, *texts: str, make: Callable[[], Any] = make_interrupted) -> list[str]:
    """Each turn with a new agent; where each ends."""
    ends = []
    for text in texts:
        async with SessionWorker(agent_factory=make, store=store).acquire("s") as handle:
            ends.append((await handle.turn(text)).metadata["to_node"])
    return ends


async def record_of(store: Any) -> SessionRecord:
    record = await store.load("s")
    assert isinstance(record, SessionRecord)
    return record


def edited(flow: ConversationFlow, *replaced: tuple[str, str]) -> Callable[[], Desk]:
    """A factory with that flow after an edit of its JSON."""
    text = flow.model_dump_json()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return lambda: desk._made(ConversationFlow.from_json_string(text))


def stored(state: Any) -> Any:
    """As it comes from a store."""
    return json.loads(json.dumps(state, allow_nan=False))


def resumed(record: SessionRecord, make: Callable[[], Any] = make_interrupted) -> Any:
    """An agent in the state of a record, as the session layer makes it."""
    agent = make()
    keeper: Any = durable(agent)
    keeper.load_state(copy.deepcopy(record.agent_state))
    load_conversation(agent, record.chat_ctx.copy())
    keeper.load_flow_state(copy.deepcopy(record.flow_state))
    return agent


# What is saved


VALUES = {
    "when": datetime.datetime(2026, 3, 2, 9, 30, tzinfo=datetime.UTC),
    "price": Decimal("4.20"),
    "pair": (1, "two"),
    "some": {3, 4},
    "by number": {1: "one", 2: None},
    "endless": float("inf"),
    "raw": b"\x00\xff",
    "lines": "a\u2028b\u2029c\x85d",
}


async def test_everything_in_the_context_comes_back_with_its_type() -> None:
    """Those fields included that superdialog leaves out of its own dump."""
    agent = make_interrupted()
    for text in (*IN_COMPLAINT, "hm"):
        await agent.turn(text)
    assert agent._machine is not None
    before = agent._machine.context
    before.data.set_var("seen", True, source="edge:start")
    before.data.language, before.data.language_trace = "hi", ["hi"]
    before.state.pending_edge_id, before.state.pending_collected_data = "sorry", {"pair": (1, 2)}
    before.state.consecutive_self_loops = 1
    before.userdata.update(VALUES)
    keeper: Any = durable(agent)
    record = SessionRecord(agent.chat_ctx, keeper.flow_state, agent_state=stored(keeper.dump_state()))  # type: ignore[arg-type]
    after = resumed(record)._machine.context
    assert after == before
    assert {name: type(value) for name, value in after.userdata.items()} == {
        name: type(value) for name, value in before.userdata.items()
    }
    assert after.state.intent_stack[0].node_id == "pay"
    assert all(type(entry) is TransitionRecord for entry in after.transition_log)


async def test_values_that_json_has_not_survive_a_store(tmp_path: Path) -> None:
    """Also in the part of the state that superdialog's own sessions keep."""
    store = FileSessionStore(tmp_path)
    async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
        await handle.turn("#start")
        handle.agent._machine.context.userdata.update(VALUES)  # as a tool's answer may
    async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
        assert handle.agent.state == {"node_id": "order", "slots": VALUES}


async def test_what_cannot_be_saved_is_refused_by_name_and_not_by_value(store: InMemorySessionStore) -> None:
    class Customer:
        def __repr__(self) -> str:
            return "private"

    await converse(store, "#start")
    before = codec.encode(await record_of(store))
    with pytest.raises(RecordError, match=r"variable 'customer' .* holds a .*Customer.*model_dump") as caught:
        async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
            await handle.turn("hm", context={"customer": [Customer()]})
    assert "private" not in str(caught.value)
    assert codec.encode(await record_of(store)) == before


async def test_a_state_that_cannot_be_saved_leaves_no_half_of_it(store: InMemorySessionStore) -> None:
    """Given a block whose first turn makes such a state; when a second one is tried and its error is caught; then
    nothing of either is saved."""
    await converse(store, "#start")
    before = codec.encode(await record_of(store))

    async def block() -> None:
        async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
            await handle.turn("#placed", context={"object": object()})
            with pytest.raises(RecordError):
                await handle.turn("hm")
            assert handle.state["flow_state"].current_node_id == "order"

    with pytest.raises(RecordError):
        await block()
    assert codec.encode(await record_of(store)) == before


async def test_the_state_does_not_repeat_the_conversation(store: InMemorySessionStore) -> None:
    """Nor does it grow with it, where nothing but talk happens."""
    sizes = []
    for n in range(30):
        await converse(store, f"just talk number {n:03}")
        state = json.dumps((await record_of(store)).agent_state)
        assert "just talk" not in state
        sizes.append(len(state))
    assert max(sizes) - min(sizes) < 10


async def test_a_traversal_is_written_whole_by_the_process_that_ends_the_session(
    store: InMemorySessionStore, tmp_path: Path
) -> None:
    def make() -> Desk:
        agent = Desk(desk.patience(), "openai/none", adapter="llm", traversal_dir=tmp_path)
        agent._llm = desk.Model()  # type: ignore[assignment]
        return agent

    await converse(store, "hi", "#to_ask", "hm", "#answered", make=make)
    await converse(store, "still there?", make=make)
    (written,) = tmp_path.glob("traversal_*.json")
    steps = json.loads(written.read_text())["traversal"]
    assert [step["to_node"] for step in steps] == ["greet", "ask", "bye"]
    assert [step["user_message"] for step in steps] == ["#to_ask", "#to_ask", "#answered"]


async def test_the_opening_of_a_session_is_made_once(store: InMemorySessionStore) -> None:
    """Given a session that the application has opened with ``start``; when another process starts it again; then the
    actions of its first node are not run twice."""
    async with SessionWorker(agent_factory=make_patience, store=store).acquire("s") as handle:
        await handle.agent.start()
        handle.adopt(handle.agent)
    for opened in (True, False):
        async with SessionWorker(agent_factory=make_patience, store=store).acquire("s" if opened else "t") as handle:
            machine = await handle.agent._ensure_machine()
            assert getattr(machine, "_initial_on_enter_fired", False) is opened


async def test_a_rotated_key_of_the_flow_is_used_and_none_is_stored(store: InMemorySessionStore) -> None:
    def make(key: str) -> Callable[[], Desk]:
        def make() -> Desk:
            flow = desk.patience().model_copy(update={"environment_variables": {"KEY": key, "SHOP": "a"}})
            return desk._made(flow)

        return make

    async with SessionWorker(agent_factory=make("old-s3cret"), store=store).acquire("s") as handle:
        await handle.turn("hi")
        handle.agent._adapter._env_vars["TOKEN"] = "of an action"
        handle.adopt(handle.agent)
    assert "old-s3cret" not in codec.encode(await record_of(store))
    async with SessionWorker(agent_factory=make("new-s3cret"), store=store).acquire("s") as handle:
        assert handle.agent._adapter._env_vars == {"KEY": "new-s3cret", "SHOP": "a", "TOKEN": "of an action"}


# Notes


async def test_notes_of_every_kind_come_to_the_next_turn_in_order(store: InMemorySessionStore) -> None:
    """Given notes that a turn has left itself, that came through its handle and that came later; when the next turn is
    answered by another process; then each stands there once, before what the customer says."""
    async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
        await handle.turn("hi!")
        handle.assist("one")
    async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
        handle.assist("two")
    await converse(store, "hm")
    said = [message.content for message in (await record_of(store)).chat_ctx.items]
    assert said[2:-1] == ["The turn left a note: hi!", "one", "two", "hm"]


async def test_a_note_for_another_flow_arrives_there(store: InMemorySessionStore) -> None:
    await converse(store, "#to_ask", "hm!", make=make_set)
    await converse(store, "/flow orders", make=make_set)
    said = [message.content for message in (await record_of(store)).chat_ctx.items]
    assert said[:2] == ["The turn left a note: hm!", "/flow orders"]


async def test_a_flow_that_was_switched_to_without_a_turn_is_where_the_next_one_is(store: InMemorySessionStore) -> None:
    await converse(store, "#to_ask", make=make_set)
    async with SessionWorker(agent_factory=make_set, store=store).acquire("s") as handle:
        handle.agent.switch_flow("orders")
    assert await converse(store, "#start", make=make_set) == ["order"]


# Defects of superdialog's own sessions


async def test_acquiring_without_a_turn_changes_nothing(store: InMemorySessionStore) -> None:
    await converse(store, *IN_COMPLAINT)
    before = codec.encode(await record_of(store))
    async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
        assert handle.agent.state["node_id"] == "complaint"
    assert codec.encode(await record_of(store)) == before


@pytest.mark.parametrize("by", ["handle", "agent"])
async def test_a_resumed_machine_that_is_reset_before_its_first_turn_begins_anew(
    by: str, store: InMemorySessionStore
) -> None:
    await converse(store, *IN_COMPLAINT)
    async with SessionWorker(agent_factory=make_interrupted, store=store).acquire("s") as handle:
        (handle if by == "handle" else handle.agent).reset()
        assert (await handle.turn("hi")).metadata["to_node"] == "welcome"
    record = await record_of(store)
    assert record.chat_ctx.items[0].content == "hi"
    assert record.agent_state["context"]["state"]["intent_stack"] == []


@pytest.mark.parametrize("how", ["error", "cancel"])
async def test_a_turn_that_fails_leaves_the_machine_where_it_was(how: str, store: InMemorySessionStore) -> None:
    class Failing(Desk):
        async def turn(self, *args: Any, **more: Any) -> Any:
            await super().turn(*args, **more)
            raise (ValueError if how == "error" else asyncio.CancelledError)

    def make() -> Desk:
        agent = make_interrupted()
        agent.__class__ = Failing
        return agent

    await converse(store, *IN_COMPLAINT)
    before = codec.encode(await record_of(store))
    with pytest.raises(ValueError if how == "error" else asyncio.CancelledError):
        async with SessionWorker(agent_factory=make, store=store).acquire("s") as handle:
            await handle.turn("#sorry")
    assert codec.encode(await record_of(store)) == before
    assert await converse(store, "#sorry") == ["pay"]


async def test_an_answer_broken_off_does_not_follow_into_the_next_flow(store: InMemorySessionStore) -> None:
    """A machine that is given a conversation while it is built would bring it into the next one it builds."""
    worker = SessionWorker(agent_factory=make_set, store=store)
    async with worker.acquire("s") as handle:
        await handle.turn("#to_ask")
        async for _ in await handle.turn("hm", stream=True):
            break
    async with worker.acquire("s") as handle:
        await handle.turn("/flow orders")
    assert (await record_of(store)).chat_ctx.items[0].content == "/flow orders"


async def test_a_session_of_superdialogs_own_worker_goes_on(store: InMemorySessionStore) -> None:
    """Given a record with a conversation and a flow state alone; when it is taken up; then the machine stands where it
    stood, and its log of transitions holds records again."""
    await converse(store, "#start", "#placed what=tea")
    record = codec.decode(codec.encode(await record_of(store)))
    record.agent_state = None
    assert isinstance(record.flow_state.transition_log[0], dict)  # type: ignore[union-attr]
    theirs = InMemorySessionStore()
    await theirs.save("s", SessionRecord(record.chat_ctx, record.flow_state))
    async with SessionWorker(agent_factory=make_interrupted, store=theirs).acquire("s") as handle:
        result = await handle.turn("how?")
        assert result.metadata["to_node"] == "pay"
        log = handle.agent._machine.context.transition_log
        assert [type(entry) for entry in log] == [TransitionRecord] * 2
        assert handle.agent.state["slots"] == {"what": "tea"}
    assert (await record_of(theirs)).agent_state["kind"] == "superdialog.DialogMachine"


# Edited flows


async def test_a_flow_that_was_edited_and_still_fits_goes_on(store: InMemorySessionStore) -> None:
    await converse(store, *IN_COMPLAINT)
    make = edited(desk.interrupted(), ("Talk about complaint.", "Be sorry."), ('"welcome"', '"reception"'))
    assert await converse(store, "#sorry", "how?", make=make) == ["pay", "pay"]


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        (('"complaint"', '"regret"'), r"stands at node 'complaint' of flow 'main', .* reset the session"),
        (('"pay"', '"settle"'), r"is to return to node 'pay' of flow 'main', which the flow has no longer"),
    ],
)
async def test_a_node_that_was_removed_is_named_and_the_session_stays_as_it_was(
    replaced: tuple[str, str], says: str, store: InMemorySessionStore
) -> None:
    await converse(store, *IN_COMPLAINT)
    before = codec.encode(await record_of(store))
    with pytest.raises(StateMismatch, match=says):
        await converse(store, "#sorry", make=edited(desk.interrupted(), replaced))
    assert codec.encode(await record_of(store)) == before
    assert await converse(store, "#sorry") == ["pay"]  # the node is back


async def test_a_removed_node_is_named_for_a_session_of_superdialogs_own_worker_too(
    store: InMemorySessionStore,
) -> None:
    await converse(store, *IN_COMPLAINT)
    record = await record_of(store)
    theirs = InMemorySessionStore()
    await theirs.save("s", SessionRecord(record.chat_ctx, record.flow_state))
    with pytest.raises(StateMismatch, match="stands at node 'complaint'"):
        await converse(theirs, "#sorry", make=edited(desk.interrupted(), ('"complaint"', '"regret"')))


async def test_a_flow_that_was_removed_from_its_set_is_named(store: InMemorySessionStore) -> None:
    await converse(store, "#to_ask", "/flow orders", make=make_set)
    with pytest.raises(StateMismatch, match=r"in flow 'orders', .* \(it has 'front', 'other'\)"):
        await converse(
            store, "#start", make=lambda: desk._made(FlowSet({"front": desk.patience(), "other": desk.patience()}))
        )


async def test_an_edge_that_was_removed_is_named_where_the_session_waits_to_go_along_it(
    store: InMemorySessionStore,
) -> None:
    await converse(store, *IN_COMPLAINT)
    record = await record_of(store)
    record.agent_state["context"]["state"]["pending_edge_id"] = "sorry"
    assert resumed(record)._machine.context.pending_edge_id == "sorry"
    with pytest.raises(StateMismatch, match=r"at node 'complaint' of flow 'main' to go along edge 'sorry'"):
        resumed(record, edited(desk.interrupted(), ('"sorry"', '"apology"')))


async def test_through_the_queue_a_session_that_does_not_fit_is_dead_until_it_is_reset() -> None:
    """Given a session at a node that was removed; when a turn comes, then it is a dead letter at once and its user is
    told; and when the session is reset, then it goes on from the beginning."""
    store = InMemorySessionStore()
    await converse(store, *IN_COMPLAINT)
    make = edited(desk.interrupted(), ('"complaint"', '"regret"'))
    async with MemoryBroker(Topology("t", 1)) as broker:
        await broker.apply()
        async with Consumer(broker, SessionWorker(agent_factory=make, store=store)) as consumer:
            await consumer.ready()
            async with Client(broker) as client:
                with pytest.raises(TurnFailed) as caught:
                    await client.ask("s", "#sorry", timeout=10)
                assert caught.value.reply.metadata["reason"] == "record"
                await client.ask("s", "", kind="reset", timeout=10)
                assert (await client.ask("s", "hi", timeout=10)).metadata["to_node"] == "welcome"


# Other releases, other writers


@pytest.fixture
async def state(store: InMemorySessionStore) -> dict[str, Any]:
    await converse(store, *IN_COMPLAINT)
    state = (await record_of(store)).agent_state
    assert isinstance(state, dict)
    return state


def load(state: Any) -> None:
    durable(make_interrupted()).load_state(state)  # type: ignore[union-attr]


def test_a_state_is_stamped(state: dict[str, Any]) -> None:
    assert {name: state[name] for name in ("kind", "format", "superdialog", "flow")} == {
        "kind": "superdialog.DialogMachine",
        "format": 1,
        "superdialog": stamp.installed(),
        "flow": "main",
    }


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        ({"format": 2}, RecordTooNew, "format 2"),
        ({"format": "1"}, RecordCorrupt, "something else wrote it"),
        ({"superdialog": None}, RecordCorrupt, "something else wrote it"),
        ({"kind": "superdialog.PlaybookAgent"}, RecordCorrupt, "another agent"),
        ({"context": 5}, RecordCorrupt, "damaged"),
        ({"context": {"state": []}}, RecordCorrupt, "damaged"),
        ({"context": {"data": {"variables": {"$odd": 1}}}}, RecordCorrupt, r"'\$odd'"),
        ({"env": None}, RecordCorrupt, "damaged"),
        ({"pending": None}, RecordCorrupt, "damaged"),
    ],
)
def test_what_is_no_state_of_a_machine_is_refused(
    state: dict[str, Any], damage: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        load(state | damage)


@pytest.mark.parametrize("nothing", [[], "state", 5])
def test_what_is_no_state_at_all_is_refused(nothing: Any) -> None:
    with pytest.raises(RecordCorrupt, match="not that of"):
        load(nothing)


@pytest.mark.parametrize(
    ("written_by", "error", "says"),
    [("99.1", RecordTooNew, "install superdialog 99.1"), ("0.2.1", RecordCorrupt, "go back to superdialog 0.2.1")],
)
def test_a_field_that_this_superdialog_does_not_know_is_not_dropped(
    written_by: str, error: type[Exception], says: str, state: dict[str, Any]
) -> None:
    state["context"]["data"]["mood"] = "s3cret"
    state["superdialog"] = written_by
    with pytest.raises(error, match=says) as caught:
        load(state)
    assert "'mood'" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_field_that_the_writer_did_not_know_has_its_default(state: dict[str, Any]) -> None:
    del state["context"]["data"]["language_trace"]
    agent = make_interrupted()
    durable(agent).load_state(state)  # type: ignore[union-attr]
    assert agent._machine is not None
    assert agent._machine.context.data.language_trace == []


@pytest.mark.parametrize(("release", "warned"), [("0.2.7", 1), ("0.2.8", 0), ("0.3.0", 0), ("0.4.0", 1), ("1.0", 1)])
def test_a_superdialog_that_was_not_tested_is_used_with_one_warning(
    release: str, warned: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stamp, "version", lambda _: release)
    stamp.installed.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, stamp.__name__):
            assert stamp.installed() == release
            assert stamp.stamp("kind")["superdialog"] == release
        warnings = [entry.getMessage() for entry in caplog.records if entry.name == stamp.__name__]
        assert [release in warning for warning in warnings] == [True] * warned
    finally:
        stamp.installed.cache_clear()


def test_a_machine_of_another_build_is_refused_with_what_to_do() -> None:
    agent = make_patience()
    del agent._pending_system_messages
    with pytest.raises(ConfigurationError, match=r"no _pending_system_messages.*pip install 'sdqueue\[superdialog\]'"):
        durable(agent)


def test_a_machine_that_waits_while_it_is_built_is_refused_with_what_to_do(state: dict[str, Any]) -> None:
    class Waiting(Desk):
        async def _ensure_machine(self) -> Any:
            await asyncio.sleep(0)
            return await super()._ensure_machine()

    agent = make_interrupted()
    agent.__class__ = Waiting
    with pytest.raises(ConfigurationError, match="let _ensure_machine only build"):
        durable(agent).load_state(state)  # type: ignore[union-attr]
