"""Answers that are shown while they are being made."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from sdqueue_producers import Ambiguous, Bucket, Caps, Permanent, RetryAfter

from tests.producers.egress.world import World, made_up

EDITS = Caps(can_edit=True)
STREAM = Caps(can_edit=True, native_stream=True)
ONLY_STREAM = Caps(native_stream=True)


async def speak(world: World, count: int, *, every_s: float = 0.5, turn: str = "t1", session: str = "s") -> str:
    for number in range(count):
        await world.say.delta(turn, number, f"{number} ", session)
        await asyncio.sleep(every_s)
    return "".join(f"{number} " for number in range(count))


def test_a_message_is_edited_as_the_answer_grows_and_becomes_the_final_text() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            text = await speak(world, 10)
            await world.say.final("t1", text + "end")
            await world.settled()
            (message,) = world.platform.messages
            assert message.text == text + "end"
            assert 5 <= len(message.texts) <= 8, "an edit a second, not one a delta"
            assert all(
                later.startswith(sooner) for sooner, later in zip(message.texts, message.texts[1:], strict=False)
            )
            assert world.notes.count("reply_delivered", reply_id="t1:0") == 1

    made_up(scenario)


def test_a_native_stream_is_appended_to_and_finished() -> None:
    async def scenario() -> None:
        for caps in (STREAM, ONLY_STREAM):
            async with World(caps) as world, world.egress():
                text = await speak(world, 10)
                await world.say.final("t1", text + "end")
                await world.settled()
                (message,) = world.platform.messages
                assert (message.text, message.open) == (text + "end", False)
                kinds = [kind for kind, _ in world.platform.calls]
                assert kinds[0] == "stream"
                assert kinds[-1] == "finish"
                assert 4 <= kinds.count("append") <= 8
                assert "edit" not in kinds

    made_up(scenario)


def test_without_edits_and_streams_only_the_final_text_is_shown_and_deltas_are_acknowledged() -> None:
    async def scenario() -> None:
        async with World() as world, world.egress():
            await speak(world, 5)
            assert await world.broker.depth("t.replies.fake") == 0
            await world.say.final("t1", "all")
            await world.settled()
            assert [message.texts for message in world.platform.messages] == [["all"]]

    made_up(scenario)


def test_final_texts_come_before_edits_where_the_pace_is_short() -> None:
    async def scenario() -> None:
        bucket = (Bucket("all", 10, 60.0),)
        async with World(EDITS, buckets=bucket) as world, world.egress():
            await asyncio.gather(*(speak(world, 40, turn=f"t{n}", session=f"s{n}") for n in range(3)))
            edits = len(world.platform.calls)
            assert 7 <= edits <= 12, "three tenths of the budget are left"
            began = world.clock()
            for number in range(3):
                await world.say.final(f"t{number}", f"final {number}", f"s{number}")
            await world.settled()
            assert world.clock() - began < 1
            assert sorted(world.platform.texts()) == ["final 0", "final 1", "final 2"]

    made_up(scenario)


def test_a_final_text_does_not_wait_for_an_edit_that_was_refused() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            world.platform.faults.extend([None, RetryAfter(500, "HTTP 429")])
            text = await speak(world, 6)
            began = world.clock()
            await world.say.final("t1", text)
            await world.settled()
            assert world.clock() - began < 1
            assert [message.texts for message in world.platform.messages] == [["0 ", text]]

    made_up(scenario)


def test_another_attempt_starts_over_in_the_same_message() -> None:
    async def scenario() -> None:
        for caps, last in ((EDITS, "edit"), (STREAM, "edit"), (ONLY_STREAM, "finish")):
            async with World(caps) as world, world.egress():
                await speak(world, 4, every_s=1.1)
                await world.say.delta("t1", 0, "other ", attempt=2, restart=True)
                await asyncio.sleep(1.1)
                await world.say.delta("t1", 4, "zombie ")
                await world.say.delta("t1", 1, "words ", attempt=2)
                await asyncio.sleep(1.1)
                await world.say.final("t1", "other words end")
                await world.settled()
                (message,) = world.platform.messages
                assert message.text == "other words end"
                assert world.platform.calls[-1][0] == last
                assert not any("zombie" in text for text in message.texts)
                assert ("other words " in message.texts) == (caps is not ONLY_STREAM)

    made_up(scenario)


def test_what_follows_a_lost_delta_is_not_shown() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            await world.say.delta("t1", 0, "one ")
            await asyncio.sleep(2)
            await world.say.delta("t1", 2, "three ")
            await asyncio.sleep(2)
            await world.say.final("t1", "one two three")
            await world.settled()
            assert world.platform.messages[0].texts == ["one ", "one two three"]

    made_up(scenario)


def test_a_stream_that_has_expired_goes_on_with_edits_or_with_what_was_not_sent() -> None:
    async def scenario() -> None:
        for caps, shown in ((STREAM, ["0 1 2 3 4 5 end"]), (ONLY_STREAM, ["0 1 ", "2 3 4 5 end"])):
            async with World(caps) as world, world.egress():
                await world.say.delta("t1", 0, "0 ")
                await asyncio.sleep(1.1)
                await world.say.delta("t1", 1, "1 ")
                await asyncio.sleep(1.1)
                world.platform.messages[0].open = False
                for number in range(2, 6):
                    await world.say.delta("t1", number, f"{number} ")
                    await asyncio.sleep(1.1)
                await world.say.final("t1", "0 1 2 3 4 5 end")
                await world.settled()
                assert world.platform.texts() == shown

    made_up(scenario)


def test_a_stream_is_ended_before_its_life_is_over() -> None:
    async def scenario() -> None:
        for caps, shown in (
            (Caps(can_edit=True, native_stream=True, stream_max_s=10), 1),
            (Caps(native_stream=True, stream_max_s=10), 2),
        ):
            async with World(caps) as world, world.egress():
                text = await speak(world, 20, every_s=1.0)
                await world.say.final("t1", text + "end")
                await world.settled()
                assert len(world.platform.messages) == shown
                assert "".join(world.platform.texts()) == text + "end"
                assert not world.platform.messages[0].open

    made_up(scenario)


def test_a_long_answer_grows_into_its_first_message_and_the_rest_follows() -> None:
    async def scenario() -> None:
        words = " ".join(f"word{number}" for number in range(60))
        caps = Caps(max_chars=100, max_edit_chars=50, can_edit=True)
        async with World(caps) as world, world.egress():
            for number, word in enumerate(words.split()):
                await world.say.delta("t1", number, word + " ")
                await asyncio.sleep(0.3)
            assert len(world.platform.messages) == 1
            await world.say.final("t1", words)
            await world.say.final("t2", "next")
            await world.settled()
            texts = world.platform.texts()
            assert " ".join(texts[:-1]) == words
            assert texts[-1] == "next"
            assert len(texts[0]) <= 50
            assert len(texts) < 8

    made_up(scenario)


def test_an_error_takes_the_place_of_what_has_grown_and_an_interruption_leaves_it() -> None:
    async def scenario() -> None:
        async with World(STREAM) as world, world.egress():
            await speak(world, 3, every_s=1.1)
            await world.say.final("t1", "Sorry.", kind="error", metadata={"reason": "timeout"})
            await world.settled()
            await speak(world, 3, every_s=1.1, turn="t2")
            await world.say.final("t2", "Interrupted.", kind="error", metadata={"reason": "interrupted"})
            await world.say.final("t3", "three")
            await world.settled()
            assert world.platform.texts() == ["Sorry.", "0 1 2 ", "three"]
            assert not any(message.open for message in world.platform.messages)

    made_up(scenario)


def test_the_deltas_of_the_next_turn_wait_for_the_reply_before_them() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            world.platform.faults.append(RetryAfter(200, "HTTP 429"))
            await world.say.final("t1", "one")
            text = await speak(world, 5, turn="t2")
            await asyncio.sleep(30)
            assert world.platform.messages == []
            assert await world.state.parked("fake", "s") is not None
            await world.say.final("t2", text)
            await world.settled()
            assert world.platform.texts() == ["one", text]

    made_up(scenario)


def test_deltas_that_come_after_the_final_text_are_not_shown() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            await world.say.final("t1", "all of it")
            await world.say.delta("t1", 0, "late ")
            await asyncio.sleep(30)
            assert world.platform.texts() == ["all of it"]

    made_up(scenario)


def test_a_message_whose_beginning_is_unknown_is_found_or_a_new_one_is_sent() -> None:
    async def scenario() -> None:
        cases: list[tuple[Caps, Any, list[str], str]] = [
            (Caps(can_edit=True, can_find=True), "cut", ["all"], "found"),
            (Caps(can_edit=True, can_find=True), Ambiguous("?"), ["all"], "absent"),
            (Caps(can_edit=True), "cut", ["0 ", "all"], "resent"),
            (Caps(can_edit=True, idempotent=True), "cut", ["all"], "repeated"),
        ]
        for caps, fault, shown, outcome in cases:
            async with World(caps, recognises=caps.idempotent) as world, world.egress():
                world.platform.faults.append(fault)
                await speak(world, 4)
                await world.say.final("t1", "all")
                await world.settled()
                assert world.platform.texts() == shown
                assert [event["outcome"] for event in world.notes.of("reply_ambiguous")] == [outcome]

    made_up(scenario)


def test_a_message_that_is_gone_is_sent_anew() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            await speak(world, 1, every_s=2)
            world.platform.faults.append(Permanent("message-not-found", "it was deleted"))
            await world.say.final("t1", "all")
            await world.settled()
            assert world.platform.texts() == ["0 ", "all"]

    made_up(scenario)


def test_a_final_text_whose_edit_is_unknown_is_edited_again() -> None:
    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            await speak(world, 1, every_s=2)
            world.platform.faults.append("cut")
            await world.say.final("t1", "all")
            await world.settled()
            assert [message.texts for message in world.platform.messages] == [["0 ", "all", "all"]]

    made_up(scenario)


def test_another_reply_of_the_session_is_shown_while_an_answer_grows() -> None:
    """A turn that is refused at once, because one is being answered, has its error now."""

    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            await world.say.delta("t1", 0, "one ")
            await asyncio.sleep(1.5)
            await world.say.final("t2", "Busy.", kind="error", metadata={"reason": "busy"})
            await asyncio.sleep(1.5)
            await world.say.delta("t1", 1, "two ")
            await asyncio.sleep(1.5)
            await world.say.final("t1", "one two three")
            await world.settled()
            assert [message.texts for message in world.platform.messages] == [
                ["one ", "one two ", "one two three"],
                ["Busy."],
            ]

    made_up(scenario)


def test_a_stream_is_ended_at_a_shutdown_and_the_next_process_edits_it() -> None:
    async def scenario() -> None:
        async with World(STREAM) as world:
            async with world.egress():
                text = await speak(world, 3, every_s=1.5)
            assert not world.platform.messages[0].open
            async with world.egress():
                await world.say.delta("t1", 3, "3 ")
                await asyncio.sleep(3)
                await world.say.final("t1", text + "3 end")
                await world.settled()
            assert world.platform.texts() == [text + "3 end"]

    made_up(scenario)


def test_a_message_whose_final_text_never_comes_is_left_as_it_is() -> None:
    async def scenario() -> None:
        async with World(STREAM) as world, world.egress() as egress:
            text = await speak(world, 2, every_s=1.5)
            await asyncio.sleep(2000)
            (message,) = world.platform.messages
            assert (message.text, message.open) == (text, False)
            assert not egress._lanes._lanes

    made_up(scenario)


def test_a_process_that_has_lost_the_queue_lets_the_message_be() -> None:
    """Somebody else has the replies by then, and may have shown the final text."""

    async def scenario() -> None:
        async with World(EDITS) as world, world.egress():
            await world.say.delta("t1", 0, "one ")
            await asyncio.sleep(0.3)
            await world.say.delta("t1", 1, "two ")
            await asyncio.sleep(0.3)
            world.server.lose(world.server._queue("t.replies.fake").subscriptions[0])
            await asyncio.sleep(60)
            assert world.platform.messages[0].texts == ["one "]
            await world.say.final("t1", "one two three")
            await world.settled()
            assert world.platform.messages[0].texts == ["one ", "one two three"]

    made_up(scenario)


def test_deltas_of_many_sessions_take_no_call_that_a_final_reply_waits_for() -> None:
    """Given a rate limit of one call, of which nothing can be left, and thirty messages that want to grow."""

    async def scenario() -> None:
        chance = random.Random(3)
        caps = Caps(can_edit=True, edit_every_s=0.3)
        async with World(caps, buckets=(Bucket("all", 1, 1.0),)) as world, world.egress():
            take = world.state.take

            async def taken(*args: Any, **named: Any) -> float:
                await asyncio.sleep(chance.uniform(0.001, 0.02))
                return float(await take(*args, **named))

            world.state.take = taken

            async def stream(number: int) -> None:
                for index in range(1000):
                    await world.say.delta(f"g{number}", index, "word ", f"growing{number}")
                    await asyncio.sleep(0.2)

            streams = [asyncio.create_task(stream(number)) for number in range(30)]
            await asyncio.sleep(20)
            for number in range(10):
                began = world.clock()
                await world.say.final(f"f{number}", f"final {number}", f"s{number}")
                await world.platform.until(lambda number=number: f"final {number}" in world.platform.texts())
                assert world.clock() - began < 2.5
            for task in streams:
                task.cancel()

    made_up(scenario)
