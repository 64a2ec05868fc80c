"""Ledger: what the SQLite broker does with its database, one transaction at a time, in one thread."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

from sdqueue.brokers import sqlite_schema
from sdqueue.brokers.layout import Layout
from sdqueue.brokers.sqlite_declarations import Declarations
from sdqueue.brokers.sqlite_members import Member, Peers
from sdqueue.brokers.topology import Topology
from sdqueue.errors import TopologyMissing, Unroutable

CLAIM: Final = 256
"""Messages that one transaction claims for a subscription at most, so that none is held up by a large window."""

_CHUNKS: Final = (64, 8, 1)
"""Rows that one INSERT writes. Each statement gives up the interpreter lock and has to get it back."""

Row = tuple[int, int, str, bytes]
"""A claimed message: id, whether it was claimed before, properties, body."""


class Handle(Protocol):
    """The subscription that the event loop knows. ``id`` is the ledger's, once it is subscribed."""

    queue: str
    id: int | None


@dataclass(slots=True)
class _Consumer:
    """A subscription of this process. ``stock``: there may be messages waiting that it could claim."""

    handle: Handle
    id: int
    queue: int
    prefetch: int
    private: bool
    active: bool = False
    stock: bool = False
    held: int = 0

    def room(self) -> int:
        return CLAIM if self.private else min(CLAIM, self.prefetch - self.held)

    def hungry(self) -> bool:
        return self.active and self.stock and self.room() > 0


