"""Queues that are full, on a real RabbitMQ: producers hear of it, consumers live on, and all goes on by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from sdqueue.agents import FunctionAgent
from sdqueue.brokers import Delivery, RabbitMQBroker, Topology
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.errors import PublishRejected
from sdqueue.sessions import InMemorySessionStore, SessionWorker
from tests.consumer.stand import PATIENCE_S, Watcher
from tests.servers.rabbitmq import PrivateRabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(180)]

LIMIT = 5


async def answer(text: str, history: object) -> str:
    return text


class Place:
    """A namespace on a server, whose queues can be made small."""

    def __init__(self, server: PrivateRabbitMQ, broker: RabbitMQBroker) -> None:
        self.server = server
        self.broker = broker
        self.watcher = Watcher()

    async def limit(self, pattern: str) -> None:
        await self.server.ctl(
            "set_policy", "small", f"^{pattern}$", f'{{"max-length":{LIMIT}}}', "--apply-to", "queues"
        )

    async def unlimit(self) -> None:
        await self.server.ctl("clear_policy", "small")

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[None]:
        worker = SessionWorker(agent_factory=lambda: FunctionAgent(answer), store=InMemorySessionStore())
        async with Consumer(self.broker, worker, ConsumerOptions(grace_s=5), observer=self.watcher):
            yield

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S * 2):
            while not await condition():
                await asyncio.sleep(0.05)


@pytest.fixture
async def place(private_rabbitmq: Callable[..., Awaitable[PrivateRabbitMQ]], namespace: str) -> AsyncIterator[Place]:
    server = await private_rabbitmq()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(RabbitMQBroker(server.url, Topology(namespace, 2)))
        await broker.apply()
        place = Place(server, broker)
        yield place
        await place.unlimit()


async def test_a_full_queue_of_replies_holds_the_turns_back_and_loses_none(place: Place) -> None:
    broker, topology, sent = place.broker, place.broker.topology, 60
    egress = await broker.declare_egress("default")
    await place.limit(egress)
    async with place.consuming(), Client(broker) as client:
        for n in range(sent):
            await client.send(f"s{n}", str(n), id=f"t{n}")
        await place.watcher.expect("backend_away")

        async def is_full() -> bool:
            return await broker.depth(egress) >= LIMIT

        await place.until(is_full)
        assert len(place.watcher.settled) < sent, "the queue was never full, so this shows nothing"

        # Given room again, by somebody who takes the replies.
        replies: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            replies.append(delivery)
            delivery.subscription.ack(delivery)

        subscription = await broker.subscribe(egress, take, prefetch=10)
        await place.watcher.expect_settled(sent)

        async def all_there() -> bool:
            return len({delivery.message.message_id for delivery in replies}) == sent

        await place.until(all_there)
        await subscription.close()
    assert Counter(state for _, state in place.watcher.settled) == {"completed": sent}
    assert place.watcher.of("internal_error") == []
    for partition in range(topology.partitions):
        assert (await broker.queue_state(topology.partition_queue(partition))).depth == 0


async def test_a_full_partition_is_told_to_producers_and_takes_turns_again_when_it_is_not(place: Place) -> None:
    broker = place.broker
    await place.limit(f"{broker.topology.turns}\\..*")
    async with Client(broker) as client:
        accepted = []

        async def send() -> None:
            for n in range(10_000):
                await client.send("s", str(n), id=f"t{n}")
                accepted.append(f"t{n}")

        with pytest.raises(PublishRejected):  # within its timeout, and not by waiting for ever
            await asyncio.wait_for(send(), PATIENCE_S)
        assert len(accepted) >= LIMIT
        async with place.consuming():
            await place.watcher.expect_settled(len(accepted))
            reply = await client.ask("s", "again", id="again", timeout=PATIENCE_S)
    answered = [turn for turn, state in place.watcher.settled if state == "completed"]
    assert answered[: len(accepted)] == accepted
    assert reply.text == "again"
