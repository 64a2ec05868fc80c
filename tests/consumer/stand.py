"""A test stand: consumers on a memory broker, faults at chosen points, and everything they do written down."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk
from sdqueue.brokers import Delivery, MemoryBroker, Message, OnDelivery
from sdqueue.brokers.memory import MemoryServer, MemorySubscription
from sdqueue.brokers.topology import Topology
from sdqueue.consumer import Consumer, ConsumerOptions, RetryPolicy
from sdqueue.consumer.membership import MemoryMembership, MemoryPool
from sdqueue.messages import DeadTurn, OutboundReply, partition_of, routing_key
from sdqueue.observe import Observer
from sdqueue.sessions import (
    AsyncioLockBackend,
    Deferred,
    HistoryPolicy,
    InMemorySessionStore,
    Kept,
    LockBackend,
    Retention,
    SessionRecord,
    SessionWorker,
    Standing,
    TurnOutcome,
)
from sdqueue.sessions.stores.store import beginnings
from sdqueue.streaming import DeltaLog

PATIENCE_S = 60.0
"""Seconds to wait for what must come: several processes start one after the other, on a machine that is busy."""
QUICK = RetryPolicy(max_attempts=3, first_s=0.01, longest_s=0.02)
"""Tests wait for events, not for a backoff."""

WORKERS = ("lock_backend", "max_sessions", "history", "pool", "delta_log")
"""What :class:`Member` takes besides options."""

Act = Callable[["Puppet"], Awaitable[Any]]


class Puppet:
    """An agent that does what the test has laid down for the first word of a text.

    Everything else it answers with the number of the message in its conversation, so that a reply shows the state
    that it was made from: ``1. hello``.
    """

    def __init__(self, acts: Mapping[str, Act] | None = None) -> None:
        self.acts = acts or {}
        self.chat_ctx = ChatContext()

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    def assist(self, text: str) -> None:
        self.chat_ctx.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        self.chat_ctx.append(ChatMessage("user", text))
        act = self.acts.get(text.split(" ")[0])
        result = self.plain(text) if act is None else await act(self)
        if not (stream and hasattr(result, "__aiter__")):
            self.chat_ctx.append(ChatMessage("assistant", str(result)))
        return result

    def plain(self, text: str) -> str:
        """The number of the message and its text, after what was noted before."""
        notes = "".join(f"[{m.content}] " for m in self.chat_ctx.items if m.role == "system")
        return f"{notes}{sum(m.role == 'user' for m in self.chat_ctx.items)}. {text}"


async def in_pieces(*pieces: str) -> AsyncIterator[StreamChunk]:
    for piece in pieces:
        yield StreamChunk(piece)
        await asyncio.sleep(0)
    yield StreamChunk(done=True)


class Waiting:
    """Says that it runs, and waits until it is let go on."""

    def __init__(self) -> None:
        self.began = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, agent: Puppet) -> str:
        self.began.release()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return agent.plain("waited")


class Changes:
    """Wakes those who wait for something to have happened."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def next(self) -> None:
        await self._changed.wait()

    async def until(self, condition: Callable[[], Any], what: Callable[[], object] = str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not happen within {PATIENCE_S:g} s: {what()}") from None


class Watcher(Observer):
    """Writes down the events of a consumer."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.changes = Changes()
        self.elsewhere: dict[str, Callable[..., None]] = {}
        """Events that are not written down but go to these."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name not in vars(Observer):
            return super().__getattribute__(name)
        return lambda **event: self._note(name, event)

    def _note(self, name: str, event: dict[str, Any]) -> None:
        if name in self.elsewhere:
            self.elsewhere[name](**event)
            return
        self.events.append((name, event))
        self.changes.wake()

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for n, event in self.events if n == name]

    @property
    def settled(self) -> list[tuple[str, str]]:
        """Turn id and state, in order."""
        return [(event["turn_id"], event["state"]) for event in self.of("turn_settled")]

    async def expect(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        if name == "loop_blocked":
            raise ValueError("it comes from another thread")
        await self.changes.until(lambda: len(self.of(name)) >= count, lambda: (name, self.events))
        return self.of(name)

    async def expect_settled(self, count: int) -> list[tuple[str, str]]:
        await self.expect("turn_settled", count)
        return self.settled


class Freeze:
    """A fault that stops whoever reaches it until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.go_on.wait()

    async def expect_reached(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.reached.wait()


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


class Faults:
    """What happens when a consumer reaches a point. Each fault happens once; several at a point one after the other."""

    def __init__(self) -> None:
        self._armed: dict[str, list[Callable[[], Awaitable[None]]]] = {}
        self.passed: list[str] = []

    def arm(self, point: str, *faults: Callable[[], Awaitable[None]]) -> None:
        self._armed.setdefault(point, []).extend(faults)

    def freeze(self, point: str) -> Freeze:
        fault = Freeze()
        self.arm(point, fault)
        return fault

    async def reach(self, point: str) -> None:
        self.passed.append(point)
        if self._armed.get(point):
            await self._armed[point].pop(0)()


class FaultyStore:
    """A store with points before and after everything it does."""

    def __init__(self, store: InMemorySessionStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def load(self, session_id: str) -> SessionRecord | None:
        await self._faults.reach("load")
        record = await self._store.load(session_id)
        await self._faults.reach("loaded")
        return record

    async def save(self, session_id: str, record: SessionRecord) -> None:
        await self._faults.reach("save")
        await self._store.save(session_id, record)
        await self._faults.reach("saved")

    async def delete(self, session_id: str) -> None:
        await self._store.delete(session_id)

    async def begin(self, session_id: str, turn_id: str) -> int:
        await self._faults.reach("begin")
        begun = await self._store.begin(session_id, turn_id)
        await self._faults.reach("begun")
        return begun

    async def rewind(self, session_id: str, turn_id: str) -> None:
        await self._faults.reach("rewind")
        await self._store.rewind(session_id, turn_id)

    async def rewind_started(self, session_id: str, turn_id: str) -> None:
        await self._faults.reach("rewind")
        await self._store.rewind_started(session_id, turn_id)

    async def defer(self, session_id: str, turns: Sequence[Deferred], *, limit: int) -> list[Kept]:
        await self._faults.reach("defer")
        accepted = await self._store.defer(session_id, turns, limit=limit)
        await self._faults.reach("defer done")
        return accepted

    async def deferred(self, session_id: str, *, after: int = 0, count: int) -> list[Deferred]:
        await self._faults.reach("take out")
        return await self._store.deferred(session_id, after=after, count=count)

    async def undefer(self, session_id: str, turn_ids: Sequence[str]) -> None:
        await self._faults.reach("undefer")
        await self._store.undefer(session_id, turn_ids)

    async def standing(self, session_id: str, turn_id: str) -> Standing:
        return await self._store.standing(session_id, turn_id)

    async def refuse(self, session_id: str, outcome: TurnOutcome, *, retention: Retention) -> TurnOutcome | None:
        await self._faults.reach("refuse")
        refused = await self._store.refuse(session_id, outcome, retention=retention)
        await self._faults.reach("refused")
        return refused

    async def backlogged(self) -> dict[str, str]:
        return await self._store.backlogged()

    async def enlist(self, session_id: str) -> None:
        await self._faults.reach("enlist")
        await self._store.enlist(session_id)
        await self._faults.reach("enlisted")

    async def unlist(self, session_id: str, mark: str) -> None:
        await self._faults.reach("unlist")
        await self._store.unlist(session_id, mark)


class FaultyBroker(MemoryBroker):
    """A broker with points before and after each publish, by what is published: ``reply``, ``dead``, ``turn``."""

    def __init__(self, topology: Topology, server: MemoryServer, faults: Faults) -> None:
        super().__init__(topology, server)
        self._faults = faults
        self.made: list[MemorySubscription] = []

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        topology = self.topology
        what = {topology.replies: "reply", topology.dead: "dead", topology.turns: "turn"}.get(exchange, "copy")
        if routing_key.startswith(topology.turns):
            what = "turn"  # forwarded, straight to its queue
        await self._faults.reach(what)
        await super().publish(exchange, routing_key, message, timeout=timeout)
        await self._faults.reach(f"{what} confirmed")

    async def subscribe(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int, timeout: float = 10.0
    ) -> MemorySubscription:
        await self._faults.reach("subscribe")
        subscription = await super().subscribe(queue, on_delivery, prefetch=prefetch, timeout=timeout)
        self.made.append(subscription)
        return subscription


class Member:
    """A consumer of the stand, with all that one process has of its own."""

    def __init__(
        self,
        stand: Stand,
        agent: Callable[[], Any],
        options: ConsumerOptions,
        *,
        lock_backend: LockBackend | None = None,
        max_sessions: int = 1000,
        history: Sequence[HistoryPolicy] = (),
        pool: MemoryPool | None = None,
        delta_log: DeltaLog | None = None,
    ) -> None:
        self.faults = Faults()
        self.watcher = Watcher()
        self.broker = FaultyBroker(stand.topology, stand.server, self.faults)
        self.worker = SessionWorker(
            agent_factory=agent,
            store=FaultyStore(stand.store, self.faults),
            lock_backend=stand.locks if lock_backend is None else lock_backend,
            max_sessions=max_sessions,
            history=history,
        )
        queues = stand.topology.turn_queues
        self.membership = None if pool is None else MemoryMembership(pool, queues, name=options.name)
        self.consumer = Consumer(
            self.broker,
            self.worker,
            options,
            observer=self.watcher,
            membership=self.membership,
            delta_log=delta_log,
        )
        self._server = stand.server

    def cut_off(self) -> None:
        """Lose every subscription, as when the connection breaks, or the process stands still for long."""
        for subscription in self.broker.made:
            if not subscription._ended:
                self._server.lose(subscription)

    def stop(self) -> None:
        self.consumer.stop()

    def stop_at_once(self) -> None:
        self.consumer.stop()
        self.consumer.stop()


class Stand:
    """A broker, a store, and the means to send turns and to read what comes of them."""

    def __init__(self, *, partitions: int = 4, store: InMemorySessionStore | None = None) -> None:
        self.topology = Topology("test", partitions)
        self.server = MemoryServer()
        self.store = InMemorySessionStore() if store is None else store
        self.locks = AsyncioLockBackend()
        self.broker = MemoryBroker(self.topology, self.server)
        self.replies: list[OutboundReply] = []
        self.bodies: list[bytes] = []
        self.dead: list[Delivery] = []
        self.changes = Changes()
        self._stack = AsyncExitStack()
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.broker)
        await self.broker.apply()
        egress = await self.broker.declare_egress("default")
        await self.broker.subscribe(egress, self._on_reply, prefetch=1000)
        await self.broker.subscribe(self.topology.dead, self._on_dead, prefetch=1000)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def member(self, acts: Mapping[str, Act] | Callable[[], Any] | None = None, **options: Any) -> Member:
        """A consumer that does not run yet; ``acts`` are those of its puppets, or a factory of agents.

        With a ``pool`` it shares the partitions with others of that pool.
        """
        agent = acts if callable(acts) else lambda: Puppet(acts)
        worker = {name: options.pop(name) for name in WORKERS if name in options}
        known: dict[str, Any] = {"name": "tester", "retry": QUICK, "grace_s": 5.0}
        return Member(self, agent, ConsumerOptions(**known | options), **worker)

    @asynccontextmanager
    async def running(
        self, acts: Mapping[str, Act] | Callable[[], Any] | None = None, **options: Any
    ) -> AsyncIterator[Member]:
        member = self.member(acts, **options)
        async with self.started(member):
            yield member

    @asynccontextmanager
    async def started(self, member: Member) -> AsyncIterator[Member]:
        async with member.broker, member.consumer:
            yield member

    async def send(self, session: str, text: str = "", **fields: Any) -> str:
        """Publish a turn to its partition and return its id, which is made up unless given (``None``: without one)."""
        fields = {"session_id": session, "text": text, "id": f"t{next(self._ids)}"} | fields
        await self.send_raw(json.dumps(fields).encode(), session)
        return str(fields["id"])

    async def send_raw(self, body: bytes, session: str, **properties: Any) -> None:
        """Publish any bytes to the partition of a session."""
        key = routing_key(partition_of(session, self.topology.partitions))
        await self.broker.publish(self.topology.turns, key, Message(body, **properties))

    def partition(self, session: str) -> int:
        return partition_of(session, self.topology.partitions)

    def answers(self, session: str) -> list[str]:
        """What a session was told at last, in order; repeats of a reply are left out."""
        first = {reply.id: reply for reply in self.replies if reply.session_id == session and reply.kind == "final"}
        return [reply.text for reply in first.values()]

    async def expect_replies(self, count: int) -> list[OutboundReply]:
        await self.changes.until(lambda: len(self.replies) >= count, lambda: (count, self.replies))
        return self.replies

    async def expect_reply(self, turn_id: str, *, kind: str = "final") -> OutboundReply:
        def found() -> list[OutboundReply]:
            return [r for r in self.replies if r.turn_id == turn_id and r.kind == kind]

        await self.changes.until(found, lambda: (turn_id, kind, self.replies))
        return found()[0]

    async def expect_dead(self, count: int = 1) -> list[DeadTurn]:
        await self.changes.until(lambda: len(self.dead) >= count, lambda: (count, self.dead))
        return [DeadTurn.from_headers(delivery.message.headers) for delivery in self.dead]

    async def record(self, session: str) -> SessionRecord:
        record = await self.store.load(session)
        assert record is not None
        return record

    async def depth(self) -> int:
        """Turns that wait in the partitions, not counting those that somebody has."""
        queues = [self.topology.partition_queue(p) for p in range(self.topology.partitions)]
        return sum([await self.broker.depth(queue) for queue in queues])

    def begun(self, session: str) -> dict[str, int]:
        """Beginnings without an end that the store has counted."""
        counts = {turn: beginnings(count)[0] for turn, count in self.store._begun.get(session, {}).items()}
        return {turn: begun for turn, begun in counts.items() if begun}

    def _on_reply(self, delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        self.bodies.append(delivery.message.body)
        self.replies.append(OutboundReply.decode(delivery.message.body))
        self.changes.wake()

    def _on_dead(self, delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        self.dead.append(delivery)
        self.changes.wake()
