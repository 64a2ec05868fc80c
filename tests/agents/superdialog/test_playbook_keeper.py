"""The state of a PlaybookAgent: what is saved comes back whole, and what does not fit says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from superdialog import DialogMachine
from superdialog.playbook import PlaybookAgent

from sdqueue.agents import ChatMessage, TurnContext, durable, load_conversation, set_current_turn
from sdqueue.agents.durable import ADAPTERS
from sdqueue.agents.superdialog import playbook as keeping
from sdqueue.errors import RecordCorrupt, RecordError, RecordTooNew, StateMismatch
from sdqueue.sessions import InMemorySessionStore, SessionRecord, SessionWorker, codec
from tests.agents.superdialog import shop
from tests.agents.superdialog.service import Service, serving
from tests.agents.superdialog.shop import CONVERSATION, NOTES, PLAYBOOK, make_playbook_agent

FOLDER = Path(__file__).parent
Factory = Callable[[], PlaybookAgent]

compacting = pytest.mark.skipif(not shop.COMPACTS, reason="superdialog 0.3 and later")


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(tmp_path, monkeypatch) as service:
        yield service


@pytest.fixture
def store() -> InMemorySessionStore:
    return InMemorySessionStore()


async def converse(
    store: InMemorySessionStore,
    texts: list[str],
    *,
    fresh: bool = True,
    factory: Factory = make_playbook_agent,
    first: int = 1,
) -> list[Any]:
    """Take turns; with ``fresh`` each turn and each note in a worker that has never seen the session."""
    shared = SessionWorker(agent_factory=factory, store=store)
    replies = []
    for number, text in enumerate(texts, first):
        if number in NOTES:
            async with (SessionWorker(agent_factory=factory, store=store) if fresh else shared).acquire("s") as handle:
                handle.assist(NOTES[number])
        async with (SessionWorker(agent_factory=factory, store=store) if fresh else shared).acquire("s") as handle:
            result = await handle.turn(text)
            replies.append((result.text, result.metadata))
    return replies


async def record_of(store: InMemorySessionStore) -> SessionRecord:
    record = await store.load("s")
    assert record is not None
    return record


async def two_ways() -> tuple[tuple[Any, SessionRecord], tuple[Any, SessionRecord]]:
    """The conversation with one agent, and with a new one for every turn."""
    one, many = InMemorySessionStore(), InMemorySessionStore()
    at_once = await converse(one, CONVERSATION, fresh=False), await record_of(one)
    return at_once, (await converse(many, CONVERSATION), await record_of(many))


def edited(*changes: tuple[str, str]) -> Factory:
    """The shop with another playbook."""
    text = PLAYBOOK
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return lambda: make_playbook_agent(text)


async def test_an_agent_for_every_turn_answers_as_one_for_all(service: Service) -> None:
    (replies, record), (again, resumed) = await two_ways()
    assert again == replies
    assert len({text for text, _ in replies}) == len(CONVERSATION)
    assert replies[-1][1] | {"version": 0} == {"checkpoint": "shop.bye", "version": 0, "ended": True, "outcome": "left"}
    assert resumed.chat_ctx == record.chat_ctx
    assert resumed.agent_state == record.agent_state


async def test_tools_run_as_often_as_in_one_process(service: Service, store: InMemorySessionStore) -> None:
    """superdialog's own worker resumes before the first step, and runs what there is to run on entering it again."""
    await converse(store, CONVERSATION)
    assert service.ran == ["open_ticket", "look_up_day"]
    assert [body["day"] for body, _ in service.bookings] == ["2026-03-04"]


