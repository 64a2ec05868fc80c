"""Session records as JSON: what goes in comes out, and what is no record is told apart from a crash."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from sdqueue.agents import ChatContext, ChatMessage, FlowState
from sdqueue.errors import RecordCorrupt, RecordError, RecordTooNew
from sdqueue.sessions import codec
from sdqueue.sessions.record import SessionRecord, Stored, as_record
from sdqueue.sessions.ring import Retention, TurnOutcome, TurnRing

# JSON cannot tell a pair of surrogates that were lone from the character that they make together.
texts = st.text(st.characters(exclude_categories=()), max_size=20).map(
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
flows = st.builds(
    FlowState,
    texts,
    json_objects,
    st.dictionaries(texts, json_objects, max_size=2),
    st.dictionaries(texts, st.booleans(), max_size=2),
    st.dictionaries(texts, st.integers(), max_size=2),
    st.lists(json_values, max_size=3),
)
outcomes = st.builds(
    TurnOutcome,
    texts,
    numbers,
    st.lists(texts, max_size=3).map(tuple),
    st.sampled_from(["completed", "dead", "superseded"]),
    st.none() | texts,
)


@st.composite
def rings(draw: st.DrawFn) -> TurnRing:
    ring = TurnRing()
    for outcome in draw(st.lists(outcomes, max_size=8)):
        ring.add(outcome, Retention(replies=3, ids_s=1e308))
    return ring


records = st.builds(
    SessionRecord,
    chat_ctx=st.lists(
        st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant", "tool"]), texts), max_size=5
    ).map(ChatContext),
    flow_state=st.none() | flows,
    version=st.integers(1, 2**40),
    created_at=numbers,
    last_turn_at=numbers | st.integers(),
    metadata=json_objects,
    agent_state=json_values,
    turns=rings(),
    seq=st.integers(0, 2**40),
    parked_by=st.none() | texts,
    route=st.none() | texts,
)


@given(records)
def test_a_record_comes_back_whole(record: SessionRecord) -> None:
    text = codec.encode(record)
    for stored in (text, text.encode()):
        loaded = codec.decode(stored)
        assert loaded == record
        assert list(loaded.turns) == list(record.turns)
        assert loaded.stored == Stored(record.version, len(record.chat_ctx.items))
        assert (loaded.turns.fresh, loaded.turns.known) == ([], True)


@given(records)
def test_a_record_comes_back_whole_in_parts(record: SessionRecord) -> None:
    head = codec.encode_head(record)
    messages = [codec.encode_message(message) for message in record.chat_ctx.items]
    turns = [codec.encode_outcome(outcome) for outcome in record.turns]
    loaded = codec.decode_parts(head, messages, turns)
    in_bytes = codec.decode_parts(head.encode(), [m.encode() for m in messages], (t.encode() for t in turns))
    assert loaded == in_bytes == record
    assert list(loaded.turns) == list(record.turns)
    assert all(part.isascii() for part in (head, *messages, *turns))


@given(st.binary() | st.text() | json_values.map(json.dumps))
@example("[" * 100_000)
@example('{"schema":' * 100_000)
@example('{"schema": NaN}')
@example('{"schema": true}')
@example('{"schema": 0}')
@example("9" * 5_000)
@example(b"\xff\xfe")
def test_what_is_no_record_is_corrupt(stored: str | bytes) -> None:
    for read in (codec.decode, lambda head: codec.decode_parts(head, (), ())):
        with pytest.raises(RecordCorrupt):
            read(stored)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += _paths(child, (*path, key))
    return found


@given(record=records, data=st.data())
def test_a_damaged_record_is_corrupt_or_another_record(record: SessionRecord, data: st.DataObject) -> None:
    """Any part of a stored record is replaced or taken out: never another error, and what loads can be saved."""
    fields = json.loads(codec.encode(record))
    path = data.draw(st.sampled_from(_paths(fields)[1:]))
    place = fields
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()):
        place[path[-1]] = data.draw(json_values)
    else:
        del place[path[-1]]
    try:
        loaded = codec.decode(json.dumps(fields))
    except RecordError:
        return
    assert codec.decode(codec.encode(loaded)) == loaded


@given(records, st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_record_with_damaged_bytes_is_corrupt_or_another_record(
    record: SessionRecord, place: int, damage: bytes
) -> None:
    stored = codec.encode(record).encode()
    place %= len(stored)
    try:
        loaded = codec.decode(stored[:place] + damage + stored[place + len(damage) :])
    except RecordError:
        return
    assert codec.decode(codec.encode(loaded)) == loaded


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        (["{}"], []),
        (["null"], []),
        (["[]"], []),
        (['"text"'], []),
        (['{"role": 1, "content": ""}'], []),
        (['{"role": "user", "content": ""},{"role": "user", "content": ""}'], []),
        (["["], []),
        (["[" * 100_000], []),
        ([], ["[" * 100_000]),
        ([b"\xff"], []),
        ([None], []),
        ([b"{}", "{}"], []),
        ([], ["{}"]),
        ([], ['{"id": "t"}']),
        ([], ['{"id": 1, "at": 1}']),
        ([], ['{"id": "t", "at": "1"}']),
        ([], ['{"id": "t", "at": 1, "replies": "text"}']),
        ([], ['{"id": "t", "at": 1, "replies": [1]}']),
        ([], ['{"id": "t", "at": 1, "replies": [], "by": 1}']),
        ([], ['{"id": "t", "at": 1, "replies": [], "replay": "1"}']),
        ([], ['{"id": "t", "at": 1, "replies": [], "state": 1}']),
        ([], ['{"id": "t", "at": NaN}']),
        ([], ['{"id": "t", "at": 1e999}']),
    ],
)
def test_a_damaged_part_is_corrupt(messages: list[Any], turns: list[Any]) -> None:
    with pytest.raises(RecordCorrupt):
        codec.decode_parts(codec.encode_head(SessionRecord()), messages, turns)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", "1"),
        ("version", True),
        ("born", None),
        ("born", 1),
        ("created_at", None),
        ("last_turn_at", "now"),
        ("metadata", []),
        ("metadata", None),
        ("seq", 1.5),
        ("flow_state", "node"),
        ("flow_state", {"userdata": []}),
        ("flow_state", {"transition_log": {}}),
        ("chat_ctx", {}),
        ("turns", None),
    ],
)
def test_a_field_of_a_wrong_type_is_corrupt_and_named(name: str, value: Any) -> None:
    fields = json.loads(codec.encode(SessionRecord())) | {name: value}
    with pytest.raises(RecordCorrupt):
        codec.decode(json.dumps(fields))


@pytest.mark.parametrize("schema", [2, 999])
def test_a_record_of_a_newer_release_is_too_new(schema: int) -> None:
    """Whatever else it holds: nothing of a newer form is interpreted."""
    with pytest.raises(RecordTooNew, match="upgrade"):
        codec.decode(json.dumps({"schema": schema, "version": []}))


def test_fields_of_a_newer_release_of_the_same_schema_are_ignored() -> None:
    fields = json.loads(codec.encode(SessionRecord(flow_state=FlowState("n"))))
    fields["later"] = fields["flow_state"]["later"] = 1
    loaded = codec.decode(json.dumps(fields))
    assert loaded.flow_state == FlowState("n")


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("secret")

    __repr__ = __str__


class _Model(BaseModel):
    x: float = math.nan
    child: Any = None


class _Endless:
    def model_dump(self, mode: str) -> Any:
        return self


_LOOP: list[Any] = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        _Unprintable(),
        _Model(child=object()),
        _Endless(),
        _LOOP,
        b"bytes",
        {1, 2},
        math.nan,
        math.inf,
        {(1, 2): 3},
        10**5_000,
        SessionRecord,
        _Model,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("place", ["metadata", "agent_state", "flow_state", "content"])
def test_what_json_cannot_hold_is_refused(place: str, value: Any) -> None:
    record = SessionRecord()
    if place == "metadata":
        record.metadata = {"x": value}
    elif place == "agent_state":
        record.agent_state = value
    elif place == "flow_state":
        record.flow_state = FlowState(transition_log=[value])
    else:
        record.chat_ctx.append(ChatMessage("user", value))
    with pytest.raises(RecordError, match="keep only JSON values") as refusal:
        codec.encode(record)
    assert type(refusal.value) is RecordError
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "record",
    [
        SessionRecord(metadata=[]),  # type: ignore[arg-type]  # what an application may do
        SessionRecord(version="1"),  # type: ignore[arg-type]  # the same
        SessionRecord(seq=True),
        SessionRecord(created_at=None),  # type: ignore[arg-type]  # the same
        SessionRecord(created_at=math.nan),
        SessionRecord(flow_state=object()),  # type: ignore[arg-type]  # the same
        SessionRecord(flow_state=FlowState(userdata=None)),  # type: ignore[arg-type]  # the same
        SessionRecord(chat_ctx=ChatContext(["text"])),  # type: ignore[list-item]  # the same
        SessionRecord(chat_ctx=ChatContext([ChatMessage(1, "")])),  # type: ignore[arg-type]  # the same
        SessionRecord(turns=TurnRing({"t": TurnOutcome(1, 1.0, ())})),  # type: ignore[arg-type]  # the same
        SessionRecord(turns=TurnRing({"t": TurnOutcome("t", 1.0, "text")})),  # type: ignore[arg-type]  # the same
        SessionRecord(turns=TurnRing({"t": TurnOutcome("t", 1.0, (b"",))})),  # type: ignore[arg-type]  # the same
    ],
)
def test_what_could_not_be_read_again_is_not_written(record: SessionRecord) -> None:
    """A record that saves but never loads again would lose its session."""
    with pytest.raises(RecordError):
        codec.encode(record)


def test_pydantic_objects_become_what_they_dump() -> None:
    record = SessionRecord(flow_state=FlowState(transition_log=[_Model(x=1.0)]))
    loaded = codec.decode(codec.encode(record))
    assert loaded.flow_state is not None
    assert loaded.flow_state.transition_log == [{"x": 1.0, "child": None}]


def test_an_error_says_which_session_it_is_about() -> None:
    with pytest.raises(RecordTooNew, match=r"session 's'.*schema 2") as refusal, codec.naming("s"):
        codec.decode('{"schema": 2}')
    assert type(refusal.value) is RecordTooNew


def test_a_record_that_grew_while_it_was_saved_holds_more_than_the_store() -> None:
    """A store that wrote one message and one outcome must not claim those that came meanwhile."""
    record = SessionRecord(chat_ctx=ChatContext([ChatMessage("user", "one"), ChatMessage("user", "two")]))
    record.turns.add(TurnOutcome("a", 1.0, ()), Retention())
    record.turns.add(TurnOutcome("b", 1.0, ()), Retention())
    record.mark_stored(Stored(1, 1), fresh=1)
    assert record.stored == Stored(1, 1)
    assert [outcome.turn_id for outcome in record.turns.fresh] == ["b"]
    record.mark_stored(Stored(2, 2))
    assert (record.version, record.stored, record.turns.fresh) == (2, Stored(2, 2), [])


def _foreign(*texts: str) -> Any:
    return SimpleNamespace(
        chat_ctx=SimpleNamespace(items=[SimpleNamespace(role="user", content=text) for text in texts]),
        flow_state=None,
        created_at=1.0,
        last_turn_at=2.0,
        metadata={"m": 1},
    )


def test_a_foreign_record_goes_on_where_the_stored_one_is() -> None:
    """Messages that are the store's already are known, so that only the others are written."""
    base = as_record(_foreign("one", "two"), None)
    base.mark_stored(Stored(4, 2, "life"))
    for said, known in ((("one", "two", "three"), 2), (("one", "else"), 1), ((), 0), (("other",), 0)):
        record = as_record(_foreign(*said), base)
        assert record.stored == Stored(4, known, "life")
        assert [m.content for m in record.chat_ctx.items] == list(said)


