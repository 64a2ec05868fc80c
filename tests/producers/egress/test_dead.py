"""Replies that cannot be delivered."""

from __future__ import annotations

import asyncio

from sdqueue_producers import Caps, Parked, Permanent, RetryAfter

from sdqueue.brokers import Message
from sdqueue.deadletters import DeadLetters, LetterFilter
from tests.producers.egress.platform import server_error
from tests.producers.egress.world import World, made_up

GONE = Permanent("channel-not-found", "channel C1 is not there; invite the bot")


def test_a_permanent_failure_is_a_letter_with_the_message_byte_for_byte_and_the_next_reply_goes_on() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.append(GONE)
            reply = await world.say.final("t1", "one")
            await world.say.final("t2", "two")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["two"]
            (letter,) = await world.letters()
            assert letter.name == "t1:0"
            assert letter.message.body == reply.to_bytes()
            assert letter.message.headers["traceparent"] == "00-1-2-01"
            why = letter.why
            assert (why.reason, why.attempts, why.turn_id, why.session_id) == ("reply-channel-not-found", 1, "t1", "s")
            assert (why.queue, why.channel) == ("t.replies.fake", "fake")
            assert why.routing_key.startswith("fake.final.")
            assert why.error == "channel C1 is not there; invite the bot"
            assert world.notes.count("reply_dead", reply_id="t1:0") == 1

    made_up(scenario)


def test_a_replayed_reply_is_delivered_though_it_is_remembered_and_once_only() -> None:
    async def scenario() -> None:
        async with World(Caps(max_chars=8)) as world:
            world.platform.faults.extend([None, GONE])
            await world.say.final("t1", "part one\n\npart two")
            async with world.egress():
                await world.settled()
                assert world.platform.texts() == ["part one"]
                (letter,) = await world.letters()
                again = letter.revived()

                await DeadLetters(world.broker).replay(LetterFilter())
                await world.settled()
                assert world.platform.texts() == ["part one", "part two"]
                assert await world.letters() == []

                await world.broker.publish(*letter.place(world.broker.topology), again)
                await world.say.final("t2", "next")
                await world.settled()
            assert world.platform.texts() == ["part one", "part two", "next"]

    made_up(scenario)


def test_a_replay_may_die_again_and_be_replayed_again() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.extend([GONE, GONE])
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
                for replay in (0, 1):
                    (letter,) = await world.letters()
                    assert letter.why.replay == replay
                    await DeadLetters(world.broker).replay(LetterFilter(names=frozenset({"t1:0"})))
                    await world.settled()
            assert world.platform.texts() == ["one"]
            assert await world.letters() == []

    made_up(scenario)


def test_a_replay_waits_in_the_outbox_and_stays_a_replay() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.extend([GONE, RetryAfter(500, "HTTP 429")])
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
                await DeadLetters(world.broker).replay(LetterFilter())
                await world.settled()
            assert world.platform.texts() == ["one"]

    made_up(scenario)


def test_a_letter_of_a_reply_that_was_shown_after_all_is_not_shown_twice() -> None:
    """The process died between the letter and its record, and the next one was let in by the platform."""

    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.append(GONE)
            reply = await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
                await world.state.delete(["fake:delivery:t1:0"])
                await world.say.put(reply)
                await world.settled()
                await DeadLetters(world.broker).replay(LetterFilter())
                await world.settled()
            assert world.platform.texts() == ["one"]

    made_up(scenario)


def test_a_schedule_is_kept_to_and_after_it_the_reply_is_dead() -> None:
    async def scenario() -> None:
        async with World(Caps(retry_s=(0.0, 5.0, 300.0, 1800.0))) as world:
            times: list[float] = []
            began = world.clock()

            async def note(kind: str, address: object) -> None:
                times.append(world.clock() - began)

            world.platform.hold = note
            world.platform.faults.extend(server_error() for _ in range(5))
            await world.say.final("t1", "one")
            async with world.egress():
                await asyncio.sleep(100)
            async with world.egress():  # it holds across processes
                await world.settled()
                await world.say.final("t2", "two")
                await world.settled()
            assert [5 * round(time / 5) for time in times[:5]] == [0, 0, 5, 305, 2105]
            assert world.platform.texts() == ["two"]
            (letter,) = await world.letters()
            assert (letter.why.reason, letter.why.attempts) == ("reply-retries-used-up", 5)
            assert "HTTP 500" in letter.why.error

    made_up(scenario)


