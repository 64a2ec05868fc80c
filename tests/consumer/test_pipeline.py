"""The path of a turn: kinds, order, repeats, streams, and whose turn it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from sdqueue.agents import StreamChunk, current_turn
from sdqueue.brokers import Message
from sdqueue.messages import OutboundReply, partition_of, routing_key
from tests.consumer.stand import Puppet, Stand


async def test_a_turn_is_answered_with_what_it_brought_along(stand: Stand) -> None:
    async with stand.running() as member:
        turn = await stand.send("s", "hello", address={"chat": [1, None]}, metadata={"k": "v"})
        reply = await stand.expect_reply(turn)
        assert await member.watcher.expect_settled(1) == [(turn, "completed")]
    assert reply.id == f"{turn}:0"
    assert (reply.session_id, reply.turn_id, reply.seq, reply.text) == ("s", turn, 1, "1. hello")
    assert (reply.channel, reply.address) == ("default", {"chat": [1, None]})
    assert reply.metadata == {"k": "v", "consumer": "tester"}
    assert await stand.depth() == 0


async def test_turns_of_a_session_take_effect_in_order_and_are_numbered(stand: Stand) -> None:
    async with stand.running():
        for n in range(50):
            await stand.send("s", str(n))
        replies = await stand.expect_replies(50)
    assert [r.text for r in replies] == [f"{n + 1}. {n}" for n in range(50)]
    assert [r.seq for r in replies] == list(range(1, 51))


async def test_sessions_do_not_wait_for_each_other(stand: Stand) -> None:
    """Each of 40 sessions waits until all of them have begun: one after the other they would never end."""
    together = asyncio.Barrier(40)

    async def meet(_: Puppet) -> str:
        await together.wait()
        return "met"

    async with stand.running({"meet": meet}):
        for n in range(40):
            await stand.send(f"s{n}", "meet")
        replies = await stand.expect_replies(40)
    assert {r.text for r in replies} == {"met"}


async def test_an_agent_knows_which_turn_it_answers(stand: Stand) -> None:
    async def who(_: Puppet) -> str:
        turn = current_turn()
        assert turn is not None
        return f"{turn.turn_id} {turn.session_id} {turn.attempt} {turn.metadata}"

    async with stand.running({"who": who}):
        await stand.send("s", "who", id="the-turn", metadata={"language": "hi"})
        assert (await stand.expect_reply("the-turn")).text == "the-turn s 1 {'language': 'hi'}"


async def test_a_note_is_taken_and_answered_without_the_agent(stand: Stand) -> None:
    async with stand.running():
        note = await stand.send("s", "a VIP", kind="assist")
        turn = await stand.send("s", "hi")
        reply = await stand.expect_reply(turn)
    noted = await stand.expect_reply(note)
    assert (noted.text, noted.seq, noted.metadata["turn_kind"]) == ("", 1, "assist")
    assert (reply.text, reply.seq) == ("[a VIP] 1. hi", 2)


async def test_a_reset_forgets_the_conversation_but_not_the_outcomes(stand: Stand) -> None:
    async with stand.running():
        before = await stand.send("s", "one")
        reset = await stand.send("s", kind="reset")
        after = await stand.send("s", "two")
        await stand.send("s", "one", id=before)  # a repeat of what was before the reset
        await stand.expect_replies(4)
    assert stand.replies[1].metadata["turn_kind"] == "reset"
    assert [r.turn_id for r in stand.replies] == [before, reset, after, before]
    assert [r.text for r in stand.replies] == ["1. one", "", "1. two", "1. one"]
    assert (await stand.record("s")).seq == 3


# Repeats


async def test_a_repeat_gets_the_same_reply_byte_for_byte_and_does_not_run(stand: Stand) -> None:
    ran: list[str] = []

    async def count(_: Puppet) -> str:
        ran.append("x")
        return f"run {len(ran)}"

    async with stand.running({"count": count}) as member:
        for _ in range(3):
            await stand.send("s", "count", id="same")
        assert await member.watcher.expect_settled(3) == [
            ("same", "completed"),
            ("same", "duplicate"),
            ("same", "duplicate"),
        ]
    assert ran == ["x"]
    assert len(set(stand.bodies)) == 1
    assert len(stand.bodies) == 3


async def test_a_repeat_of_which_only_the_id_is_left_is_dropped_in_silence(stand: Stand) -> None:
    """After 64 other turns its reply is forgotten, its id is not."""
    async with stand.running() as member:
        await stand.send("s", "first", id="first")
        for n in range(64):
            await stand.send("s", str(n))
        await stand.expect_replies(65)
        await stand.send("s", "first", id="first")
        last = await stand.send("s", "last")
        assert (await stand.expect_reply(last)).text == "66. last"
        assert ("first", "duplicate") in member.watcher.settled
    assert [r.turn_id for r in stand.replies].count("first") == 1


async def test_one_turn_in_two_consumers_at_once_has_its_effect_once() -> None:
    """Two brokers bring the same turn to two consumers at the same time, over one store and one lock."""
    ran: list[str] = []
    slow = asyncio.Event()

    async def count(_: Puppet) -> str:
        ran.append("x")
        await slow.wait()
        return "ran"

    async with Stand() as one, Stand(store=one.store) as two:
        two.locks = one.locks
        async with one.running({"count": count}) as first, two.running({"count": count}) as second:
            await one.send("s", "count", id="same")
            await two.send("s", "count", id="same")
            await second.watcher.expect("turn_received")
            slow.set()
            await one.expect_reply("same")
            await two.expect_reply("same")
            states = {first.watcher.settled[0][1], second.watcher.settled[0][1]}
        assert ran == ["x"]
        assert states == {"completed", "duplicate"}
        assert one.bodies == two.bodies


async def test_without_a_common_lock_the_version_decides_and_the_loser_gives_the_winner_s_reply() -> None:
    """As with a lock that has expired: both agents run, both would save version 1. One does."""
    both = asyncio.Barrier(2)
    replies = iter(["a", "b", "never"])

    async def answer(_: Puppet) -> str:
        text = next(replies)
        await both.wait()
        return text

    async with Stand() as one, Stand(store=one.store) as two:
        async with one.running({"answer": answer}) as first, two.running({"answer": answer}) as second:
            await one.send("s", "answer", id="same")
            await two.send("s", "answer", id="same")
            await one.expect_reply("same")
            await two.expect_reply("same")
            states = {first.watcher.settled[0][1], second.watcher.settled[0][1]}
        assert states == {"completed", "duplicate"}
        assert one.bodies == two.bodies
        assert (await one.record("s")).seq == 1


async def test_a_turn_without_an_id_runs_each_time_and_is_counted(stand: Stand) -> None:
    async with stand.running() as member:
        for _ in range(2):
            await stand.send("s", "x", id=None)
        replies = await stand.expect_replies(2)
        await stand.send("s", "named")
        received = await member.watcher.expect("turn_received", 3)
    assert [r.text for r in replies[:2]] == ["1. x", "2. x"]
    assert [event["anonymous"] for event in received] == [True, True, False]


async def test_the_message_id_names_a_turn_whose_body_does_not(stand: Stand) -> None:
    async with stand.running() as member:
        for _ in range(2):
            await stand.send_raw(b'{"session_id": "s", "text": "x"}', "s", message_id="from-amqp")
        assert await member.watcher.expect_settled(2) == [("from-amqp", "completed"), ("from-amqp", "duplicate")]


# Streams


async def test_deltas_come_in_order_before_the_final_reply(stand: Stand) -> None:
    async def talk(agent: Puppet) -> object:
        async def pieces() -> AsyncIterator[StreamChunk]:
            for piece in ("one ", "two ", "three"):
                wanted = len(stand.replies) + 1
                yield StreamChunk(piece)
                await stand.expect_replies(wanted)
            yield StreamChunk(done=True)

        return pieces()

    async with stand.running({"talk": talk}):
        turn = await stand.send("s", "talk", stream=True)
        await stand.expect_reply(turn)
    *deltas, final = stand.replies
    assert [d.text for d in deltas] == ["one ", "two ", "three"]
    assert [d.kind for d in deltas] == ["delta"] * 3
    assert {d.seq for d in deltas} == {final.seq} == {1}
    assert (final.kind, final.text, final.id) == ("final", "one two three", f"{turn}:0")
    attempt = deltas[0].id.split(".")[1]
    assert [d.id for d in deltas] == [f"{turn}:0.{attempt}.{n}" for n in range(3)]


async def test_an_agent_that_cannot_stream_gives_one_delta(stand: Stand) -> None:
    async with stand.running():
        turn = await stand.send("s", "whole", stream=True)
        await stand.expect_reply(turn)
    assert [(r.kind, r.text) for r in stand.replies] == [("delta", "1. whole"), ("final", "1. whole")]


async def test_the_deltas_of_another_attempt_have_other_ids(stand: Stand) -> None:
    """Else a receiver that drops repeats would put two answers together."""
    attempts: list[str] = []

    async def talk(_: Puppet) -> object:
        async def pieces() -> AsyncIterator[StreamChunk]:
            attempts.append("x")
            yield StreamChunk(f"try {len(attempts)}")
            await stand.expect_replies(len(attempts))
            if len(attempts) == 1:
                raise ConnectionError("the model hung up")
            yield StreamChunk(done=True)

        return pieces()

    async with stand.running({"talk": talk}):
        turn = await stand.send("s", "talk", stream=True)
        final = await stand.expect_reply(turn)
    first, second, _ = stand.replies
    assert (first.text, second.text, final.text) == ("try 1", "try 2", "try 2")
    assert first.id != second.id
    assert (first.metadata["attempt"], second.metadata["attempt"]) == (1, 2)


# Whose turn it is


@pytest.mark.parametrize("key", ["9999", "s", ""])
async def test_a_turn_under_another_routing_key_finds_its_partition(stand: Stand, key: str) -> None:
    async with stand.running() as member:
        body = json.dumps({"session_id": "s", "text": "x", "id": "stray"}).encode()
        await stand.broker.publish(stand.topology.turns, key, Message(body, headers={"traceparent": "00-1-2-03"}))
        await stand.expect_reply("stray")
        assert await member.watcher.expect_settled(2) == [("stray", "forwarded"), ("stray", "completed")]


async def test_turns_of_a_wrong_partition_are_forwarded_in_order(stand: Stand) -> None:
    wrong = routing_key((partition_of("s", 4) + 1) % 4)
    async with stand.running():
        for n in range(20):
            body = json.dumps({"session_id": "s", "text": str(n), "id": f"n{n}"}).encode()
            await stand.broker.publish(stand.topology.turns, wrong, Message(body))
        replies = await stand.expect_replies(20)
    assert [r.text for r in replies] == [f"{n + 1}. {n}" for n in range(20)]


async def test_a_turn_that_is_sent_round_in_circles_is_given_up(stand: Stand) -> None:
    body = json.dumps({"session_id": "s", "text": "x", "id": "ball"}).encode()
    async with stand.running():
        await stand.broker.publish(stand.topology.turns, "elsewhere", Message(body, headers={"sdqueue-hops": 5}))
        (letter,) = await stand.expect_dead()
        error = await stand.expect_reply("ball", kind="error")
    assert letter.reason == "partitions-disagree"
    assert "SDQUEUE_PARTITIONS" in letter.error
    assert error.metadata["reason"] == "partitions-disagree"


async def test_a_forwarded_turn_is_acknowledged_only_after_it_has_arrived(stand: Stand) -> None:
    async with stand.running() as member:
        frozen = member.faults.freeze("turn")
        body = json.dumps({"session_id": "s", "text": "x", "id": "stray"}).encode()
        await stand.broker.publish(stand.topology.turns, "elsewhere", Message(body))
        await frozen.expect_reached()
        member.cut_off()
        await member.watcher.expect("turn_received", 2)  # it was not acknowledged, and came again
        frozen.go_on.set()
        await stand.expect_reply("stray")
        await member.watcher.expect_settled(4)
    assert sorted(state for _, state in member.watcher.settled) == ["completed", "duplicate", "forwarded", "forwarded"]


def test_the_stand_reads_replies_as_the_contract_has_them() -> None:
    reply = OutboundReply(id="a:0", turn_id="a", session_id="s", seq=1, kind="final", text="x")
    assert OutboundReply.decode(reply.to_bytes()) == reply
