"""Another number of partitions on RabbitMQ and Redis, under load: consumer processes, the command, a raw producer."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sdqueue.brokers import Delivery, Message
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.errors import TopologyMissing
from sdqueue.messages import OutboundReply, partition_of, routing_key
from tests.cli.place import Place, Result, expect_line

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(600)]

SESSIONS = 90
PAUSE_S = 0.005
"""Between two turns; about 150 a second where the machine has time for it."""

UNANSWERED = 1000
"""So far the producer gets ahead of the consumers, and no farther where the machine has little time for them."""

AGENT = """
import asyncio, random

async def counting(text, history):
    await asyncio.sleep(random.choice([0, 0.002, 0.3]))
    return f"{sum(m.role == 'user' for m in history)}. {text}"
"""


class Producer:
    """Publishes for ever under what it knew at the beginning, and reads the replies.

    It knows eight partitions; for a third of its sessions it knows no number, and publishes under the session id.
    """

    def __init__(self, broker: RabbitMQBroker) -> None:
        self.broker = broker
        self.sent: dict[str, list[str]] = {}
        self.sent_at: dict[str, float] = {}
        self.waits: dict[str, float] = {}
        self.replies: dict[str, set[str]] = {}
        self.texts: dict[str, dict[str, str]] = {}
        self.arrived = asyncio.Event()
        self.stopped = False

    async def publish(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in itertools.takewhile(lambda _: not self.stopped, itertools.count()):
                session, turn = f"s{number % SESSIONS}", f"m{number}"
                key = session if number % 3 == 0 else routing_key(partition_of(session, 8))
                body = json.dumps({"session_id": session, "text": turn, "id": turn}).encode()
                self.sent.setdefault(session, []).append(turn)
                self.sent_at[turn] = time.monotonic()
                # Not awaited one by one: the broker keeps the order of what one channel publishes.
                tasks.create_task(self.broker.publish(self.broker.topology.turns, key, Message(body), timeout=60))
                await asyncio.sleep(PAUSE_S)
                while len(self.sent_at) - len(self.replies) > UNANSWERED:
                    self.arrived.clear()
                    await self.arrived.wait()

    def on_reply(self, delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        reply = OutboundReply.decode(delivery.message.body)
        self.waits.setdefault(reply.turn_id, time.monotonic() - self.sent_at[reply.turn_id])
        self.replies.setdefault(reply.turn_id, set()).add(delivery.message.body.decode())
        self.texts.setdefault(reply.session_id, {}).setdefault(reply.turn_id, reply.text)
        self.arrived.set()

    async def until_answered(self, count: int) -> None:
        async with asyncio.timeout(90):
            while len(self.replies) < count:
                self.arrived.clear()
                await self.arrived.wait()

    def check(self) -> None:
        """Nothing lost, no effect doubled, nothing out of order; each turn has one answer, however often it came."""
        lost = set(self.sent_at) - set(self.replies)
        assert not lost, f"{len(lost)} lost: {sorted(lost)[:20]}"
        assert {turn: len(bodies) for turn, bodies in self.replies.items() if len(bodies) > 1} == {}
        for session, turns in self.sent.items():
            told = [self.texts[session][turn] for turn in turns]
            assert told == [f"{n}. {turn}" for n, turn in enumerate(turns)], session


@pytest.fixture
async def producer(amqp_url: str, namespace: str) -> AsyncIterator[Producer]:
    async with RabbitMQBroker(amqp_url, Topology(namespace, 8), name="raw") as broker:
        await broker.apply()
        made = Producer(broker)
        await broker.subscribe(await broker.declare_egress("default"), made.on_reply, prefetch=1000)
        yield made
        await broker.unbind(broker.topology.egress("default")[1:])
        await broker.remove(broker.topology.egress_queue("default"))


@pytest.fixture
async def site(tmp_path: Path, amqp_url: str, redis_url: str, namespace: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(
            Place(tmp_path, stack), ("--broker-url", amqp_url, "--namespace", namespace, "--store-url", redis_url)
        )


class Site:
    """Where the commands run, and what they are told of the servers."""

    def __init__(self, place: Place, shared: tuple[str, ...]) -> None:
        self.place = place
        self.shared = shared
        (place.folder / "counting.py").write_text(AGENT)

    async def consumer(self, name: str, partitions: int, ready: str) -> asyncio.subprocess.Process:
        process = await self.place.start(
            "consumer", "--name", name, "--agent", "counting:counting", "--partitions", str(partitions), *self.shared
        )
        await expect_line(process, ready)
        return process

    async def reshard(self, partitions: int) -> Result:
        """Run the command, and give it more time than its own patience: it says what it has waited for."""
        arguments = ("topology", "reshard", "--partitions", str(partitions), "--json", *self.shared)
        process = await self.place.start(*arguments)
        async with asyncio.timeout(150):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())


async def test_8_to_16_to_5_under_load(site: Site, producer: Producer, capsys: pytest.CaptureFixture[str]) -> None:
    """Three processes, a producer that knows 8 for ever, and one process that is started with 8 when there are 5."""
    for number in range(3):
        await site.consumer(f"c{number}", 8, "ready")
    publishing = asyncio.create_task(producer.publish())
    await producer.until_answered(200)
    lines = []
    for partitions in (16, 5):
        result = await site.reshard(partitions)
        assert result.code == 0, result.err
        report = json.loads(result.out)
        assert report["after"] == partitions
        await producer.until_answered(len(producer.sent_at) + 200)
        lines.append(f"to {partitions}: {report['kept']} turns put aside, held {report['held_s']:.2f} s")
    late = await site.consumer("late", 8, "of 5 partitions")
    await producer.until_answered(len(producer.sent_at) + 200)
    producer.stopped = True
    await publishing
    await producer.until_answered(len(producer.sent_at))
    producer.check()
    late.send_signal(signal.SIGTERM)

    broker = producer.broker
    with pytest.raises(TopologyMissing):
        await broker.depth(broker.topology.partition_queue(5))
    broker.topology = Topology(broker.topology.namespace, 5)
    await broker.check()
    waits = sorted(producer.waits.values())
    figures = f"longest wait {waits[-1]:.2f} s, median {waits[len(waits) // 2]:.3f} s"
    with capsys.disabled():
        print(f"\n{len(waits)} turns; {'; '.join(lines)}; {figures}")


async def test_a_command_that_is_killed_is_run_again(site: Site, producer: Producer) -> None:
    """Given one that dies with SIGKILL in the middle, nothing is answered until another one brings it to its end."""
    for number in range(2):
        await site.consumer(f"c{number}", 8, "ready")
    publishing = asyncio.create_task(producer.publish())
    for partitions in (16, 5):
        await producer.until_answered(len(producer.sent_at) + 100)
        killed = await site.place.start("topology", "reshard", "--partitions", str(partitions), *site.shared)
        assert killed.stderr is not None
        async for line in killed.stderr:
            if b"unbinding" in line:
                killed.kill()
        await killed.wait()
        again = await site.reshard(partitions)
        while "is at work" in again.err:  # the broker has not noticed yet
            again = await site.reshard(partitions)
        assert again.code == 0, again.err
        await producer.until_answered(len(producer.sent_at) + 100)
    producer.stopped = True
    await publishing
    await producer.until_answered(len(producer.sent_at))
    producer.check()