def test_without_a_schedule_it_is_tried_for_a_day() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.extend(server_error() for _ in range(1000))
            await world.say.final("t1", "one")
            began = world.clock()
            async with world.egress():
                await world.settled()
            (letter,) = await world.letters()
            assert 23 * 3600 < world.clock() - began < 25 * 3600
            assert letter.why.reason == "reply-retries-used-up"
            assert 100 < letter.why.attempts < 250

    made_up(scenario)


def test_what_is_no_reply_is_a_letter_and_the_next_one_goes_on() -> None:
    async def scenario() -> None:
        async with World() as world:
            bodies = [b"nonsense", b"\xff\xfe", b"{}", b"[]", b'{"id": 1}', b""]
            for body in bodies:
                await world.broker.publish("t.replies", "fake.final.0000", Message(body))
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["one"]
            letters = await world.letters()
            assert sorted(letter.message.body for letter in letters) == sorted(bodies)
            assert {letter.why.reason for letter in letters} == {"reply-unreadable"}
            assert all(letter.is_reply and letter.why.error for letter in letters)

    made_up(scenario)


def test_an_address_that_the_channel_cannot_read_is_a_letter() -> None:
    async def scenario() -> None:
        async with World() as world:
            await world.say.final("t1", "one", address="nonsense")
            await world.say.final("t2", "two")
            async with world.egress():
                await world.settled()
            assert [letter.why.reason for letter in await world.letters()] == ["reply-bad-address"]
            assert world.platform.texts() == ["two"]

    made_up(scenario)


def test_what_has_nothing_to_show_is_not_shown_and_its_turn_has_ended() -> None:
    async def scenario() -> None:
        async with World() as world:
            await world.say.final("t1", "")
            await world.say.final("t2", "Interrupted.", kind="error", metadata={"reason": "interrupted"})
            await world.say.final("t3", "Sorry.", kind="error", metadata={"reason": "timeout"})
            await world.say.final("t4", "yes", metadata={"reason": "interrupted"})  # the producer's own word
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["Sorry.", "yes"]
            ended = await world.state.get([f"fake:ended:t{number}" for number in range(1, 5)])
            assert ended == ["1"] * 4

    made_up(scenario)


def test_a_program_gets_the_end_of_every_turn() -> None:
    async def scenario() -> None:
        async with World(Caps(every_reply=True)) as world:
            await world.say.final("t1", "")
            await world.say.final("t2", "Interrupted.", kind="error", metadata={"reason": "interrupted"})
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["", "Interrupted."]

    made_up(scenario)


def test_errors_that_are_not_to_be_shown_are_not() -> None:
    async def scenario() -> None:
        async with World(Caps(errors_visible=False)) as world:
            await world.say.final("t1", "Sorry.", kind="error")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == []
            assert await world.state.get(["fake:ended:t1"]) == ["1"]

    made_up(scenario)


def test_a_replay_of_a_reply_whose_outcome_stayed_unknown_looks_for_it_first() -> None:
    """Given one that was shown, and of which a platform that answers nothing any more did not tell for a day."""

    async def scenario() -> None:
        async with World(Caps(can_find=True, retry_s=(1.0,))) as world, world.egress():
            world.platform.faults.extend(["cut", RetryAfter(None, "HTTP 500"), RetryAfter(None, "HTTP 500")])
            await world.say.final("t1", "one")
            await world.settled()
            assert [letter.why.reason for letter in await world.letters()] == ["reply-retries-used-up"]
            await DeadLetters(world.broker).replay(LetterFilter())
            await world.settled()
            assert world.platform.texts() == ["one"]

    made_up(scenario)


def test_what_waits_in_the_outbox_and_is_no_reply_is_a_letter_and_the_next_one_goes_on() -> None:
    """As a newer release may have written it: a process that it ended would be followed by the next one, for ever."""

    async def scenario() -> None:
        async with World() as world:
            for key, body in (("t1:0", "nonsense"), ("t2:0", '{"form": 2}'), ("t3:0", "[1]")):
                await world.state.park("fake", "s", Parked(key, body, 1, 0.0, 0.0))
            await world.say.final("t4", "four")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["four"]
            letters = await world.letters()
            assert [(letter.name, letter.why.reason) for letter in letters] == [
                (f"t{n}:0", "reply-unreadable") for n in (1, 2, 3)
            ]
            assert letters[1].message.body == b'{"form": 2}'

    made_up(scenario)
