"""The wire contract: golden values, fields, what is accepted, and that all else is an InvalidTurn."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from sdqueue.consumer.replies import Addressee, make_reply
from sdqueue.errors import InvalidTurn
from sdqueue.messages import (
    MAX_TEXT_BYTES,
    DeadTurn,
    InboundTurn,
    OutboundReply,
    partition_of,
    replay_number,
    replayed_death,
    routing_key,
    salvage,
)

LEAST = {"session_id": "user-42", "text": "hello"}


@pytest.mark.parametrize(
    ("session_id", "key"),
    [("user-42", "0051"), ("slack:T1:C1:1700000000.000100", "0007"), ("héllo", "0054"), ("a", "0003")],
)
def test_partitions_are_those_of_the_contract(session_id: str, key: str) -> None:
    assert routing_key(partition_of(session_id, 64)) == key


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256), st.integers(1, 9999))
def test_every_session_has_a_partition(session_id: str, partitions: int) -> None:
    assert 0 <= partition_of(session_id, partitions) < partitions
    assert len(routing_key(partition_of(session_id, partitions))) == 4


def test_the_fields_of_a_turn_are_those_of_the_contract() -> None:
    assert list(InboundTurn.model_fields) == [
        "session_id", "text", "id", "channel", "address", "sender", "kind", "metadata", "created_at", "stream",
        "deadline_s",
    ]  # fmt: skip
    required = {name for name, field in InboundTurn.model_fields.items() if field.is_required()}
    assert required == {"session_id", "text"}


def test_the_fields_of_a_reply_are_those_of_the_contract() -> None:
    assert list(OutboundReply.model_fields) == [
        "id", "turn_id", "session_id", "seq", "kind", "text", "tool_calls", "channel", "address", "metadata",
        "created_at",
    ]  # fmt: skip


def test_the_least_turn_has_these_defaults() -> None:
    turn = InboundTurn.decode(json.dumps(LEAST).encode())
    assert turn.model_dump() == LEAST | {
        "id": None, "channel": "default", "address": None, "sender": None, "kind": "message", "metadata": {},
        "created_at": None, "stream": False, "deadline_s": None,
    }  # fmt: skip


def test_a_turn_survives_its_own_encoding() -> None:
    turn = InboundTurn.make(
        LEAST
        | {
            "id": "t", "channel": "slack", "address": {"c": [1, 2.5, None, True]}, "sender": "U1", "kind": "assist",
            "metadata": {"k": "é"}, "created_at": datetime(2026, 1, 2, tzinfo=UTC), "stream": True, "deadline_s": 3.5,
        }
    )  # fmt: skip
    assert InboundTurn.decode(turn.to_bytes()) == turn


@pytest.mark.parametrize("moment", ["2026-01-02T00:00:00Z", "2026-01-02T01:00:00+01:00", 1767312000, 1767312000.0])
def test_a_time_is_rfc_3339_or_seconds(moment: Any) -> None:
    turn = InboundTurn.make(LEAST | {"created_at": moment})
    assert turn.created_at == datetime(2026, 1, 2, tzinfo=UTC)


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        InboundTurn.make(LEAST).text = "changed"


@pytest.mark.parametrize(
    ("body_id", "message_id", "expected"),
    [("a", "b", "a"), (None, "b", "b"), ("a", None, "a"), (None, None, None), (None, "", None)],
)
def test_the_body_names_the_turn_before_the_message_does(
    body_id: str | None, message_id: str | None, expected: str | None
) -> None:
    assert InboundTurn.decode(json.dumps(LEAST | {"id": body_id}).encode(), message_id=message_id).id == expected


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "Application/JSON", "application/json; charset=utf-8"]
)
def test_these_content_types_are_json(content_type: str | None) -> None:
    assert InboundTurn.decode(json.dumps(LEAST).encode(), content_type=content_type).text == "hello"


@pytest.mark.parametrize("content_type", ["text/plain", "application/json+x", "json", ";application/json"])
def test_others_are_not(content_type: str) -> None:
    with pytest.raises(InvalidTurn, match="only application/json is accepted") as raised:
        InboundTurn.decode(json.dumps(LEAST).encode(), content_type=content_type)
    assert raised.value.reason == "content-type"


def test_the_limits_are_exact() -> None:
    InboundTurn.make({"session_id": "é" * 256, "text": "x" * MAX_TEXT_BYTES})
    with pytest.raises(InvalidTurn, match="session_id"):
        InboundTurn.make(LEAST | {"session_id": "s" * 257})
    with pytest.raises(InvalidTurn, match=f"has {MAX_TEXT_BYTES + 1} bytes") as raised:
        InboundTurn.make(LEAST | {"text": "x" * (MAX_TEXT_BYTES + 1)})
    assert raised.value.reason == "text-too-long"
    with pytest.raises(InvalidTurn, match="has 4 bytes of UTF-8, at most 3"):
        InboundTurn.make(LEAST | {"text": "éé"}, max_text_bytes=3)


def test_a_body_of_escapes_only_is_within_the_limit_of_a_text_that_is() -> None:
    """JSON may write each byte of a text as six."""
    text = "\x01" * MAX_TEXT_BYTES
    body = json.dumps(LEAST | {"text": text}).encode()
    assert len(body) > 6 * MAX_TEXT_BYTES
    assert InboundTurn.decode(body).text == text


def test_an_explanation_never_repeats_a_long_value() -> None:
    with pytest.raises(InvalidTurn) as raised:
        InboundTurn.make(LEAST | {"kind": "k" * 10_000, "session_id": "s" * 10_000, "metadata": "m" * 10_000})
    assert len(raised.value.detail) < 600
    assert raised.value.detail.count(";") == 2


# Nothing but InvalidTurn

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(InboundTurn.model_fields, JSON)
    | {"session_id": st.text(max_size=5) | JSON, "text": st.text() | JSON, "kind": st.sampled_from(["message", "x"])},
)


def _expect_turn_or_invalid(body: bytes, **properties: Any) -> InboundTurn | None:
    try:
        return InboundTurn.decode(body, **properties)
    except InvalidTurn as invalid:
        error = invalid
    assert error.reason
    assert error.detail
    return None


@given(st.binary(), st.none() | st.text(), st.none() | st.text())
@example(b"[" * 100_000, None, None)
@example(b'{"session_id":"s","text":"x","created_at":1e308}', None, None)
@example(b'{"session_id":"s","text":"x","address":%s}' % (b"9" * 5000), None, None)
@example(b'{"session_id":"s","text":"x"}', "\x00", None)
@example(b'{"session_id":"s","text":"x"}', "m" * 300, None)
def test_any_bytes_are_a_turn_or_invalid(body: bytes, message_id: str | None, content_type: str | None) -> None:
    _expect_turn_or_invalid(body, message_id=message_id, content_type=content_type)
    found = salvage(body, message_id=message_id)
    assert found.keys() <= {"id", "session_id", "channel", "address"}


@given(FIELDS | JSON, st.booleans())
def test_any_json_is_a_turn_that_can_be_answered_or_invalid(fields: Any, ascii_only: bool) -> None:
    """What is accepted can always be written again: a reply carries the address and the metadata."""
    body = json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    turn = _expect_turn_or_invalid(body)
    if turn is not None:
        reply = OutboundReply.decode(make_reply(Addressee.of(turn), "final", turn.text, seq=1).encode())
        assert (reply.address, reply.metadata, reply.text) == (turn.address, turn.metadata, turn.text)
        assert InboundTurn.decode(turn.to_bytes()) == turn


@given(FIELDS)
def test_what_is_salvaged_can_be_written_into_an_error_reply(fields: Any) -> None:
    found = salvage(json.dumps(fields).encode())
    to = Addressee(
        found.get("id", "t"), found.get("session_id", ""), found.get("channel", "default"), found.get("address")
    )
    assert OutboundReply.decode(make_reply(to, "error", "x").encode()).session_id == to.session_id


def test_of_an_unreadable_turn_only_the_valid_fields_are_salvaged() -> None:
    body = {"id": 5, "session_id": "s", "channel": "BAD", "address": {"a": 1}, "text": 1}
    assert salvage(json.dumps(body).encode(), message_id="m") == {"session_id": "s", "address": {"a": 1}}
    assert salvage(b"junk", message_id="m") == {"id": "m"}
    assert salvage(b"junk") == {}


# Dead letters


def test_a_dead_turn_survives_its_headers() -> None:
    letter = DeadTurn(reason="poison", error="why", trace="where", attempts=3, turn_id="t", session_id="s", queue="q",
                      routing_key="0051", consumer="c", replay=2)  # fmt: skip
    headers = letter.headers()
    assert all(name.startswith("sdqueue-") for name in headers)
    assert all(isinstance(value, (str, int)) for value in headers.values()), "no broker takes other values"
    assert DeadTurn.from_headers(headers | {"traceparent": "x", "sdqueue-hops": 3}) == letter


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEATH = {
    "reason": "delivery_limit",
    "queue": "q",
    "routing-keys": ["0051"],
    "time": "2026-03-01T12:00:00+00:00",
    "count": 1,
}


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({"x-death": [DEATH, {"reason": "older"}]}, ("delivery_limit", "q", "0051", NOON)),
        ({"x-death": [DEATH | {"time": "noon", "queue": 5, "routing-keys": 5}]}, ("delivery_limit", "", "", None)),
        ({"x-death": [DEATH | {"time": "2026-03-01T12:00:00"}]}, ("delivery_limit", "q", "0051", NOON)),
        ({"x-death": [DEATH | {"reason": 5}]}, ("unknown", "", "", None)),
        ({"x-death": ["x"]}, ("unknown", "", "", None)),
        ({"x-death": 5}, ("unknown", "", "", None)),
        ({"x-death": []}, ("unknown", "", "", None)),
        ({}, ("unknown", "", "", None)),
    ],
)  # fmt: skip
def test_a_letter_of_the_broker_itself_says_so(headers: dict[str, Any], known: tuple[Any, ...]) -> None:
    """Whatever somebody has written there; and no time is made up."""
    letter = DeadTurn.from_headers(headers)
    assert (letter.reason, letter.queue, letter.routing_key, letter.died_at) == known
    assert ("put away by the broker itself" in letter.error) == (known[0] == "delivery_limit")


def test_a_replay_names_the_death_that_it_answers() -> None:
    letter = DeadTurn(reason="poison", error="why", replay=2)
    assert letter.died_at is not None
    for headers in (letter.replay_headers(), DeadTurn.from_headers(letter.headers()).replay_headers()):
        assert replay_number(headers) == 3
        assert replayed_death(headers) == letter.died_at.timestamp(), "the same number, to the last digit"
    assert replayed_death(DeadTurn.from_headers({}).replay_headers()) is None


@pytest.mark.parametrize("forged", ["1", True, -1, 1.0, None, [1], 10**9])
def test_a_forged_replay_is_none(forged: Any) -> None:
    assert replay_number({"sdqueue-replay": forged}) == 0
    assert replayed_death({"sdqueue-replay-of": forged}) is None


def test_forged_headers_are_not_believed() -> None:
    """A producer may send what looks like ours, and the broker may put that message away."""
    letter = DeadTurn.from_headers(
        {"sdqueue-reason": 5, "sdqueue-attempts": "many", "x-death": [{"reason": "expired"}]}
    )
    assert letter.reason == "unreadable"
    assert "reason" in letter.error