def test_a_state_is_named_by_version_and_life() -> None:
    here = Stored(3, 5, "life")
    assert here.is_same(Stored(3, 2, "life"))
    for other in (Stored(3, 5, "other"), Stored(3, 5), Stored(4, 5, "life"), Stored()):
        assert not here.is_same(other)
        assert other.revision != here.revision
    assert not Stored().is_same(Stored())
    assert {Stored().revision, Stored(born="life").revision} == {"0"}


def test_each_first_save_begins_a_life_and_later_ones_are_of_it() -> None:
    """Also of one record that is stored in two places, or again after a delete."""
    record = SessionRecord(chat_ctx=ChatContext([ChatMessage("user", "one")]))
    first, again = record.successor(), record.successor()
    assert (first.version, first.stored.version, first.stored.items) == (1, 1, 1)
    assert first.stored.born
    assert first.stored.born != again.stored.born
    assert first.successor().stored == Stored(2, 1, first.stored.born)
    assert record.stored == Stored()


def test_a_life_comes_back_with_the_record() -> None:
    """A record without one, of a life that began before lives had names, goes on without."""
    saved = SessionRecord().successor()
    fields = json.loads(codec.encode(saved))
    assert codec.decode(json.dumps(fields)).stored == saved.stored
    del fields["born"]
    old = codec.decode(json.dumps(fields))
    assert (old.stored, old.successor().stored) == (Stored(1), Stored(2))


def test_a_record_of_ours_may_lose_its_place() -> None:
    record = replace(SessionRecord(version=7), stored=Stored(7, 3))
    assert replace(record, seq=1).stored == Stored(7, 3)
    assert replace(record, stored=Stored()).stored == Stored(0, 0)


@pytest.mark.parametrize("nothing", [None, {}, "text", SimpleNamespace(chat_ctx=None)])
def test_what_is_no_record_is_named(nothing: Any) -> None:
    with pytest.raises(RecordError, match=type(nothing).__name__):
        as_record(nothing, None)
