"""A namespace in memory, producers that know old and new numbers, and a tool that dies wherever a test says so."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sdqueue.brokers import MemoryBroker, Message, OnDelivery, QueueState
from sdqueue.brokers.memory import MemoryServer, MemorySubscription
from sdqueue.brokers.topology import Binding, Queue, Topology
from sdqueue.consumer.membership import Epoch, MemoryPool, Sighting
from sdqueue.messages import partition_of, routing_key
from sdqueue.resharding import Resharding, ReshardOptions, ReshardReport
from sdqueue.sessions import Deferred, InMemorySessionStore, Kept

Answer = TypeVar("Answer")

OPTIONS = ReshardOptions(prefetch=3, patience_s=5.0)


class Died(BaseException):
    """The tool was killed: nothing of it runs any more, not even what cleans up."""


class Life:
    """One run of the tool: counts what it does to the backends, and ends at a given count.

    Parameters:
        ends_before: it dies instead of doing this.
        before: called with the number of each thing before it is done.
    """

    def __init__(
        self, ends_before: float = float("inf"), before: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        self.done = 0
        self._ends_before = ends_before
        self._before = before

    async def do(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        if self.done >= self._ends_before:
            raise Died
        self.done += 1
        if self._before is not None:
            await self._before(self.done)
        return await call()


class MortalBroker(MemoryBroker):
    """A broker of one life."""

    def __init__(self, topology: Topology, server: MemoryServer, life: Life) -> None:
        super().__init__(topology, server)
        self._life = life

    async def apply(self, *, timeout: float = 30.0) -> None:
        await self._life.do(super().apply)

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        call = super().publish
        await self._life.do(lambda: call(exchange, routing_key, message))

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> MemorySubscription:
        call = super().subscribe
        return await self._life.do(lambda: call(queue, on_delivery, prefetch=prefetch))

    async def declare(self, queues: Sequence[Queue], *, timeout: float = 30.0) -> None:
        call = super().declare
        await self._life.do(lambda: call(queues))

    async def bind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        """One by one, as a real broker does."""
        call = super().bind
        for binding in bindings:
            await self._life.do(lambda b=binding: call([b]))  # type: ignore[misc]  # mypy cannot infer it

    async def unbind(self, bindings: Sequence[Binding], *, timeout: float = 30.0) -> None:
        call = super().unbind
        for binding in bindings:
            await self._life.do(lambda b=binding: call([b]))  # type: ignore[misc]  # mypy cannot infer it

    async def remove(self, queue: str, *, timeout: float = 10.0) -> bool:
        call = super().remove
        return await self._life.do(lambda: call(queue))

    async def queue_state(self, queue: str, *, timeout: float = 10.0) -> QueueState:
        call = super().queue_state
        return await self._life.do(lambda: call(queue))


class MortalStore(InMemorySessionStore):
    """A store of which each life has its own view."""

    def __init__(self, store: InMemorySessionStore, life: Life) -> None:
        super().__init__()
        self._store = store
        self._life = life

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        return await self._life.do(lambda: self._store.defer(session_id, turns, limit=limit))


class MortalPool:
    """A pool of which each life has its own view."""

    def __init__(self, pool: MemoryPool, life: Life) -> None:
        self._pool = pool
        self._life = life

    async def look(self) -> Sighting:
        return await self._life.do(self._pool.look)

    async def advance(self, seen: Epoch | None, wanted: Epoch) -> bool:
        return await self._life.do(lambda: self._pool.advance(seen, wanted))


class World:
    """The broker, the store and the pool that outlive the tool."""

    def __init__(self, partitions: int) -> None:
        self.topology = Topology("test", partitions)
        self.server = MemoryServer()
        self.store = InMemorySessionStore()
        self.pool = MemoryPool()
        self.broker = MemoryBroker(self.topology, self.server)
        self.sent: dict[str, list[str]] = {}

    async def send(self, session: str, known: int | None, **fields: Any) -> str:
        """Publish a turn as a producer does that knows this number of partitions, or none and takes the session id."""
        turn_id = f"{session}.{len(self.sent.setdefault(session, []))}"
        self.sent[session].append(turn_id)
        body = json.dumps({"session_id": session, "text": "", "id": turn_id} | fields).encode()
        await self.publish(body, session if known is None else routing_key(partition_of(session, known)))
        return turn_id

    async def publish(self, body: bytes, key: str, **properties: Any) -> None:
        await self.broker.publish(self.topology.turns, key, Message(body, **properties))

    async def reshard(
        self, partitions: int, life: Life | None = None, *, options: ReshardOptions = OPTIONS, pooled: bool = True
    ) -> ReshardReport:
        """Run the tool once."""
        life = life or Life()
        broker = MortalBroker(self.topology, self.server, life)
        async with broker:
            pool = MortalPool(self.pool, life) if pooled else None
            store = MortalStore(self.store, life)
            return await Resharding(broker, store, partitions, pool=pool, options=options).run()

    async def reshard_and_die(self, partitions: int, life: Life) -> ReshardReport | None:
        """Run the tool once; ``None`` where it died."""
        report = None
        try:
            report = await self.reshard(partitions, life)
        except* Died:
            pass
        return report

    def waiting(self, queue: str) -> list[str]:
        """The ids of the turns in a queue."""
        return [json.loads(entry.message.body)["id"] for entry in self.server._queue(queue).waiting]

    async def forward(self, partitions: int, count: int) -> None:
        """Do what consumers do with turns in the wrong queue, with the first so many of each queue."""
        topology = Topology("test", partitions)
        for name in topology.turn_queues:
            entries = self.server._queue(name).waiting
            kept = []
            for _ in range(min(count, len(entries))):
                entry = entries.popleft()
                session = json.loads(entry.message.body)["session_id"]
                home = topology.partition_queue(partition_of(session, partitions))
                if home == name:
                    kept.append(entry)
                else:
                    await self.broker.publish("", home, entry.message)
            entries.extendleft(reversed(kept))

    async def consumed(self, partitions: int) -> dict[str, list[str]]:
        """The turns of each session in the order in which consumers answer them now, repeats left out."""
        answered: dict[str, dict[str, None]] = {}
        for session in await self.store.backlogged():
            turns = await self.store.deferred(session, count=1_000_000)
            answered[session] = dict.fromkeys(turn.turn_id for turn in turns)
        topology = Topology("test", partitions)
        names = deque(topology.turn_queues)
        idle = 0
        while idle < len(names):
            name = names[0]
            names.rotate(-1)
            idle += 1
            entries = self.server._queue(name).waiting
            while entries:
                idle = 0
                message = entries.popleft().message
                turn = json.loads(message.body)
                home = topology.partition_queue(partition_of(turn["session_id"], partitions))
                if home == name:
                    answered.setdefault(turn["session_id"], {})[turn["id"]] = None
                else:
                    await self.broker.publish("", home, message)
        return {session: list(ids) for session, ids in answered.items()}

    def is_as_applied(self, partitions: int) -> bool:
        """Whether the namespace is what ``apply`` would have made."""
        layout, topology = self.server.layout, Topology("test", partitions)
        return (
            set(layout.queues.values()) == set(topology.queues)
            and {b for bound in layout.bindings.values() for b in bound} == set(topology.bindings)
            and set(self.server._queues) == {queue.name for queue in topology.queues}
        )
