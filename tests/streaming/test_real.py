"""Streamed answers through RabbitMQ and Redis: processes that are killed in mid-stream, readers that come late, and a
Redis that stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sdqueue.agents import FunctionAgent
from sdqueue.brokers import Topology
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.errors import StreamNotFound
from sdqueue.messages import OutboundReply
from sdqueue.sessions import SessionWorker
from sdqueue.settings import Settings
from sdqueue.streaming import LogLimits, RedisDeltaLog
from tests.servers.redis import PrivateRedis

WHOLE = "".join(f"2:{number} " for number in range(1, 6))


def _shown(replies: list[OutboundReply]) -> str:
    """What a page shows that clears itself where the answer starts over."""
    text = ""
    for reply in replies:
        if reply.kind == "final" or (reply.stream and reply.stream.restart):
            text = ""
        text += reply.text
    return text


@asynccontextmanager
async def _consumer(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sdqueue.cli", "consumer"), env=os.environ | environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b" ready:" not in await process.stdout.readline():
                assert process.returncode is None, "it has ended"
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


@pytest.mark.timeout(240)
async def test_an_answer_goes_on_in_another_process_and_is_read_from_any_offset(
    amqp_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Given a consumer that is killed after three of five pieces, before the eyes of a client and a second reader."""
    environment = {
        "SDQUEUE_BROKER_URL": amqp_url,
        "SDQUEUE_STORE_URL": redis_url,
        "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_PARTITIONS": "2",
        "SDQUEUE_AGENT": "tests.consumer.acting:Acting",
    }
    settings = Settings.load(broker_url=amqp_url, store_url=redis_url, namespace=namespace, partitions=2)
    marker = tmp_path / "pid"
    seen: list[OutboundReply] = []
    async with _consumer(environment) as first, Client.from_settings(settings) as client:

        async def listen() -> None:
            async for reply in client.stream("s", f"count {marker}", id="t", timeout=100):
                seen.append(reply)

        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            late: list[OutboundReply] = []
            reading = client.read_stream("s", "t", timeout=100)  # before the turn has begun
            while _shown(late) != "1:1 1:2 1:3 ":
                late.append(await anext(reading))
            await reading.aclose()
            while not marker.exists():
                await asyncio.sleep(0.02)
            assert int(marker.read_text()) == first.pid
            os.kill(first.pid, signal.SIGKILL)
            await first.wait()
            async with _consumer(environment):
                while not seen or seen[-1].kind != "final":
                    await asyncio.sleep(0.02)

        # The client that was there all the time
        assert _shown(seen) == seen[-1].text == WHOLE
        places = [reply.stream for reply in seen[:-1] if reply.stream]
        restarts = [(place.attempt, place.index) for place in places if place.restart]
        assert restarts == [(2, 0)]
        assert [place.attempt for place in places] == sorted(place.attempt for place in places)
        assert len({reply.id for reply in seen}) == len(seen)

        # The one that went away after the first attempt, and comes back when all is over, to another process
        assert late[-1].stream is not None
    async with Client.from_settings(settings) as another:
        rest = [reply async for reply in another.read_stream("s", "t", after=late[-1].stream.offset)]
        assert rest[0].stream is not None
        assert rest[0].stream.restart
        assert _shown(late + rest) == WHOLE
        # and one that has seen some of the second
        assert rest[1].stream is not None
        tail = [reply async for reply in another.read_stream("s", "t", after=rest[1].stream.offset)]
        assert [reply.id for reply in tail] == [reply.id for reply in rest[2:]]
        assert not any(reply.stream.restart for reply in tail if reply.stream)
        # byte for byte what went through the broker
        assert {reply.id: reply for reply in rest}.items() <= {reply.id: reply for reply in seen}.items()
        with pytest.raises(StreamNotFound, match="'other' of session 's'"):
            async for _ in another.read_stream("s", "other", timeout=0.2):
                pass
        async with asyncio.timeout(30):  # and not at the end of the patience that readers have
            with pytest.raises(StreamNotFound):
                async for _ in another.read_stream("s", "other", after="1-3"):
                    pass


async def test_deltas_stand_before_the_final_reply_on_both_ways(amqp_url: str, namespace: str) -> None:
    """Given many sessions at once: the replies exchange and the queue that asked have the same order."""
    topology = Topology(namespace, 4)
    heard: dict[str, list[tuple[str, str]]] = {}
    done = asyncio.Event()

    def hear(delivery: object) -> None:
        reply = OutboundReply.decode(delivery.message.body)  # type: ignore[attr-defined]
        delivery.subscription.ack(delivery)  # type: ignore[attr-defined]
        heard.setdefault(reply.turn_id, []).append((reply.kind, reply.text))
        if sum(said[-1][0] == "final" for said in heard.values()) == 40:
            done.set()

    async def words(text: str, history: object) -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number} "
            await asyncio.sleep(0.001 * (number % 3))

    async with RabbitMQBroker(amqp_url, topology) as broker, Client(broker) as client:
        await broker.apply()
        await broker.subscribe(await broker.declare_egress("default"), hear, prefetch=1000)
        worker = SessionWorker(agent_factory=lambda: FunctionAgent(words))
        async with Consumer(broker, worker, ConsumerOptions(name="c")):
            asked: dict[str, list[tuple[str, str]]] = {}

            async def ask(turn: str) -> None:
                asked[turn] = [(r.kind, r.text) async for r in client.stream(f"s-{turn}", "x", id=turn)]

            async with asyncio.timeout(60):
                await asyncio.gather(*(ask(str(number)) for number in range(40)))
                await done.wait()
    for said in (*asked.values(), *heard.values()):
        *deltas, final = said
        assert [kind for kind, _ in deltas] == ["delta"] * len(deltas)
        assert len(deltas) > 1
        assert "".join(text for _, text in deltas) == final[1] == "".join(f"{n} " for n in range(20))


async def test_a_redis_that_stands_still_holds_up_no_final_reply(
    amqp_url: str,
    namespace: str,
    private_redis: Callable[..., Awaitable[PrivateRedis]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the log is in that Redis, and its answer would be waited for until the test is given up. What was kept back
    is written when it goes on."""
    monkeypatch.setattr("sdqueue.streaming.redis.APPEND_S", 600)
    redis = await private_redis()
    topology = Topology(namespace, 2)

    async def words(text: str, history: object) -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number} "
            await asyncio.sleep(0.002)

    url = f"{redis.url}?socket_timeout=600&socket_connect_timeout=600"
    log = RedisDeltaLog(url, namespace=namespace, limits=LogLimits(ttl_s=600))
    async with RabbitMQBroker(amqp_url, topology) as broker, Client(broker, delta_log=log) as client:
        await broker.apply()
        worker = SessionWorker(agent_factory=lambda: FunctionAgent(words))
        async with Consumer(broker, worker, ConsumerOptions(name="c"), delta_log=log), asyncio.timeout(100):

            async def talk(turn: str) -> None:
                replies = [reply async for reply in client.stream(turn, "x", id=turn)]
                assert [reply.kind for reply in replies[-2:]] == ["delta", "final"]

            await talk("usual")
            redis.pause()
            try:
                for number in range(5):
                    await talk(f"frozen {number}")
            finally:
                redis.resume()
            texts = [r.text async for r in client.read_stream("frozen 4", "frozen 4", timeout=30)]
            assert texts[-1] == "".join(f"{n} " for n in range(20))
    await log.aclose()
