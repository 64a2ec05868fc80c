"""The order of a session, one delivery in flight, sessions in parallel."""

from __future__ import annotations

import asyncio

from sdqueue_producers import Bucket, RetryAfter

from tests.producers.egress.platform import server_error
from tests.producers.egress.world import World, made_up


def test_replies_of_a_session_are_shown_in_order_one_at_a_time_and_sessions_beside_each_other() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.latency = 1.0
            for number in range(10):
                for session in "abc":
                    await world.say.final(f"{session}{number}", f"{number}", session)
            began = world.clock()
            async with world.egress():
                await world.settled()
            assert world.clock() - began < 12
            for session in "abc":
                assert world.platform.texts(session) == [str(number) for number in range(10)]
            assert world.platform.most_in_flight == 1
            assert world.platform.most_busy == 3

    made_up(scenario)


def test_what_is_tried_again_holds_up_its_own_session_only() -> None:
    async def scenario() -> None:
        async with World() as world:
            await world.say.final("t1", "one", "a")
            world.platform.faults.extend([RetryAfter(20, "HTTP 429")])
            async with world.egress():
                await world.platform.until(lambda: world.platform.calls != [])
                await world.say.final("t2", "two", "a")
                await world.say.final("t3", "three", "b")
                await world.settled()
            assert world.platform.texts() == ["three", "one", "two"]
            assert world.notes.count("reply_retried", wait_s=20, attempts=1) == 1

    made_up(scenario)


def test_an_acknowledged_reply_is_shown_and_one_that_is_not_shown_is_not_acknowledged() -> None:
    async def scenario() -> None:
        async with World() as world:
            queue = world.broker.topology.egress_queue("fake")
            world.platform.faults.append(RetryAfter(30, "HTTP 503"))
            await world.say.final("t1", "one")
            async with world.egress():
                await asyncio.sleep(5)
            assert await world.broker.depth(queue) == 1
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["one"]
            assert await world.broker.depth(queue) == 0

    made_up(scenario)


def test_a_lost_subscription_is_replaced_and_what_comes_again_is_shown_once() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.latency = 2.0
            for number in range(3):
                await world.say.final(f"t{number}", str(number))
            async with world.egress():
                await asyncio.sleep(1)
                found = world.server._queue(world.broker.topology.egress_queue("fake"))
                world.server.lose(found.subscriptions[0])
                await world.settled()
            assert world.platform.texts() == ["0", "1", "2"]
            assert world.notes.count("queue_lost") == 1
            assert world.notes.count("reply_repeated") == 1

    made_up(scenario)


def test_a_reply_that_comes_twice_is_shown_once() -> None:
    async def scenario() -> None:
        async with World() as world:
            reply = await world.say.final("t1", "one")
            await world.say.put(reply)
            async with world.egress():
                await world.settled()
                await world.say.put(reply)
                await world.settled()
            assert world.platform.texts() == ["one"]
            assert world.notes.count("reply_repeated") == 2

    made_up(scenario)


def test_a_reply_that_waits_too_long_goes_to_the_outbox_with_those_behind_it_and_the_order_holds() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.append(RetryAfter(600, "HTTP 429"))
            for number in range(5):
                await world.say.final(f"t{number}", str(number))
            async with world.egress():
                await asyncio.sleep(10)
                assert await world.broker.depth(world.broker.topology.egress_queue("fake")) == 0
                parked = await world.state.parked("fake", "s")
                assert parked is not None
                assert (parked.key, parked.attempts) == ("t0:0", 1)
                assert world.platform.texts() == []
            async with world.egress():  # another process, later
                await world.say.final("t5", "5")
                await world.settled()
            assert world.platform.texts() == ["0", "1", "2", "3", "4", "5"]
            assert world.clock() >= 1600

    made_up(scenario)


def test_a_flooding_session_does_not_take_the_room_of_others() -> None:
    async def scenario() -> None:
        async with World(buckets=(Bucket("post:{address}", 1, 1.0),)) as world:
            for number in range(300):
                await world.say.final(f"f{number}", str(number), "flood")
            for session in "ab":
                await world.say.final(session, "hello", session)
            async with world.egress(prefetch=50, lane_size=10):
                began = world.clock()
                await world.platform.until(
                    lambda: world.platform.texts("a") + world.platform.texts("b") == ["hello"] * 2
                )
                assert world.clock() - began < 5
                await world.settled()
            assert world.platform.texts("flood") == [str(number) for number in range(300)]

    made_up(scenario)


def test_five_hundreds_are_tried_again_with_growing_waits() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.extend(server_error() for _ in range(6))
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["one"]
            waits = [event["wait_s"] for event in world.notes.of("reply_retried")]
            assert len(waits) == 6
            assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits))

    made_up(scenario)
