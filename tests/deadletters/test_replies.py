"""Letters of replies that could not be delivered: they go back to their channel, and park nobody."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sdqueue.deadletters import DeadLetters, LetterFilter
from sdqueue.errors import Unroutable
from sdqueue.messages import REPLAY_HEADER, DeadTurn, OutboundReply
from sdqueue.sessions import AsyncioLockBackend, InMemorySessionStore, SessionRecord
from tests.deadletters.office import NOON, Office


def letter_of(reply: OutboundReply, **more: object) -> DeadTurn:
    known = {
        "reply_id": reply.id, "turn_id": reply.turn_id, "session_id": reply.session_id, "channel": reply.channel,
        "reason": "reply-channel-not-found", "error": "no such channel", "died_at": NOON,
    }  # fmt: skip
    return DeadTurn(**(known | more))


REPLY = OutboundReply(id="t1:0", turn_id="t1", session_id="s", seq=1, kind="final", text="hello", channel="fake")


async def bury(office: Office, reply: OutboundReply = REPLY, **more: object) -> None:
    await office.put(reply.to_bytes(), letter_of(reply, **more).headers(), message_id=reply.id, correlation_id="t1")


async def test_a_dead_reply_is_named_after_itself_and_not_taken_for_its_turn(office: Office) -> None:
    await office.bury("t1")
    await bury(office)

    assert sorted(await office.names()) == ["t1", "t1:0"]
    found = await office.letters.list(LetterFilter(names=frozenset({"t1:0"})))
    assert [letter.is_reply for letter in found.letters] == [True]
    assert found.letters[0].message.body == REPLY.to_bytes()


async def test_a_replayed_reply_goes_to_its_channel_as_it_came_and_no_turn_runs(office: Office) -> None:
    queue = await office.broker.declare_egress("fake")
    other = await office.broker.declare_egress("other")
    await bury(office, died_at=NOON + timedelta(minutes=1), replay=1)

    done = await office.letters.replay(LetterFilter(names=frozenset({"t1:0"})))

    assert len(done.letters) == 1
    assert await office.names() == []
    (message,) = await office.drain(queue)
    assert message.body == REPLY.to_bytes()
    assert (message.message_id, message.correlation_id) == ("t1:0", "t1")
    assert message.headers[REPLAY_HEADER] == 2
    assert await office.put_back("s") == []
    assert await office.drain(other) == []


async def test_a_reply_whose_channel_has_no_queue_stays_among_the_dead(office: Office) -> None:
    await bury(office)

    with pytest.raises(Unroutable):
        await office.letters.replay(LetterFilter())

    assert await office.names() == ["t1:0"]


async def test_discarding_a_reply_releases_no_session(office: Office) -> None:
    """A session may be parked behind the same turn, whose own letter says what to do about it."""
    store, locks = InMemorySessionStore(), AsyncioLockBackend()
    await store.save("s", SessionRecord(parked_by="t1"))
    await bury(office)

    await DeadLetters(office.broker, store=store, locks=locks).discard(LetterFilter())

    kept = await store.load("s")
    assert kept is not None
    assert kept.parked_by == "t1"
    assert await office.names() == []


async def test_what_is_no_reply_is_put_back_where_it_came_from(office: Office) -> None:
    queue = await office.broker.declare_egress("fake")
    why = DeadTurn(reason="reply-unreadable", error="no JSON", reply_id="unreadable-1", channel="fake", died_at=NOON)
    await office.put(b"nonsense", why.headers())

    await office.letters.replay(LetterFilter())

    assert [message.body for message in await office.drain(queue)] == [b"nonsense"]
