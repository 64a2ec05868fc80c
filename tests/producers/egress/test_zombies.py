"""Processes that go on though another one has their replies: woken after SIGSTOP, or cut off from the broker alone."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest
from sdqueue_producers import Bucket, Caps
from sdqueue_producers.egress import Egress, EgressOptions

from sdqueue.brokers import RabbitMQBroker, Topology
from tests.chaos.proxy import Proxy
from tests.producers.egress.platform import FakeChannel
from tests.producers.egress.test_crashes import STATE, Death, Mortal
from tests.producers.egress.test_processes import CASES, Pool, platform, wait_for
from tests.producers.egress.world import Publisher, World, made_up

pytestmark = pytest.mark.timeout(300)

PLAIN = ({}, False)


@pytest.mark.parametrize(("caps", "recognises"), [*CASES, PLAIN])
async def test_one_that_slept_while_it_waited_to_try_again_shows_nothing_that_another_has_shown(
    amqp_url: str, redis_url: str, namespace: str, caps: dict[str, bool], recognises: bool
) -> None:
    """Given one that is stopped between two attempts, and whose connection the broker has given up meanwhile."""
    proxy = Proxy(amqp_url)
    async with (
        platform(recognises=recognises) as server,
        RabbitMQBroker(amqp_url, Topology(namespace, partitions=4)) as broker,
    ):
        await broker.apply()
        await broker.declare_egress("fake")
        args = (redis_url, namespace, server.url, json.dumps(caps))
        sleepers = Pool(await proxy.open(), *args)
        others = Pool(amqp_url, *args)
        try:
            sleeper = await sleepers.start()
            server.faults = ["half"]
            say = Publisher(broker)
            for number in range(3):
                await say.final(f"t{number}", f"{number}")
            await server.refused.wait()
            sleeper.send_signal(signal.SIGSTOP)
            await others.start()
            proxy.cut_off()

            await wait_for(server, 3)
            server.faults = []
            sleeper.send_signal(signal.SIGCONT)
            await asyncio.sleep(2)  # in which nothing may happen

            assert server.keys("s") == ["t0:0", "t1:0", "t2:0"]
        finally:
            await sleepers.end()
            await others.end()
            await proxy.close()


@pytest.mark.parametrize(("caps", "recognises"), [*CASES, PLAIN])
async def test_one_that_lost_the_broker_in_the_middle_of_a_call_is_waited_for(
    amqp_url: str, redis_url: str, namespace: str, caps: dict[str, bool], recognises: bool
) -> None:
    """Given a platform that takes its time to show a message, and a broker that has given up whoever calls it."""
    proxy = Proxy(amqp_url)
    async with (
        platform(recognises=recognises) as server,
        RabbitMQBroker(amqp_url, Topology(namespace, partitions=4)) as broker,
    ):
        await broker.apply()
        await broker.declare_egress("fake")
        args = (redis_url, namespace, server.url, json.dumps(caps))
        first = Pool(await proxy.open(), *args)
        others = Pool(amqp_url, *args)
        try:
            await first.start()
            await others.start()
            server.faults = ["late"]
            say = Publisher(broker)
            for number in range(3):
                await say.final(f"t{number}", f"{number}")
            await server.refused.wait()
            proxy.cut_off()

            await wait_for(server, 3)
            await asyncio.sleep(1)  # in which nothing may happen

            assert server.keys("s") == ["t0:0", "t1:0", "t2:0"]
        finally:
            await first.end()
            await others.end()
            await proxy.close()


class Sleep(Death):
    """Puts a process to sleep: what it calls goes out when it is awake again."""

    def __init__(self) -> None:
        super().__init__(None, after=False)
        self.awake = asyncio.Event()
        self.awake.set()

    async def through(self, effect: Callable[[], Any]) -> Any:
        await self.awake.wait()
        return await effect()


@pytest.mark.parametrize("caps", [Caps(can_edit=True), Caps(can_edit=True, native_stream=True)])
def test_one_that_slept_while_a_message_grew_puts_no_older_text_over_the_final_one(caps: Caps) -> None:
    async def scenario() -> None:
        buckets = (Bucket("all", 100, 1.0),)  # so that it asks the state before each step
        async with World(caps, buckets=buckets) as world:
            sleep = Sleep()
            channel = FakeChannel(world.platform, world.caps, buckets)
            state = Mortal(world.state, sleep, *STATE, "take")
            asleep = Egress(channel, world.broker, state, EgressOptions(), world.notes, clock=world.clock)  # type: ignore[arg-type]
            await asleep.__aenter__()
            await world.say.delta("t1", 0, "one ")
            await world.platform.until(lambda: world.platform.texts() == ["one "])
            await asyncio.sleep(5)
            sleep.awake.clear()
            await world.say.delta("t1", 1, "two ")
            await asyncio.sleep(1)
            subscription = asleep._queue._subscription
            asleep._queue._on_lost = lambda _: None  # one that is asleep learns of nothing
            world.server._end(subscription)  # type: ignore[arg-type]
            async with world.egress():
                await world.say.final("t1", "one two three")
                await world.settled()
                assert world.platform.texts() == ["one two three"]
                sleep.awake.set()
                await asyncio.sleep(20)
            assert world.platform.texts() == ["one two three"]
            await asleep.__aexit__(None, None, None)

    made_up(scenario)


def test_a_final_text_waits_for_an_edit_that_the_process_before_is_in_the_middle_of() -> None:
    async def scenario() -> None:
        async with World(Caps(can_edit=True)) as world, world.egress() as first:
            await world.say.delta("t1", 0, "one ")
            await world.platform.until(lambda: world.platform.texts() == ["one "])
            await asyncio.sleep(5)

            async def late(kind: str, address: Any) -> None:
                if world.platform.calls[-1] == ("edit", "t1:0") and len(world.platform.calls) == 2:
                    await asyncio.sleep(0.7)

            world.platform.hold = late
            await world.say.delta("t1", 1, "two ")
            await world.platform.until(lambda: len(world.platform.calls) == 2)
            async with world.egress():
                subscription = first._queue._subscription
                first._queue._on_lost = lambda _: None
                world.server._end(subscription)  # type: ignore[arg-type]
                await world.say.final("t1", "one two three")
                await world.settled()
                await asyncio.sleep(5)
                assert world.platform.texts() == ["one two three"]

    made_up(scenario)
