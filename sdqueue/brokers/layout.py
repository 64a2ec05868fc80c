"""Layout: the exchanges, queues and bindings that an embedded broker has, and how it routes by them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sdqueue.brokers.topology import Binding, Exchange, Queue, Topology, being_resharded, route
from sdqueue.errors import TopologyMismatch, TopologyMissing

_REMEMBERED_ROUTES: Final = 20_000
"""Routing keys may be session ids, so the memory of routes is bounded; partitions and reply keys fit."""


class Layout:
    """What is declared. Several namespaces may live beside each other.

    Parameters:
        exchanges, queues, bindings: what is there already.
    """

    def __init__(
        self,
        exchanges: Iterable[Exchange] = (),
        queues: Iterable[Queue] = (),
        bindings: Iterable[Binding] = (),
    ) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.bindings: dict[str, list[Binding]] = {}
        self._routes: dict[tuple[str, str], list[str]] = {}
        self.add(exchanges, queues, bindings)

    def add(self, exchanges: Iterable[Exchange], queues: Iterable[Queue], bindings: Iterable[Binding]) -> None:
        """Declare more."""
        self._routes.clear()
        self.exchanges.update((exchange.name, exchange) for exchange in exchanges)
        self.queues.update((queue.name, queue) for queue in queues)
        for binding in bindings:
            bound = self.bindings.setdefault(binding.exchange, [])
            if binding not in bound:
                bound.append(binding)

    def check_places(self, bindings: Iterable[Binding], place: str) -> None:
        """See that what is to be bound is there.

        Raises:
            TopologyMissing: it is not.
        """
        for binding in bindings:
            if binding.exchange not in self.exchanges or binding.queue not in self.queues:
                raise TopologyMissing(
                    f"{place}: cannot bind the queue {binding.queue!r} to the exchange {binding.exchange!r}, one of "
                    "them is not there; run `sdqueue topology apply`"
                )

    def unbind(self, bindings: Iterable[Binding]) -> None:
        """Take bindings away; those that are not there are ignored."""
        self._routes.clear()
        gone = set(bindings)
        for exchange, bound in self.bindings.items():
            self.bindings[exchange] = [binding for binding in bound if binding not in gone]

    def remove(self, queue: str) -> None:
        """Take a queue away, and its bindings with it."""
        self.queues.pop(queue, None)
        self.unbind([binding for bound in self.bindings.values() for binding in bound if binding.queue == queue])

    def lacks(
        self, exchanges: Iterable[Exchange], queues: Iterable[Queue], bindings: Iterable[Binding]
    ) -> tuple[list[Exchange], list[Queue], list[Binding]]:
        """Those of the given that are not declared.

        Raises:
            TopologyMismatch: one of them is declared with other properties.
        """
        return (
            [e for e in exchanges if not _same("exchange", self.exchanges.get(e.name), e)],
            [q for q in queues if not _same("queue", self.queues.get(q.name), q)],
            [b for b in bindings if b not in self.bindings.get(b.exchange, ())],
        )

    def check_partitions(self, topology: Topology, place: str) -> None:
        """See that the namespace was not made with another number of partitions, and that it is not being changed.

        Parameters:
            topology: what this process wants.
            place: where the layout is kept, for the message.

        Raises:
            TopologyMismatch: it was; a session would hash to different queues in different processes. Or it is.
        """
        if topology.resharding in self.queues:
            raise TopologyMismatch(f"{place}: {being_resharded(topology)}")
        pattern = re.compile(re.escape(f"{topology.turns}.") + r"\d{4}")
        found = sum(1 for name in self.queues if pattern.fullmatch(name))
        if found and found != topology.partitions:
            raise TopologyMismatch(
                f"{place}: namespace {topology.namespace!r} has {found} partitions, but this process "
                f"wants {topology.partitions}; set SDQUEUE_PARTITIONS={found} or another SDQUEUE_NAMESPACE"
            )

    def check(self, topology: Topology, place: str) -> None:
        """See whether the topology is declared completely.

        Raises:
            TopologyMissing: it is not.
            TopologyMismatch: it is, with other properties.
        """
        if topology.resharding in self.queues:
            return
        self.check_partitions(topology, place)
        exchanges, queues, bindings = self.lacks(topology.exchanges, topology.queues, topology.bindings)
        if exchanges or queues or bindings:
            names = [e.name for e in exchanges] + [q.name for q in queues]
            names += [f"a binding of {b.queue}" for b in bindings]
            raise TopologyMissing(
                f"{place}: namespace {topology.namespace!r} is not complete ({names[0]} is missing); "
                "run `sdqueue topology apply`"
            )

    def targets(self, exchange: str, key: str) -> list[str]:
        """The names of the queues that take a message; empty where none does.

        Whether a queue named by the default exchange exists is left to the caller.

        Raises:
            TopologyMissing: there is no such exchange.
        """
        known = self._routes.get((exchange, key))
        if known is not None:
            return known
        if exchange and exchange not in self.exchanges:
            raise TopologyMissing(f"there is no exchange {exchange!r}; run `sdqueue topology apply`")
        found = route(exchange, key, self.exchanges, self.bindings)
        if exchange:
            if len(self._routes) >= _REMEMBERED_ROUTES:
                self._routes.clear()
            self._routes[exchange, key] = found
        return found


def _same(kind: str, found: Exchange | Queue | None, wanted: Exchange | Queue) -> bool:
    if found is not None and found != wanted:
        raise TopologyMismatch(
            f"{kind} {wanted.name!r} exists as {found}, but this release wants {wanted}; "
            "use another SDQUEUE_NAMESPACE, or remove it and run `sdqueue topology apply`"
        )
    return found is not None