class Ledger(Declarations):
    """A process's view of the database. Not thread-safe: it belongs to one worker thread.

    Messages, subscriptions and who holds what are in the database. What is remembered here can be read again at any
    time, and is, when a transaction fails.

    Parameters:
        path: the database; beside it ``<path>.members`` with a file for each process that consumes.
        topology: the names.
    """

    def __init__(self, path: Path, topology: Topology) -> None:
        self.path = path
        self.lost: list[tuple[Handle, str]] = []
        self._topology = topology
        self._directory = path.with_name(f"{path.name}.members")
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._synchronous: bool | None = None
        self._member: Member | None = None
        self._peers = Peers(self._directory)
        self._consumers: dict[int, _Consumer] = {}
        self._members: set[str] = set()
        self._receivers: dict[int, set[str]] = {}
        self._layout, self._queues = Layout(), dict[str, int]()
        self._seen: tuple[int, int] | None = None
        self._versions: tuple[int, int, int] | None = None
        self._last_entry = 0
        self._recount = False
        # Of the running transaction:
        self._undo: list[Callable[[], object]] = []
        self._rows: list[tuple[int, int, str, bytes]] = []
        self._stocked: set[int] = set()
        self._changes = [0, 0]

    # The connection

    @property
    def consuming(self) -> bool:
        """Whether this process has subscriptions."""
        return bool(self._consumers)

    @property
    def wake(self) -> int | None:
        """The FIFO by which other processes say that there is news."""
        return self._member.wake if self._member is not None else None

    def open(self) -> None:
        """Open the database where it is not open. A file that was removed meanwhile is lost, and made again.

        Raises:
            sqlite3.Error, OSError, BrokerUnavailable: see :func:`sqlite_schema.connect`.
        """
        if self._connection is not None and self._inode != _inode(self.path):
            self.lose(f"{self.path}: the database file was removed or replaced")
        if self._connection is not None:
            return
        self._connection = sqlite_schema.connect(self.path)
        self._inode = _inode(self.path)
        self._synchronous = None
        self._seen = self._versions = None

    def lose(self, reason: str) -> None:
        """Give up the connection and all subscriptions: others may take them over."""
        self.lost.extend((consumer.handle, reason) for consumer in self._consumers.values())
        self.close()

    def close(self) -> None:
        """Close the connection and stop being a member. What is subscribed returns to the queues by others' hands."""
        self._consumers.clear()
        self._peers.close()
        if self._member is not None:
            self._member.close()
            self._member = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    # What is new

    def vanished(self) -> bool:
        """Whether this process's own file was removed, so that others take it for dead."""
        return self._member is not None and self._member.vanished()

    def dead(self) -> list[str]:
        """Members that died and still have something; to be reaped."""
        own = self._member.name if self._member is not None else None
        return self._peers.dead(name for name in self._members if name != own)

    def stirred(self) -> bool:
        """Whether there is something to claim; two cheap reads where nothing has happened."""
        if self._connection is None or not (self._consumers or self._recount):
            return False
        self._refresh()
        for consumer in self._consumers.values():
            if consumer.hungry():
                waiting = "SELECT 1 FROM broker_entries WHERE queue = ? AND owner IS NULL LIMIT 1"
                consumer.stock = self._db.execute(waiting, (consumer.queue,)).fetchone() is not None
                if consumer.stock:
                    return True
        return bool(self.lost)

    def _refresh(self) -> None:
        """Take note of what other connections have committed."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        seen = (id(self._connection), version)
        if seen == self._seen and self._versions is not None:
            return
        layout, epoch, last = self._db.execute("SELECT layout, epoch, last_entry FROM broker_meta").fetchone()
        known = self._versions
        if known is None or known[0] != layout:
            self._layout, self._queues = sqlite_schema.load_layout(self._db)
        if known is None or known[1] != epoch:
            self._load_subscriptions()
        if self._last_entry < last and self._consumers:
            fresh = "SELECT DISTINCT queue FROM broker_entries WHERE id > ?"
            self._mark({queue for (queue,) in self._db.execute(fresh, (self._last_entry,)).fetchall()})
        self._last_entry = last
        if self._recount:
            self._count_again()
        self._seen, self._versions = seen, (layout, epoch, last)

    def _load_subscriptions(self) -> None:
        single = dict(self._db.execute("SELECT id, single_active FROM broker_queues").fetchall())
        rows = self._db.execute("SELECT id, queue, member FROM broker_subscriptions ORDER BY id").fetchall()
        self._members = {member for _, _, member in rows}
        self._receivers = {}
        active = set()
        for number, queue, member in rows:
            if not (single.get(queue, 1) and queue in self._receivers):
                active.add(number)
                self._receivers.setdefault(queue, set()).add(member)
        existing = {number for number, _, _ in rows}
        for number, consumer in list(self._consumers.items()):
            if number not in existing:
                del self._consumers[number]
                self.lost.append((consumer.handle, f"{self.path}: another process took this one for dead"))
            # Whatever ended elsewhere may have returned messages.
            consumer.active = consumer.stock = number in active
        self._peers.keep(self._members)

    def _mark(self, queues: set[int]) -> None:
        if queues:
            for consumer in self._consumers.values():
                if consumer.queue in queues:
                    consumer.stock = True

    def _count_again(self) -> None:
        """After a failed transaction: what subscriptions hold, and that each queue has to be looked at."""
        for consumer in self._consumers.values():
            held = "SELECT COUNT(*) FROM broker_entries WHERE queue = ? AND owner = ?"
            (consumer.held,) = self._db.execute(held, (consumer.queue, consumer.id)).fetchone()
            consumer.stock = consumer.active
        self._recount = False

    # Transactions

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """Everything in the block, or nothing.

        Parameters:
            durable: wait until it is on the disk, and with it everything committed before. Without, it survives the
                death of all processes but not a loss of power, which is enough for claims and acks: both would be
                repeated.

        Raises:
            sqlite3.Error: nothing was changed; SQLITE_BUSY where another process has a transaction open.
        """
        if self._synchronous is not durable:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._synchronous = durable
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._undo, self._rows, self._stocked, self._changes = [], [], set(), [0, 0]
            self._refresh()
            yield
            self._finish()
            self._db.execute("COMMIT")
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            self._versions, self._recount = None, True
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        own = self._member.name if self._member is not None else None
        rung = {name for queue in self._stocked for name in self._receivers.get(queue, ()) if name != own}
        self._peers.ring(rung)

    def _finish(self) -> None:
        self._flush()
        assert self._versions is not None
        layout, epoch, _ = self._versions
        versions = (layout + self._changes[0], epoch + self._changes[1], self._last_entry)
        if versions != self._versions:
            self._db.execute("UPDATE broker_meta SET layout = ?, epoch = ?, last_entry = ?", versions)
            self._versions = versions

    def _flush(self) -> None:
        """Write what was published."""
        start = 0
        for size in _CHUNKS:
            while len(self._rows) - start >= size:
                chunk = self._rows[start : start + size]
                entries = [value for row in chunk for value in row[:2]]
                messages = [value for row in chunk for value in (row[0], *row[2:])]
                pairs, triples = ", ".join(["(?, ?)"] * size), ", ".join(["(?, ?, ?)"] * size)
                self._db.execute(f"INSERT INTO broker_entries (id, queue) VALUES {pairs}", entries)  # noqa: S608 -- marks
                self._db.execute(f"INSERT INTO broker_messages VALUES {triples}", messages)  # noqa: S608 -- marks
                start += size
        self._rows.clear()

    # What can be done in a transaction

    def publish(self, exchange: str, routing_key: str, properties: str, body: bytes) -> None:
        """Put a message into the queues that take it.

        Raises:
            TopologyMissing: there is no such exchange.
            Unroutable: no queue takes it, and the exchange is not that of replies.
        """
        queues = [self._queues.get(name) for name in self._layout.targets(exchange, routing_key)]
        if not exchange and queues == [None]:
            queues = [self._private(routing_key)]
        if not queues and exchange != self._topology.replies:
            raise Unroutable(f"{self.path}: no queue takes routing key {routing_key!r} of exchange {exchange!r}")
        for queue in queues:
            assert queue is not None, "bindings are made with their queues"
            self._last_entry += 1
            self._rows.append((self._last_entry, queue, properties, body))
            self._stocked.add(queue)

    def _private(self, name: str) -> int:
        row = self._db.execute("SELECT id FROM broker_queues WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise Unroutable(f"{self.path}: there is no queue {name!r}")
        return int(row[0])

    def depth(self, name: str) -> int:
        """How many messages wait in a queue.

        Raises:
            TopologyMissing: there is no such queue.
        """
        self._flush()
        waiting = "SELECT COUNT(*) FROM broker_entries WHERE queue = ? AND owner IS NULL"
        (count,) = self._db.execute(waiting, (self._known_queue(name),)).fetchone()
        return int(count)

    def receivers(self, name: str) -> int:
        """How many subscriptions receive from a queue: of those in line for a single-active one, the first."""
        queue = self._known_queue(name)
        count = (
            "SELECT CASE WHEN single_active THEN MIN(COUNT(s.id), 1) ELSE COUNT(s.id) END"
            " FROM broker_queues q LEFT JOIN broker_subscriptions s ON s.queue = q.id WHERE q.id = ?"
        )
        return int(self._db.execute(count, (queue,)).fetchone()[0])

    def _known_queue(self, name: str) -> int:
        queue = self._queues.get(name)
        if queue is None:
            raise TopologyMissing(f"{self.path}: there is no queue {name!r}; run `sdqueue topology apply`")
        return queue

    def subscribe(self, handle: Handle, prefetch: int) -> None:
        """Stand in line for a queue."""
        self._enlist(handle, self._known_queue(handle.queue), prefetch, private=False)

    def subscribe_private(self, handle: Handle) -> None:
        """Make a queue that belongs to this subscription, and give the handle its name."""
        handle.queue = f"{self._topology.namespace}.reply-to.{uuid4().hex}"
        make = "INSERT INTO broker_queues (name, single_active, member) VALUES (?, 1, ?)"
        queue = self._db.execute(make, (handle.queue, self._membership().name)).lastrowid
        assert queue is not None
        self._enlist(handle, queue, 0, private=True)

    def _enlist(self, handle: Handle, queue: int, prefetch: int, *, private: bool) -> None:
        enter = "INSERT INTO broker_subscriptions (queue, member) VALUES (?, ?)"
        number = self._db.execute(enter, (queue, self._membership().name)).lastrowid
        assert number is not None
        handle.id = number
        self._consumers[number] = _Consumer(handle, number, queue, prefetch, private)
        self._undo.append(lambda: self._consumers.pop(number, None))
        self._changes[1] = 1

    def _membership(self) -> Member:
        if self._member is None:
            self._member = Member(self._directory)
            self._peers.sweep(self._members)
        return self._member

    def ack(self, handle: Handle, entries: list[int]) -> None:
        """Delete messages; nothing happens where the subscription is not this process's any more."""
        consumer = self._consumers.get(handle.id or 0)
        if consumer is not None:
            delete = "DELETE FROM broker_entries WHERE owner = ? AND id IN (SELECT value FROM json_each(?))"
            consumer.held -= self._db.execute(delete, (consumer.id, json.dumps(entries))).rowcount

    def end(self, handle: Handle) -> None:
        """Leave the line: what the subscription holds returns to its place in the queue."""
        consumer = self._consumers.pop(handle.id or 0, None)
        if consumer is not None:
            self._undo.append(lambda: self._consumers.update({consumer.id: consumer}))
            self._withdraw(consumer.id, consumer.queue)

    def reap(self, names: list[str]) -> None:
        """Take dead members' subscriptions out of the lines."""
        for name in names:
            has = "SELECT id, queue FROM broker_subscriptions WHERE member = ?"
            for number, queue in self._db.execute(has, (name,)).fetchall():
                self._withdraw(number, queue)

    def _withdraw(self, number: int, queue: int) -> None:
        self._flush()
        self._db.execute("DELETE FROM broker_subscriptions WHERE id = ?", (number,))
        if self._db.execute("SELECT member FROM broker_queues WHERE id = ?", (queue,)).fetchone()[0] is not None:
            self._db.execute("DELETE FROM broker_entries WHERE queue = ?", (queue,))
            self._db.execute("DELETE FROM broker_queues WHERE id = ?", (queue,))
        release = "UPDATE broker_entries SET owner = NULL WHERE queue = ? AND owner = ?"
        self._db.execute(release, (queue, number))
        self._stocked.add(queue)
        self._changes[1] = 1

    def bury(self, names: list[str]) -> None:
        """Remove the files of members that were reaped, after the commit."""
        for name in names:
            self._peers.bury(name)

    def claim(self) -> list[tuple[Handle, list[Row]]]:
        """Take what waits for this process's active subscriptions, as far as their windows allow."""
        self._flush()
        if self._changes[1]:
            self._load_subscriptions()
        self._mark(self._stocked)
        claimed = []
        for consumer in self._consumers.values():
            if consumer.hungry():
                rows = self._claim(consumer)
                if rows:
                    claimed.append((consumer.handle, rows))
        return claimed

    def hungry(self) -> bool:
        """Whether another transaction would claim more."""
        return any(consumer.hungry() for consumer in self._consumers.values())

    def _claim(self, consumer: _Consumer) -> list[Row]:
        room = consumer.room()
        rows: list[Row] = self._db.execute(
            "SELECT e.id, e.seen, m.properties, m.body FROM broker_entries e JOIN broker_messages m ON m.id = e.id"
            " WHERE e.queue = ? AND e.owner IS NULL ORDER BY e.id LIMIT ?",
            (consumer.queue, room),
        ).fetchall()
        consumer.stock = len(rows) == room
        if rows:
            taken = "queue = ? AND owner IS NULL AND id <= ?"
            if consumer.private:
                self._db.execute(f"DELETE FROM broker_entries WHERE {taken}", (consumer.queue, rows[-1][0]))  # noqa: S608
            else:
                claim = f"UPDATE broker_entries SET owner = ?, seen = 1 WHERE {taken}"  # noqa: S608
                self._db.execute(claim, (consumer.id, consumer.queue, rows[-1][0]))
                consumer.held += len(rows)
        return rows

    def tidy(self) -> None:
        """Give pages back to the file system where many are free, a part at a time."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if free > 1024:
            # A statement that gives one row a page but no columns: ``execute`` would stop after the first.
            self._db.executescript("PRAGMA incremental_vacuum(512)")


def _inode(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
