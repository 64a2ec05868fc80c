"""What is no turn is put away with a reason that a person understands, and touches nothing around it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from sdqueue.brokers import Delivery, Message
from tests.consumer.stand import Stand


@dataclass(frozen=True)
class Bad:
    """A body that is no turn.

    Parameters:
        body: the bytes.
        reason: the slug of its dead letter.
        says: pieces of the sentence: the field, the value, the limit.
        told: whether the sender is known, and gets an error reply.
        properties: of the message.
    """

    body: bytes
    reason: str
    says: tuple[str, ...]
    told: bool
    properties: dict[str, Any] = field(default_factory=dict)


def turn(**fields: Any) -> bytes:
    return json.dumps({"session_id": "s", "text": "x", "id": "bad"} | fields).encode()


def without(name: str) -> bytes:
    fields = json.loads(turn())
    del fields[name]
    return json.dumps(fields).encode()


BAD = {
    "not json": Bad(b"{nope", "not-json", ("body: is not JSON", "line 1 column 2"), told=False),
    "not utf-8": Bad(b'{"session_id": "\xff"}', "not-json", ("body: is not JSON in UTF-8",), told=False),
    "json, but no object": Bad(b'["s", "x"]', "not-json", ("body: is a JSON list", "object is expected"), told=False),
    "an infinite number": Bad(turn(address=float("inf")), "not-json", ("body: is not JSON",), told=False),
    "empty": Bad(b"", "empty-body", ("body: is empty", "session_id and text"), told=False),
    "16 MiB": Bad(
        turn(text="x" * 16 * 1024 * 1024),
        "body-too-large",
        ("body: has 167772", "at most 2097152"),
        told=False,
    ),
    "deeply nested": Bad(
        b'{"session_id": "s", "text": "x", "address": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "not-json",
        ("body: is not JSON", "recursion limit"),
        told=False,
    ),
    "wrong content type": Bad(
        turn(), "content-type", ("'text/xml'", "application/json"), told=True, properties={"content_type": "text/xml"}
    ),
    "no session_id": Bad(without("session_id"), "invalid-field", ("session_id: is missing",), told=False),
    "empty session_id": Bad(turn(session_id=""), "invalid-field", ("session_id", "at least 1", "''"), told=False),
    "over-long session_id": Bad(
        turn(session_id="s" * 257), "invalid-field", ("session_id", "at most 256", "'sss"), told=False
    ),
    "session_id is a number": Bad(
        turn(session_id=42), "invalid-field", ("session_id", "valid string", "42"), told=False
    ),
    "control character": Bad(turn(session_id="a\tb"), "invalid-field", ("session_id", "U+0009"), told=False),
    "no text": Bad(without("text"), "invalid-field", ("text: is missing",), told=True),
    "text is no string": Bad(turn(text=["x"]), "invalid-field", ("text", "valid string", "an array"), told=True),
    "text too long": Bad(turn(text="é" * 131_073), "text-too-long", ("text: has 262146 bytes", "262144"), told=True),
    "NUL in the text": Bad(turn(text="a\x00b"), "invalid-field", ("text", "NUL", "U+0000"), told=True),
    "lone surrogate": Bad(
        b'{"session_id": "s", "id": "bad", "text": "\\ud800"}',
        "not-json",
        ("body: is not JSON", "surrogate"),
        told=False,
    ),
    "unknown kind": Bad(turn(kind="shout"), "invalid-field", ("kind", "'message'", "'shout'"), told=True),
    "stream is no boolean": Bad(turn(stream="yes"), "invalid-field", ("stream", "boolean", "'yes'"), told=True),
    "deadline is no number": Bad(turn(deadline_s="1"), "invalid-field", ("deadline_s", "number", "'1'"), told=True),
    "deadline is negative": Bad(
        turn(deadline_s=-1), "invalid-field", ("deadline_s", "greater than 0", "-1"), told=True
    ),
    "metadata is no object": Bad(turn(metadata=[1]), "invalid-field", ("metadata", "dictionary", "array"), told=True),
    "channel of capitals": Bad(turn(channel="Slack!"), "invalid-field", ("channel", "'Slack!'"), told=True),
    "created_at is no time": Bad(
        turn(created_at="now"), "invalid-field", ("created_at", "datetime", "'now'"), told=True
    ),
    "a number that JSON cannot hold": Bad(
        b'{"session_id": "s", "id": "bad", "text": "x", "address": 1e999}',
        "invalid-field",
        ("address", "finite number, got inf"),
        told=True,
    ),
    "several at once": Bad(turn(kind="shout", stream=1), "invalid-field", ("kind: ", "; stream: "), told=True),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_it_is_put_away_and_its_neighbours_are_answered_in_order(stand: Stand, bad: Bad) -> None:
    """Given valid turns before and behind it, in its session and in another one of its partition."""
    neighbour = next(f"n{n}" for n in range(100) if stand.partition(f"n{n}") == stand.partition("s"))
    for session in ("s", neighbour):
        await stand.send(session, "before")
    await stand.send_raw(bad.body, "s", **bad.properties)
    for session in ("s", neighbour):
        await stand.send(session, "behind")
    async with stand.running() as member:
        (letter,) = await stand.expect_dead()
        await stand.expect_replies(5 if bad.told else 4)
        await member.watcher.expect_settled(5)
        assert [state for _, state in member.watcher.settled].count("dead") == 1
        assert member.watcher.of("internal_error") == []

    for session in ("s", neighbour):
        assert stand.answers(session) == ["1. before", "2. behind"]
    assert letter.reason == bad.reason
    for piece in bad.says:
        assert piece in letter.error
    assert len(letter.error) <= 1000
    assert (letter.attempts, letter.consumer, letter.trace) == (0, "tester", "")
    assert letter.queue == stand.topology.partition_queue(stand.partition("s"))
    assert stand.dead[0].message.body == bad.body, "the dead letter is not what came"

    errors = [r for r in stand.replies if r.kind == "error"]
    if bad.told:
        (error,) = errors
        assert (error.session_id, error.turn_id, error.id, error.seq) == ("s", "bad", "bad:0", 0)
        assert error.metadata["reason"] == bad.reason
        assert bad.says[0].split(":")[0] in error.text
    else:
        assert errors == []


async def test_of_a_bad_turn_what_can_be_read_says_where_the_error_goes(stand: Stand) -> None:
    await stand.send_raw(turn(kind="shout", channel="default", address={"room": 7}), "s")
    async with stand.running():
        error = await stand.expect_reply("bad", kind="error")
    assert (error.channel, error.address) == ("default", {"room": 7})


async def test_whoever_asked_directly_is_told_even_where_nothing_can_be_read(stand: Stand) -> None:
    heard: list[bytes] = []

    def hear(delivery: Delivery) -> None:
        heard.append(delivery.message.body)
        stand.changes.wake()

    private = await stand.broker.subscribe_replies(hear)
    async with stand.running():
        await stand.send_raw(b"\x00", "s", reply_to=private.queue, message_id="m1")
        await stand.changes.until(lambda: heard)
    error = json.loads(heard[0])
    assert (error["kind"], error["turn_id"], error["session_id"]) == ("error", "m1", "")
    assert "not JSON" in error["text"]
    assert stand.replies == [], "without a session there is nobody on the replies exchange to tell"


async def test_unknown_fields_are_ignored(stand: Stand) -> None:
    """A newer producer can talk to an older consumer."""
    async with stand.running():
        await stand.send("s", "x", id="newer", colour="red", nested={"a": [1]})
        assert (await stand.expect_reply("newer")).text == "1. x"
    assert stand.dead == []


async def test_a_bad_cancel_stops_nothing(stand: Stand) -> None:
    async with stand.running() as member:
        frozen = member.faults.freeze("save")
        await stand.send("s", "hello", id="good")
        await frozen.expect_reached()
        await stand.send_raw(turn(kind="cancel", stream=5), "s")
        await stand.expect_dead()
        frozen.go_on.set()
        assert (await stand.expect_reply("good")).text == "1. hello"


async def test_the_limit_of_a_text_is_the_consumer_s_own(stand: Stand) -> None:
    async with stand.running(max_text_bytes=10):
        await stand.send("s", "x" * 10, id="fits")
        await stand.send("s", "x" * 11, id="long")
        await stand.expect_reply("fits")
        (letter,) = await stand.expect_dead()
    assert letter.error == "text: has 11 bytes of UTF-8, at most 10 are accepted"


async def test_headers_of_a_message_stay_beside_those_of_its_death(stand: Stand) -> None:
    """And a message cannot bring its own reason along."""
    async with stand.running():
        await stand.send_raw(b"{", "s", headers={"traceparent": "00-a-b-01", "sdqueue-reason": "made-up"})
        (letter,) = await stand.expect_dead()
    headers = stand.dead[0].message.headers
    assert (headers["traceparent"], letter.reason) == ("00-a-b-01", "not-json")


async def test_a_message_that_is_no_turn_is_put_away_from_the_unrouted_queue_too(stand: Stand) -> None:
    async with stand.running():
        await stand.broker.publish(stand.topology.turns, "no partition", Message(b"junk"))
        (letter,) = await stand.expect_dead()
    assert (letter.reason, letter.queue) == ("not-json", stand.topology.unrouted)


@pytest.mark.parametrize("own", [{"big": "x" * 120_000}, {"many": list(range(15_000))}, {"deep": {"é" * 50_000: None}}])
async def test_headers_that_leave_no_room_for_ours_are_not_kept(stand: Stand, own: dict[str, Any]) -> None:
    """All headers of a message must fit one frame; what came with just as many could never be put away or forwarded."""
    trace = {"traceparent": "00-a-b-01", "sdqueue-replay": 2}
    elsewhere = next(f"n{n}" for n in range(100) if stand.partition(f"n{n}") != stand.partition("s"))
    async with stand.running() as member:
        await stand.send_raw(b"{", "s", headers=trace | own)
        (letter,) = await stand.expect_dead()
        await stand.send_raw(turn(id="moved"), elsewhere, headers=trace | own)
        assert (await stand.expect_reply("moved")).id == "moved:2"
        assert member.watcher.settled[1:] == [("moved", "forwarded"), ("moved", "completed")]
    headers = stand.dead[0].message.headers
    assert not headers.keys() & own.keys()
    assert (headers["traceparent"], letter.reason, letter.replay) == ("00-a-b-01", "not-json", 2)
