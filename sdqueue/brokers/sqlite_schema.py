"""The tables of the SQLite broker, and how its database is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from sdqueue.brokers.layout import Layout
from sdqueue.brokers.topology import Binding, Exchange, Queue
from sdqueue.errors import BrokerUnavailable

FORMAT: Final = 1
"""Of the tables below; grows when a release changes them."""

_TABLES: Final = (
    # One row. ``layout`` and ``epoch`` grow when exchanges, queues or bindings and when subscriptions change, so
    # that a process sees with one read whether what it remembers is still so. Ids of entries are never used twice.
    """CREATE TABLE IF NOT EXISTS broker_meta (
        one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL,
        layout INTEGER NOT NULL, epoch INTEGER NOT NULL, last_entry INTEGER NOT NULL)""",
    f"INSERT OR IGNORE INTO broker_meta VALUES (1, {FORMAT}, 1, 1, 0)",  # noqa: S608 -- a constant
    "CREATE TABLE IF NOT EXISTS broker_exchanges (name TEXT PRIMARY KEY, kind TEXT NOT NULL, alternate TEXT)",
    # A queue with a member is private to it and ends with it.
    """CREATE TABLE IF NOT EXISTS broker_queues (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
        single_active INTEGER NOT NULL, dead_letter TEXT, member TEXT)""",
    """CREATE TABLE IF NOT EXISTS broker_bindings (
        exchange TEXT NOT NULL, queue TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (exchange, queue, key))""",
    # The lowest id of a queue is its active subscription, so ids must not be used twice.
    """CREATE TABLE IF NOT EXISTS broker_subscriptions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, member TEXT NOT NULL)""",
    # An entry is a message in a queue; its owner is the subscription that has it unacknowledged. Apart from the
    # message, so that claiming a large body does not write it again.
    """CREATE TABLE IF NOT EXISTS broker_entries (
        id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, owner INTEGER, seen INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX IF NOT EXISTS broker_entries_place ON broker_entries (queue, owner, id)",
    """CREATE TABLE IF NOT EXISTS broker_messages (
        id INTEGER PRIMARY KEY, properties TEXT NOT NULL, body BLOB NOT NULL)""",
    """CREATE TRIGGER IF NOT EXISTS broker_entry_gone AFTER DELETE ON broker_entries
        BEGIN DELETE FROM broker_messages WHERE id = OLD.id; END""",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, and make it and its tables where they are not there.

    The connection never waits for a lock: the caller tries again, and can be stopped meanwhile.

    Raises:
        sqlite3.Error, OSError: it cannot be opened, or is locked.
        BrokerUnavailable: it was made by a newer release.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        # Before the first table, or it has no effect: pages of deleted messages can then be given back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'broker_entry_gone'").fetchone():
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("COMMIT")
        _check_format(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("SELECT format FROM broker_meta").fetchone()
    if found != FORMAT:
        raise BrokerUnavailable(
            f"{path}: has format {found}, this release reads {FORMAT}; upgrade sdqueue or use another file"
        )


def load_layout(connection: sqlite3.Connection) -> tuple[Layout, dict[str, int]]:
    """What is declared for everybody, and the ids of those queues by name."""
    queues = connection.execute(
        "SELECT name, single_active, dead_letter, id FROM broker_queues WHERE member IS NULL"
    ).fetchall()
    layout = Layout(
        (Exchange(*row) for row in connection.execute("SELECT name, kind, alternate FROM broker_exchanges")),
        (Queue(name, bool(single_active), dead_letter) for name, single_active, dead_letter, _ in queues),
        (Binding(*row) for row in connection.execute("SELECT exchange, queue, key FROM broker_bindings")),
    )
    return layout, {name: number for name, _, _, number in queues}


def declare(
    connection: sqlite3.Connection, exchanges: list[Exchange], queues: list[Queue], bindings: list[Binding]
) -> None:
    """Write down what was not declared yet."""
    connection.executemany(
        "INSERT INTO broker_exchanges VALUES (?, ?, ?)", [(e.name, e.kind, e.alternate) for e in exchanges]
    )
    connection.executemany(
        "INSERT INTO broker_queues (name, single_active, dead_letter) VALUES (?, ?, ?)",
        [(q.name, q.single_active, q.dead_letter) for q in queues],
    )
    connection.executemany(
        "INSERT INTO broker_bindings VALUES (?, ?, ?)", [(b.exchange, b.queue, b.key) for b in bindings]
    )
