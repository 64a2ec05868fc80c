"""A producer that is told twice to end: it waits for nothing any more, however soon the second signal comes."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from sdqueue_producers import ProducerObserver
from sdqueue_producers.process import Parts, Producer

from sdqueue.brokers import Broker
from sdqueue.settings import Settings
from tests.producers.egress.world import World, made_up

HEAD = (
    "POST /webchat/token HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n"
    "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
)


@pytest.mark.parametrize("rounds", range(12))
async def test_the_second_signal_may_come_so_many_rounds_of_the_loop_after_the_first(
    monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """Given a request whose body does not come, and a grace of ten minutes for it."""
    secret = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" * 2
    monkeypatch.setenv("SDQUEUE_WEBCHAT_SECRETS", secret)
    monkeypatch.setenv("SDQUEUE_WEBCHAT_BACKEND_SECRETS", secret)
    settings = Settings.load(
        broker_url="memory://", store_url="memory://", producer_port=0, grace_s=600, request_timeout_s=600,
        producer_host="127.0.0.1",
    )  # fmt: skip
    running = Producer(settings, Parts(["webchat"]), "p", ProducerObserver())
    addresses: list[str] = []
    ready = asyncio.Event()

    async def prepare(broker: Broker, stopping: asyncio.Event) -> bool:
        await broker.apply()
        return True

    whole = asyncio.create_task(running.run(prepare, addresses.append, ready.set))
    async with asyncio.timeout(60):
        await ready.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(addresses[0]).port)
        writer.write(HEAD.format(secret=secret).encode())
        assert b" 100 " in await reader.readline(), "it waits for the body"

        running.stop()
        for _ in range(rounds):
            await asyncio.sleep(0)
        running.stop()

        await whole
        writer.close()


def test_an_egress_that_is_cancelled_waits_for_no_call() -> None:
    async def scenario() -> None:
        async with World() as world:

            async def hold(kind: str, address: str) -> None:
                await asyncio.Event().wait()

            world.platform.hold = hold

            async def run() -> None:
                async with world.egress(grace_s=600.0):
                    await asyncio.Event().wait()

            running = asyncio.create_task(run())
            await world.say.final("t1", "one")
            await world.platform.until(lambda: world.platform.calls != [])
            began = world.clock()
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled()
            assert world.clock() - began < 1

    made_up(scenario)
