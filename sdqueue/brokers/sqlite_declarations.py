"""Declarations: the part of the ledger that knows which exchanges, queues and bindings there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sdqueue.brokers import sqlite_schema
from sdqueue.brokers.layout import Layout
from sdqueue.brokers.topology import Binding, Exchange, Queue, Topology
from sdqueue.errors import TopologyMissing


class Declarations:
    """What can be done in a transaction to the layout of the :class:`~sdqueue.brokers.sqlite_ledger.Ledger`."""

    path: Path
    _layout: Layout
    _queues: dict[str, int]
    _changes: list[int]

    @property
    def _db(self) -> sqlite3.Connection:
        raise NotImplementedError

    def apply(self, topology: Topology) -> None:
        """Declare a topology.

        Raises:
            TopologyMismatch: something of that name is different.
        """
        self._layout.check_partitions(topology, str(self.path))
        self._add(self._layout.lacks(topology.exchanges, topology.queues, topology.bindings))

    def check(self, topology: Topology) -> None:
        """See whether a topology is complete.

        Raises:
            TopologyMissing, TopologyMismatch: it is not.
        """
        self._layout.check(topology, str(self.path))

    def declare_egress(self, topology: Topology, channel: str) -> str:
        """Declare the queue of a channel's replies, and return its name.

        Raises:
            TopologyMissing: there is no replies exchange.
        """
        replies = topology.replies
        if replies not in self._layout.exchanges:
            raise TopologyMissing(f"{self.path}: there is no exchange {replies!r}; run `sdqueue topology apply`")
        queue, binding = topology.egress(channel)
        self._add(self._layout.lacks((), (queue,), (binding,)))
        return queue.name

    def declare(self, queues: Sequence[Queue]) -> None:
        """Declare queues.

        Raises:
            TopologyMismatch: one of them is different.
        """
        self._add(self._layout.lacks((), queues, ()))

    def bind(self, bindings: Sequence[Binding]) -> None:
        """Declare bindings.

        Raises:
            TopologyMissing: what is to be bound is not there.
        """
        self._layout.check_places(bindings, str(self.path))
        self._add(self._layout.lacks((), (), bindings))

    def unbind(self, bindings: Sequence[Binding]) -> None:
        """Take bindings away."""
        self._db.executemany(
            "DELETE FROM broker_bindings WHERE exchange = ? AND queue = ? AND key = ?",
            [(b.exchange, b.queue, b.key) for b in bindings],
        )
        self._reload()

    def remove(self, name: str) -> bool:
        """Remove a queue; ``False`` where it has messages or subscriptions."""
        self._flush()
        queue = self._queues.get(name)
        if queue is None:
            return True
        for table in ("broker_entries", "broker_subscriptions"):
            if self._db.execute(f"SELECT 1 FROM {table} WHERE queue = ? LIMIT 1", (queue,)).fetchone():  # noqa: S608 -- constants
                return False
        self._db.execute("DELETE FROM broker_bindings WHERE queue = ?", (name,))
        self._db.execute("DELETE FROM broker_queues WHERE id = ?", (queue,))
        self._reload()
        return True

    def _flush(self) -> None:
        """Write what was published."""
        raise NotImplementedError

    def _add(self, lacking: tuple[list[Exchange], list[Queue], list[Binding]]) -> None:
        if any(lacking):
            sqlite_schema.declare(self._db, *lacking)
            self._reload()

    def _reload(self) -> None:
        self._layout, self._queues = sqlite_schema.load_layout(self._db)
        self._changes[0] = 1
