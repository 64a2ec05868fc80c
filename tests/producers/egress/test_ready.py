"""A producer is ready when no reply can miss its queue any more.

The interleaving: a producer says that it is ready, somebody publishes a reply at once, and only then the queue of the
channel is declared. A reply for which there is no queue is confirmed, and gone.
"""

from __future__ import annotations

import asyncio

import pytest
from sdqueue_producers import ProducerObserver
from sdqueue_producers.process import Parts, Producer

from sdqueue.brokers import Broker, MemoryBroker
from sdqueue.settings import Settings
from tests.producers.egress.world import World


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Given a broker that takes its time over the queue of a channel, until the event is set."""
    go = asyncio.Event()
    declare = MemoryBroker.declare_egress

    async def slowly(self: MemoryBroker, channel: str, *, timeout: float = 10.0) -> str:
        await go.wait()
        return await declare(self, channel, timeout=timeout)

    monkeypatch.setenv("SDQUEUE_WEBCHAT_SECRETS", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" * 2)
    monkeypatch.setattr(MemoryBroker, "declare_egress", slowly)
    return go


@pytest.mark.parametrize("ingress", [False, True], ids=["egress", "both"])
async def test_a_producer_that_has_lost_a_queue_tells_so_where_it_does_nothing_else(
    monkeypatch: pytest.MonkeyPatch, ingress: bool
) -> None:
    """Given one that may not make the queue, which somebody has deleted."""
    monkeypatch.setenv("SDQUEUE_WEBCHAT_SECRETS", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" * 2)
    settings = Settings.load(
        broker_url="memory://", store_url="memory://", producer_port=0, grace_s=1, apply=False,
        producer_host="127.0.0.1",
    )  # fmt: skip
    lost = asyncio.Event()
    observer = ProducerObserver()
    monkeypatch.setattr(observer, "queue_lost", lambda **_: lost.set())
    running = Producer(settings, Parts(["webchat"], ingress=ingress), "p", observer)
    ready = asyncio.Event()
    brokers: list[MemoryBroker] = []

    async def prepare(broker: Broker, stopping: asyncio.Event) -> bool:
        assert isinstance(broker, MemoryBroker)
        await broker.apply()
        brokers.append(broker)
        return True

    whole = asyncio.create_task(running.run(prepare, lambda url: None, ready.set))
    try:
        async with asyncio.timeout(60):
            await lost.wait()
            starting, why = await running.look()
            assert (starting, "not taken: there is no queue" in why) == ("starting", True)

            queue = await brokers[0].declare_egress("webchat")
            await ready.wait()
            assert await running.look() == ()

            lost.clear()
            for subscription in list(brokers[0].server._queues[queue].subscriptions):
                brokers[0].server.lose(subscription, "the queue was deleted")
            assert await brokers[0].remove(queue)
            await lost.wait()
            told = await running.look()
            assert told == () if ingress else told[0].startswith("the replies of webchat are not taken: ")
    finally:
        running.stop()
        await asyncio.wait_for(whole, 60)


async def test_an_egress_is_ready_when_it_has_its_queue() -> None:
    async with World() as world, world.egress() as egress:
        await asyncio.wait_for(egress.wait_ready(), 60)
        assert world.notes.count("queue_taken") == 1


@pytest.mark.parametrize("stopped", [False, True], ids=["taken", "stopped"])
async def test_a_producer_is_ready_when_all_its_queues_are_there(held: asyncio.Event, stopped: bool) -> None:
    settings = Settings.load(broker_url="memory://", store_url="memory://", producer_port=0, grace_s=1)
    running = Producer(settings, Parts(["webchat"], ingress=False), "p", ProducerObserver())
    prepared, ready = asyncio.Event(), asyncio.Event()

    async def prepare(broker: Broker, stopping: asyncio.Event) -> bool:
        await broker.apply()
        prepared.set()
        return True

    whole = asyncio.create_task(running.run(prepare, lambda url: None, ready.set))
    await prepared.wait()
    for _ in range(100):
        await asyncio.sleep(0)  # as many rounds as it wants
    assert not ready.is_set()
    if stopped:
        running.stop()
    else:
        held.set()
        await asyncio.wait_for(ready.wait(), 60)
        running.stop()
    await asyncio.wait_for(whole, 60)
    assert ready.is_set() is not stopped