async def test_without_the_keeper_the_conversation_goes_astray(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of the tests: they would notice."""
    monkeypatch.delitem(ADAPTERS, "superdialog")
    (replies, _), (again, _) = await two_ways()
    assert again[0] == replies[0]
    assert again[1:] != replies[1:]
    assert service.ran.count("open_ticket") > 2


@compacting
@pytest.mark.parametrize("names", ["_OF_AGENT", "_OF_SUPERVISOR"])
async def test_what_stands_beside_the_log_counts(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of the tests: how far the conversation is summarised, and when it was last reviewed, changes replies."""
    monkeypatch.setattr(keeping, names, ())
    (replies, _), (again, _) = await two_ways()
    assert again != replies


async def test_results_of_tools_come_back_with_their_types(store: InMemorySessionStore) -> None:
    await converse(store, CONVERSATION[:2])
    agent = make_playbook_agent()
    durable(agent).load_state((await record_of(store)).agent_state)  # type: ignore[union-attr]
    assert agent.runtime.state.tool_results["ticket"].data == await shop.open_ticket({}, None)


async def test_what_cannot_be_saved_is_refused_by_name_and_not_by_value(store: InMemorySessionStore) -> None:
    class Customer:
        def __repr__(self) -> str:
            return "private"

    async def open_ticket(_: Any, __: Any) -> Any:
        return {"number": 7, "opened": "today", "customer": [Customer()]}

    def make() -> PlaybookAgent:
        agent = make_playbook_agent()
        agent.runtime._executor._python_tools["open_ticket"] = open_ticket
        return agent

    with pytest.raises(RecordError, match=r"data of a tool_result event .* holds a .*Customer.*model_dump") as caught:
        await converse(store, ["hi"], factory=make)
    assert "private" not in str(caught.value)
    assert (await record_of(store)).agent_state is None


# Edited playbooks


async def test_a_playbook_that_was_edited_and_still_fits_goes_on(store: InMemorySessionStore) -> None:
    await converse(store, CONVERSATION[:5])
    factory = edited(("on_enter: [open_ticket]", "goal: was edited"), ("Booked:", "All booked:"))
    replies = await converse(store, CONVERSATION[5:9], first=6, factory=factory)
    assert replies[-1][1]["checkpoint"] == "shop.after"


async def test_a_step_that_was_removed_is_named_and_the_session_stays_as_it_was(store: InMemorySessionStore) -> None:
    await converse(store, CONVERSATION[:9])
    before = codec.encode(await record_of(store))
    with pytest.raises(StateMismatch, match=r"stands at checkpoint 'shop\.after', .* reset the session"):
        await converse(
            store, ["and?"], factory=edited(("id: after", "id: later"), ("to: shop.after", "to: shop.later"))
        )
    assert codec.encode(await record_of(store)) == before


@compacting
async def test_a_removed_step_to_which_a_digression_would_return_is_named(store: InMemorySessionStore) -> None:
    await converse(store, CONVERSATION[:3])
    factory = edited(("id: collect", "id: gather"), ("shop.collect", "shop.gather"))
    with pytest.raises(StateMismatch, match=r"is to return to checkpoint 'shop\.collect'"):
        await converse(store, ["thanks"], factory=factory)


# Other releases


@pytest.fixture
async def state(store: InMemorySessionStore) -> dict[str, Any]:
    await converse(store, CONVERSATION[:9])
    state = (await record_of(store)).agent_state
    assert isinstance(state, dict)
    return state


def load(state: Any) -> None:
    keeper = durable(make_playbook_agent())
    assert keeper is not None
    keeper.load_state(state)


@pytest.mark.parametrize(
    "event", [{"type": "telepathy", "text": "s3cret"}, {"type": "utterance", "role": "user", "text": "x", "mood": 1}]
)
def test_what_only_a_newer_superdialog_writes_needs_that(state: dict[str, Any], event: dict[str, Any]) -> None:
    state["events"].append(event)
    state["superdialog"] = "99.1"
    with pytest.raises(RecordTooNew, match=r"superdialog 99\.1 wrote .* install superdialog 99\.1") as caught:
        load(state)
    assert "s3cret" not in str(caught.value)


def test_what_an_older_superdialog_wrote_and_this_one_cannot_read_is_said(state: dict[str, Any]) -> None:
    state["events"].append({"type": "advance", "to_checkpoint": ["s3cret"]})
    state["superdialog"] = "0.2.1"
    with pytest.raises(RecordCorrupt, match=r"superdialog 0\.2\.1 wrote: event of type 'advance'") as caught:
        load(state)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_another_release_has_written_is_read_or_refused_in_words() -> None:
    """The shop after nine turns, as superdialog 0.2.8 and 0.3.0 have left it."""
    older, newer = (json.loads((FOLDER / f"written-by-{release}.json").read_text()) for release in ("0.2.8", "0.3.0"))
    agent = make_playbook_agent()
    durable(agent).load_state(older)  # type: ignore[union-attr]
    assert agent.runtime.state.checkpoint_id == "shop.after"
    if shop.COMPACTS:
        load(newer)
    else:
        with pytest.raises(RecordTooNew, match=r"install superdialog 0\.3\.0"):
            load(newer)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        ({"format": 2}, RecordTooNew, "format 2"),
        ({"kind": "superdialog.DialogMachine"}, RecordCorrupt, "another agent"),
        ({"events": 5}, RecordCorrupt, "damaged"),
        ({"events": [{"role": "user"}]}, RecordCorrupt, "damaged"),
        ({"events": [{"type": "utterance", "role": "user", "text": {"$odd": 1}}]}, RecordCorrupt, r"'\$odd'"),
        ({"agent": None}, RecordCorrupt, "damaged"),
    ],
)
def test_what_is_no_state_of_such_an_agent_is_refused(
    state: dict[str, Any], damage: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        load(state | damage)


@pytest.mark.parametrize("nothing", [[], "state", 5])
def test_what_is_no_state_at_all_is_refused(nothing: Any) -> None:
    with pytest.raises(RecordCorrupt, match="not that of"):
        load(nothing)


async def test_a_session_of_superdialogs_own_worker_goes_on_from_its_conversation(store: InMemorySessionStore) -> None:
    """It keeps nothing else of a PlaybookAgent."""
    record = SessionRecord()
    record.chat_ctx.items = [ChatMessage("user", "hi"), ChatMessage("assistant", "hello"), ChatMessage("tool", "5")]
    await store.save("s", record)
    await converse(store, [CONVERSATION[1]])
    said = [message.content for message in (await record_of(store)).chat_ctx.items]
    assert said[:2] == ["hi", "hello"]
    assert CONVERSATION[1] in said


# Secrets


async def test_secrets_of_the_playbook_are_not_stored(service: Service, store: InMemorySessionStore) -> None:
    await converse(store, CONVERSATION)
    assert service.bookings[0][1] == f"Bearer {shop.SECRET}"
    assert shop.SECRET not in codec.encode(await record_of(store))


async def test_a_secret_that_was_changed_meanwhile_is_used(
    service: Service, store: InMemorySessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await converse(store, CONVERSATION[:8])
    monkeypatch.setattr(shop, "SECRET", "rotated")
    await converse(store, CONVERSATION[8:9], first=9)
    assert [token for _, token in service.bookings] == ["Bearer rotated"]


# The conversation beside the log


def known(agent: PlaybookAgent) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in agent.chat_ctx.items]


@pytest.mark.parametrize("dropped", [0, 1, 5, 17, 18])
def test_notes_are_added_to_the_log_however_short_the_conversation_was_made(
    state: dict[str, Any], store: InMemorySessionStore, dropped: int
) -> None:
    """A note may be the same as one before it, and the conversation may begin with a summary."""
    agent = make_playbook_agent()
    durable(agent).load_state(state)  # type: ignore[union-attr]
    agent.assist("Be brief.")
    before = known(agent)
    assert len(before) > 18
    ctx = agent.chat_ctx.copy()
    ctx.items[:dropped] = [ChatMessage("system", "What was said before: little.")] * bool(dropped)  # type: ignore[list-item]
    ctx.items.append(ChatMessage("system", "Be brief."))  # type: ignore[arg-type]
    load_conversation(agent, ctx)  # type: ignore[arg-type]
    assert known(agent) == [*before, ("system", "Be brief.")]
    assert agent.runtime.state.checkpoint_id == "shop.after"


async def test_an_answer_broken_off_in_its_middle_keeps_the_step(store: InMemorySessionStore) -> None:
    """What was heard is in the conversation, and the next agent stands where this one stood."""
    await converse(store, CONVERSATION[:4])
    async with SessionWorker(agent_factory=make_playbook_agent, store=store).acquire("s") as handle:
        async for chunk in await handle.turn(CONVERSATION[4], stream=True):
            if chunk.text:
                break
    record = await record_of(store)
    assert record.chat_ctx.items[-1] == ChatMessage("assistant", "I hear.")
    (reply,) = await converse(store, ["hm"], first=6)
    assert reply[1]["checkpoint"] == "shop.collect"
    agent = make_playbook_agent()
    durable(agent).load_state((await record_of(store)).agent_state)  # type: ignore[union-attr]
    assert agent.runtime.state.slot_value("service") == "repair"


async def test_what_was_heard_and_the_agent_does_not_know_is_added_to_its_log(store: InMemorySessionStore) -> None:
    """An agent whose answer was a filler only, and which has logged none of it, must not lose its log for that."""

    class Filling(PlaybookAgent):
        async def _stream_turn(self, *_: Any, **__: Any) -> Any:
            from superdialog.stream import StreamChunk

            yield StreamChunk(text="One moment.")
            yield StreamChunk(text="Here it is.")

    def make() -> PlaybookAgent:
        agent = make_playbook_agent()
        agent.__class__ = Filling
        return agent

    await converse(store, CONVERSATION[:2])
    async with SessionWorker(agent_factory=make, store=store).acquire("s") as handle:
        async for _ in await handle.turn("hm", stream=True):
            break
    record = await record_of(store)
    assert [m.content for m in record.chat_ctx.items[-2:]] == ["hm", "One moment."]
    agent = make_playbook_agent()
    durable(agent).load_state(record.agent_state)  # type: ignore[union-attr]
    assert agent.runtime.state.checkpoint_id == "shop.collect"
    assert known(agent)[-2:] == [("user", "hm"), ("assistant", "One moment.")]


@pytest.mark.parametrize("turns", [1, 9])
async def test_a_session_that_is_reset_begins_anew(service: Service, store: InMemorySessionStore, turns: int) -> None:
    await converse(store, CONVERSATION[:turns])
    async with SessionWorker(agent_factory=make_playbook_agent, store=store).acquire("s") as handle:
        handle.reset()
    service.forget()
    other = InMemorySessionStore()
    assert await converse(store, ["hi"]) == await converse(other, ["hi"])
    assert service.ran == ["open_ticket", "look_up_day"] * 2


async def test_a_greeting_by_the_application_is_kept(store: InMemorySessionStore) -> None:
    """In 0.3 the turn after a greeting waits for its verdict, so that nobody is greeted twice: in any process."""
    texts: dict[bool, list[str]] = {}
    for fresh in (False, True):
        store = InMemorySessionStore()
        worker = SessionWorker(agent_factory=make_playbook_agent, store=store)
        async with worker.acquire("s") as handle:
            async for _ in handle.agent.greet():
                pass
        if fresh:
            worker = SessionWorker(agent_factory=make_playbook_agent, store=store)
        async with worker.acquire("s") as handle:
            texts[fresh] = [(await handle.turn(CONVERSATION[1])).text]
        texts[fresh] += [message.content for message in (await record_of(store)).chat_ctx.items]
    assert texts[True] == texts[False]


@compacting
async def test_who_has_subscribed_to_the_log_in_the_factory_hears_of_a_resumed_session_too(
    store: InMemorySessionStore,
) -> None:
    await converse(store, CONVERSATION[:2])
    heard = []

    def make() -> PlaybookAgent:
        agent = make_playbook_agent()
        heard.append(agent.event_log.subscribe())  # type: ignore[attr-defined]
        return agent

    await converse(store, ["hm"], factory=make, first=3)
    assert heard[-1].get_nowait().text == "hm"


@compacting
async def test_the_language_of_a_turn_comes_with_its_metadata(store: InMemorySessionStore) -> None:
    """And sticks, as superdialog has it, in the next process too."""
    for text, metadata in (("hi", {"language": "hi"}), ("well", {})):
        set_current_turn(TurnContext("t", "s", metadata=metadata))
        await converse(store, [text], factory=lambda: make_playbook_agent(kind=shop.Speaker), first=2)
    agent = make_playbook_agent()
    durable(agent).load_state((await record_of(store)).agent_state)  # type: ignore[union-attr]
    assert agent.runtime.state.language == "hi"  # type: ignore[attr-defined]
    said = [event for event in agent.event_log.events if event.type == "utterance" and event.role == "user"]
    assert [event.language for event in said] == ["hi", None]  # type: ignore[attr-defined]


@compacting
def test_a_machine_that_is_a_playbook_inside_is_kept_as_one() -> None:
    agent = DialogMachine(make_playbook_agent().runtime._pb, "oai/none")
    keeper: Any = durable(agent)
    assert keeper.dump_state()["kind"] == "superdialog.PlaybookAgent"
