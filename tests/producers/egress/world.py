"""A world of egresses on one broker, one state and one platform, in time that is made up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sdqueue_producers import Bucket, Caps, MemoryState, ProducerObserver
from sdqueue_producers.egress import Egress, EgressOptions

from sdqueue.brokers import MemoryBroker, MemoryServer, Message, Topology
from sdqueue.deadletters import DeadLetter, DeadLetters
from sdqueue.messages import OutboundReply
from tests.producers.egress.platform import FakeChannel, FakePlatform
from tests.simulation.loop import VirtualLoop

TOPOLOGY = Topology("t", partitions=4)


def made_up(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on a loop of its own, whose time passes at once."""
    loop = VirtualLoop()

    async def run() -> None:
        async with asyncio.timeout(10_000_000):
            await scenario()

    loop.run_until_complete(run())
    assert not loop.errors, loop.errors


class Notes(ProducerObserver):
    """Writes all events down."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.stirred = asyncio.Event()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("events", "stirred", "of", "count") or name not in vars(ProducerObserver):
            return super().__getattribute__(name)

        def note(**event: Any) -> None:
            self.events.append((name, event))
            self.stirred.set()

        return note

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for found, event in self.events if found == name]

    def count(self, name: str, **wanted: Any) -> int:
        return sum(all(event.get(key) == value for key, value in wanted.items()) for event in self.of(name))


class Publisher:
    """Publishes replies as consumers do."""

    def __init__(self, broker: Any, channel: str = "fake") -> None:
        self.broker = broker
        self.channel = channel
        self.seq: dict[str, int] = {}

    async def final(self, turn: str, text: str, session: str = "s", **more: Any) -> OutboundReply:
        fields = {"address": session, "kind": "final", "id": f"{turn}:0"} | more
        self.seq[session] = self.seq.get(session, 0) + 1
        reply = OutboundReply(
            turn_id=turn, session_id=session, seq=self.seq[session], text=text, channel=self.channel, **fields
        )
        await self.put(reply)
        return reply

    async def delta(
        self, turn: str, index: int, text: str, session: str = "s", *, attempt: int = 1, restart: bool = False
    ) -> None:
        place = {"attempt": attempt, "index": index, "restart": restart, "offset": f"{attempt}-{index}"}
        reply = OutboundReply(
            id=f"{turn}:0.{attempt}-w{attempt}.{index}", turn_id=turn, session_id=session, seq=1, text=text,
            channel=self.channel, address=session, kind="delta", metadata={"stream": place},
        )  # fmt: skip
        await self.put(reply)

    async def put(self, reply: OutboundReply) -> None:
        topology = self.broker.topology
        message = Message(
            reply.to_bytes(), message_id=reply.id, correlation_id=reply.turn_id, headers={"traceparent": "00-1-2-01"}
        )
        await self.broker.publish(topology.replies, topology.reply_key(self.channel, reply.kind, "s"), message)


class World:
    """One platform, and as many egresses as are made."""

    def __init__(self, caps: Caps | None = None, *, buckets: tuple[Bucket, ...] = (), **platform: Any) -> None:
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.server = MemoryServer()
        self.broker = MemoryBroker(TOPOLOGY, self.server)
        self.state: Any = MemoryState(clock=self.clock)
        self.platform = FakePlatform(**platform)
        self.caps = caps if caps is not None else Caps()
        self.buckets = buckets
        self.notes = Notes()
        self.say = Publisher(self.broker)

    async def __aenter__(self) -> World:
        await self.broker.__aenter__()
        await self.broker.apply()
        await self.broker.declare_egress("fake")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.broker.__aexit__(*exc_info)

    def egress(self, **options: Any) -> Egress:
        channel = FakeChannel(self.platform, self.caps, self.buckets)
        return Egress(channel, self.broker, self.state, EgressOptions(**options), self.notes, clock=self.clock)

    async def settled(self) -> None:
        """Until nothing waits at the broker or in the outbox."""
        queue = TOPOLOGY.egress_queue("fake")
        while True:
            found = self.server._queue(queue)
            held = sum(len(subscription._unacked) for subscription in found.subscriptions)
            if not found.waiting and not held and not self.state._outbox:
                return
            await asyncio.sleep(0.25)

    async def letters(self) -> list[DeadLetter]:
        return list((await DeadLetters(self.broker).list()).letters)
