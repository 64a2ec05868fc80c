"""Topology: the exchanges, queues and bindings of one namespace, as values.

RabbitMQ declares them; the embedded brokers route by them. Names are the wire contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from sdqueue.messages import partition_of, routing_key

MAX_PARTITIONS: Final = 9999
"""Four decimal digits name a partition."""

DELIVERY_LIMIT: Final = 1000
"""Every return of a prefetched message counts as a delivery, so the broker's own limit must be far off: poison is
told by counting beginnings. Left out, RabbitMQ 4 takes 20 and condemns turns that were merely waiting."""


@dataclass(frozen=True)
class Exchange:
    """An exchange; ``alternate`` takes what it cannot route."""

    name: str
    kind: Literal["direct", "fanout", "topic"]
    alternate: str | None = None


@dataclass(frozen=True)
class Queue:
    """A durable queue; ``single_active`` gives it to one consumer at a time, ``dead_letter`` is an exchange."""

    name: str
    single_active: bool = True
    dead_letter: str | None = None


@dataclass(frozen=True)
class Binding:
    """A queue takes what an exchange gets under a routing key."""

    exchange: str
    queue: str
    key: str = ""


@dataclass(frozen=True)
class Topology:
    """All that a namespace has on a broker.

    Parameters:
        namespace: prefix of every name.
        partitions: how many queues the turns are spread over; changed only by ``sdqueue topology reshard``.
    """

    namespace: str = "sdqueue"
    partitions: int = 64

    @property
    def turns(self) -> str:
        """The exchange that producers publish turns to, under the partition's four digits."""
        return f"{self.namespace}.turns"

    @property
    def unrouted(self) -> str:
        """Exchange and queue of turns under any other routing key."""
        return f"{self.namespace}.unrouted"

    @property
    def replies(self) -> str:
        """The exchange of replies; declared last, so its presence says that the topology is complete."""
        return f"{self.namespace}.replies"

    @property
    def dead(self) -> str:
        """Exchange and queue of dead letters."""
        return f"{self.namespace}.dead"

    @property
    def resharding(self) -> str:
        """A queue that is there while the number of partitions is being changed: with it, any number is right."""
        return f"{self.namespace}.resharding"

    def partition_queue(self, partition: int) -> str:
        """The queue of a partition."""
        return f"{self.turns}.{routing_key(partition)}"

    def queue_of(self, session_id: str) -> str:
        """The queue of a session's partition."""
        return self.partition_queues[partition_of(session_id, self.partitions)]

    def egress_queue(self, channel: str) -> str:
        """The queue of a channel's replies."""
        return f"{self.replies}.{channel}"

    def reply_key(self, channel: str, kind: str, session_id: str) -> str:
        """The routing key of a reply: ``<channel>.<kind>.<partition>``."""
        return f"{channel}.{kind}.{routing_key(partition_of(session_id, self.partitions))}"

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """In the order in which they are declared, but for the replies exchange, which comes after everything."""
        return (
            Exchange(self.dead, "fanout"),
            Exchange(self.unrouted, "fanout"),
            Exchange(self.turns, "direct", alternate=self.unrouted),
            Exchange(self.replies, "topic"),
        )

    @cached_property
    def queues(self) -> tuple[Queue, ...]:
        """All but the egress queues, which belong to the channels."""
        return (
            Queue(self.dead, single_active=False),
            Queue(self.unrouted, dead_letter=self.dead),
            *(Queue(name, dead_letter=self.dead) for name in self.partition_queues),
        )

    @cached_property
    def partition_queues(self) -> tuple[str, ...]:
        """The queues of the partitions, in their order."""
        return tuple(self.partition_queue(p) for p in range(self.partitions))

    @cached_property
    def turn_queues(self) -> tuple[str, ...]:
        """Those that consumers read: the unrouted turns first, then the partitions."""
        return tuple(queue.name for queue in self.queues if queue.single_active)

    @cached_property
    def bindings(self) -> tuple[Binding, ...]:
        """All but those of egress queues."""
        return (
            Binding(self.dead, self.dead),
            Binding(self.unrouted, self.unrouted),
            *self.keys,
        )

    @property
    def keys(self) -> tuple[Binding, ...]:
        """The bindings of the partitions, by which turns find their queues."""
        return tuple(Binding(self.turns, self.partition_queue(p), routing_key(p)) for p in range(self.partitions))

    def egress(self, channel: str) -> tuple[Queue, Binding]:
        """What a channel needs to receive its replies."""
        name = self.egress_queue(channel)
        return Queue(name), Binding(self.replies, name, f"{channel}.#")


def being_resharded(topology: Topology) -> str:
    """Why nothing can be declared now."""
    return (
        f"the number of partitions of namespace {topology.namespace!r} is being changed; try again when "
        "`sdqueue topology reshard` has ended, or run that again where it was interrupted"
    )


def matches(pattern: str, key: str) -> bool:
    """Whether a topic binding takes a routing key: ``*`` is one word, ``#`` any number of them."""
    return _matches(pattern.split("."), key.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_matches(rest, words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and _matches(rest, words[1:])


def route(exchange: str, key: str, exchanges: dict[str, Exchange], bindings: dict[str, list[Binding]]) -> list[str]:
    """The queues that a message goes to, by the rules of AMQP; empty where none takes it.

    Parameters:
        exchange: where it is published; the empty string is AMQP's default exchange and routes by queue name,
            which the caller checks for existence.
        key: its routing key.
        exchanges: all exchanges by name.
        bindings: all bindings by exchange.

    Raises:
        KeyError: there is no such exchange.
    """
    if not exchange:
        return [key]
    kind = exchanges[exchange].kind
    taken = [
        b.queue
        for b in bindings.get(exchange, ())
        if kind == "fanout" or (b.key == key if kind == "direct" else matches(b.key, key))
    ]
    alternate = exchanges[exchange].alternate
    if not taken and alternate is not None:
        return route(alternate, key, exchanges, bindings)
    return list(dict.fromkeys(taken))
