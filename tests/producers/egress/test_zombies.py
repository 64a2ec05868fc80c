"""Processes that go on though another one has their replies: woken after SIGSTOP, or cut off from the broker alone."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from sdqueue.brokers import RabbitMQBroker, Topology
from tests.chaos.proxy import Proxy
from tests.producers.egress.test_processes import CASES, Pool, platform, wait_for
from tests.producers.egress.world import Publisher

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
