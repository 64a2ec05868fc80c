"""The SQLite broker: the suite, and failures within one process."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sdqueue.brokers import sqlite_schema
from sdqueue.brokers.broker import Broker, Message, Subscription
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.brokers.sqlite_ledger import Handle, Ledger
from sdqueue.brokers.sqlite_members import Member, Peers
from sdqueue.brokers.topology import Topology
from sdqueue.errors import BrokerUnavailable, PublishRejected, TopologyMissing, Unroutable
from sdqueue.testing.brokers import BrokerSuite, Inbox, MakeBroker

TOPOLOGY = Topology("lite", partitions=2)
QUEUE = TOPOLOGY.partition_queue(0)


def members(path: Path) -> Path:
    return path.with_name(f"{path.name}.members")


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


class TestSQLiteBroker(BrokerSuite):
    @pytest.fixture
    def make_broker(self, tmp_path: Path) -> MakeBroker:
        return lambda topology: SQLiteBroker(topology, tmp_path / "broker.db")


class TestSQLiteBrokerTakenForDead(TestSQLiteBroker):
    """The same, where a consumer ends because somebody removed the file that says it lives."""

    reports_loss = True

    @pytest.fixture
    def make_broker(self, tmp_path: Path) -> MakeBroker:
        self.path = tmp_path / "broker.db"
        return lambda topology: SQLiteBroker(topology, self.path)

    async def lose(self, subscription: Subscription) -> None:
        number = subscription.id  # type: ignore[attr-defined]  # the row that this suite looks up
        ((member,),) = query(self.path, f"SELECT member FROM broker_subscriptions WHERE id = {number}")
        (members(self.path) / f"{member}.lock").unlink()
        async with asyncio.timeout(10):
            await subscription.wait_lost()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "broker.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SQLiteBroker]:
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.apply()
        yield broker


async def publish(broker: SQLiteBroker, *bodies: bytes) -> None:
    for body in bodies:
        await broker.publish(TOPOLOGY.turns, "0000", Message(body))


def test_it_is_a_broker(path: Path) -> None:
    assert isinstance(SQLiteBroker(TOPOLOGY, path), Broker)


async def test_outside_of_its_block_it_says_how_it_is_used(path: Path) -> None:
    broker = SQLiteBroker(TOPOLOGY, path)
    with pytest.raises(BrokerUnavailable, match="async with"):
        await broker.apply()
    async with broker:
        await broker.apply()
    with pytest.raises(BrokerUnavailable, match="async with"):
        await broker.publish(TOPOLOGY.turns, "0000", Message(b"x"))
    async with broker:
        await broker.check()


async def test_entering_waits_for_nothing_and_leaving_leaves_nothing_running(path: Path) -> None:
    before = set(threading.enumerate())
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        assert not path.exists()
        await broker.apply()
        await broker.subscribe(QUEUE, Inbox(), prefetch=5)
        assert len(list(members(path).iterdir())) == 2
    assert not set(threading.enumerate()) - before
    assert list(members(path).iterdir()) == []
    assert query(path, "SELECT * FROM broker_subscriptions") == []


async def test_leaving_returns_what_is_unacknowledged_and_keeps_what_is_acknowledged(path: Path) -> None:
    inbox, later = Inbox(), Inbox()
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.apply()
        await publish(broker, b"0", b"1", b"2")
        subscription = await broker.subscribe(QUEUE, inbox, prefetch=5)
        await inbox.expect(3)
        subscription.ack(inbox.deliveries[1])
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.subscribe(QUEUE, later, prefetch=5)
        await later.expect(2)
        await later.expect_no_more(0.05)
    assert later.bodies == [b"0", b"2"]


def test_a_confirm_waits_for_the_disk_and_an_ack_does_not(path: Path) -> None:
    """Full synchronisation is SQLite's 2, normal 1; another connection's setting is no proof of ours."""
    ledger = Ledger(path, TOPOLOGY)
    ledger.open()
    try:
        for durable, level in ((True, 2), (False, 1), (True, 2)):
            with ledger.transaction(durable=durable):
                assert ledger._db.execute("PRAGMA synchronous").fetchone() == (level,)
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        ledger.close()


async def test_publishes_that_wait_at_the_same_time_share_a_transaction(
    broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    finish = Ledger._finish

    def counted(ledger: Ledger) -> None:
        nonlocal commits
        commits += 1
        finish(ledger)

    monkeypatch.setattr(Ledger, "_finish", counted)
    await asyncio.gather(*(publish(broker, b"%d" % n) for n in range(200)))
    assert await broker.depth(QUEUE) == 200
    assert commits <= 20


async def test_a_locked_database_is_named_in_the_time_given_and_used_again_when_free(
    broker: SQLiteBroker, path: Path
) -> None:
    """Given another process that stopped within a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(publish(broker, b"patient"))
        assert broker._worker is not None
        async with asyncio.timeout(20):
            while not broker._worker.trouble:  # until it has found the lock taken
                await asyncio.sleep(0.01)
        with pytest.raises(BrokerUnavailable, match=r"within 0\.2 s.*another process"):
            await broker.publish(TOPOLOGY.turns, "0000", Message(b"given up"), timeout=0.2)
        with pytest.raises(BrokerUnavailable, match="another process"):
            await broker.subscribe(QUEUE, Inbox(), prefetch=1, timeout=0.1)
        connection.execute("ROLLBACK")
        await waiting
    finally:
        connection.close()
    inbox = Inbox()
    await broker.subscribe(QUEUE, inbox, prefetch=5)
    await inbox.expect(1)
    assert inbox.bodies == [b"patient"]


async def test_leaving_while_the_database_is_locked_ends_and_the_next_one_gets_everything(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdqueue.brokers.sqlite_worker.STOP_S", 0.2)
    inbox, later = Inbox(), Inbox()
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.apply()
        await publish(broker, b"0", b"1")
        await broker.subscribe(QUEUE, inbox, prefetch=5)
        await inbox.expect(2)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
    connection.close()
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.subscribe(QUEUE, later, prefetch=5)
        await later.expect(2)
    assert later.bodies == [b"0", b"1"]
    assert all(delivery.redelivered for delivery in later.deliveries)


async def test_a_full_disk_rejects_publishes_and_keeps_subscriptions(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a limit on the pages of the file, which SQLite reports as it reports a full disk."""
    connect, limits = sqlite_schema.connect, [64]
    opened: list[sqlite3.Connection] = []

    def limited(path: Path) -> sqlite3.Connection:
        opened.append(connect(path))
        opened[-1].execute(f"PRAGMA max_page_count = {limits[0]}")
        return opened[-1]

    monkeypatch.setattr(sqlite_schema, "connect", limited)
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        await broker.apply()
        inbox = Inbox(acks=True)
        await broker.subscribe(QUEUE, inbox, prefetch=5)
        with pytest.raises(PublishRejected, match="full"):
            await publish(broker, bytes(1024 * 1024))
        await publish(broker, b"small")
        await inbox.expect(1)
    assert inbox.bodies == [b"small"]
    assert len(opened) == 1


async def test_a_file_that_is_no_database_is_named_and_a_good_one_is_used_when_it_is_there(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database" * 100)
    async with SQLiteBroker(TOPOLOGY, path) as broker:
        with pytest.raises(BrokerUnavailable, match=r"broker\.db"):
            await broker.apply()
        path.unlink()
        await broker.apply()
        await broker.check()


async def test_a_removed_file_is_a_loss_and_not_a_confirm_into_nothing(broker: SQLiteBroker, path: Path) -> None:
    """The failure: SQLite goes on writing into a file that has no name any more."""
    subscription = await broker.subscribe(QUEUE, Inbox(), prefetch=5)
    for file in path.parent.glob("broker.db*"):
        if file.is_file():
            file.unlink()
    async with asyncio.timeout(10):
        assert "removed" in await subscription.wait_lost()
    with pytest.raises(TopologyMissing):
        await publish(broker, b"x")
    await broker.apply()
    await publish(broker, b"x")
    assert await broker.depth(QUEUE) == 1


async def test_a_loss_is_told_while_the_database_is_locked(broker: SQLiteBroker, path: Path) -> None:
    """The interleaving that broke it: the loss is read, and the transaction after it finds the lock taken; in the
    next round there is no subscription left that anything would be done for.
    """
    subscription = await broker.subscribe(QUEUE, Inbox(), prefetch=5)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM broker_subscriptions")
        connection.execute("UPDATE broker_meta SET epoch = epoch + 1")
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(10):
            assert "dead" in await subscription.wait_lost()
    finally:
        connection.close()
    inbox = Inbox()
    await broker.subscribe(QUEUE, inbox, prefetch=5)
    await publish(broker, b"x")
    await inbox.expect(1)


async def test_a_newer_format_is_refused(broker: SQLiteBroker, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE broker_meta SET format = 99")
    connection.commit()
    connection.close()
    async with SQLiteBroker(TOPOLOGY, path) as older:
        with pytest.raises(BrokerUnavailable, match="upgrade"):
            await older.check()


async def test_a_defect_in_the_worker_reaches_every_caller(
    broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = await broker.subscribe(QUEUE, Inbox(), prefetch=5)

    def defective(self: Ledger) -> list[str]:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Ledger, "dead", defective)
    async with asyncio.timeout(10):
        assert "defect" in await subscription.wait_lost()
        with pytest.raises(BrokerUnavailable):
            await publish(broker, b"x")
    assert "a defect" in caplog.text


async def test_a_callback_that_raises_does_not_stop_the_deliveries(broker: SQLiteBroker) -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    inbox = Inbox()

    def raises(_: object) -> None:
        raise ValueError("a careless consumer")

    await broker.subscribe(QUEUE, raises, prefetch=5)
    await broker.subscribe(TOPOLOGY.partition_queue(1), inbox, prefetch=5)
    await publish(broker, b"x")
    await broker.publish(TOPOLOGY.turns, "0001", Message(b"y"))
    await inbox.expect(1)
    assert [str(context["exception"]) for context in reported] == ["a careless consumer"]


@pytest.mark.parametrize("headers", [{"x": object()}, {"x": float("nan")}])
async def test_headers_that_are_no_json_are_rejected(broker: SQLiteBroker, headers: dict[str, object]) -> None:
    with pytest.raises(PublishRejected, match="headers"):
        await broker.publish(TOPOLOGY.turns, "0000", Message(b"x", headers=headers))
    await publish(broker, b"next")
    assert await broker.depth(QUEUE) == 1


async def test_any_string_is_a_property_and_a_routing_key(broker: SQLiteBroker) -> None:
    """Bad input comes from outside: lone surrogates and NUL are strings in Python, and no text for SQLite."""
    bad = "\ud800 \x00 ' \" 🦊"
    inbox = Inbox()
    await broker.publish(TOPOLOGY.turns, bad, Message(b"x", message_id=bad, headers={bad: bad}))
    with pytest.raises(Unroutable):
        await broker.publish("", bad.replace("\ud800", ""), Message(b"x"))
    await broker.subscribe(TOPOLOGY.unrouted, inbox, prefetch=5)
    (delivery,) = await inbox.expect(1)
    assert (delivery.routing_key, delivery.message.message_id, delivery.message.headers) == (bad, bad, {bad: bad})


async def test_the_file_does_not_grow_without_bound(broker: SQLiteBroker, path: Path) -> None:
    """What is acknowledged leaves no rows, and its pages are used again."""
    inbox = Inbox(acks=True)
    subscription = await broker.subscribe(QUEUE, inbox, prefetch=50)
    sizes = []
    for batch in range(4):
        await asyncio.gather(*(publish(broker, bytes(20_000)) for _ in range(100)))
        await inbox.expect(100 * (batch + 1))
        sizes.append(path.stat().st_size)
    await subscription.close()
    assert query(path, "SELECT (SELECT COUNT(*) FROM broker_entries) + (SELECT COUNT(*) FROM broker_messages)") == [
        (0,)
    ]
    assert sizes[-1] <= max(sizes[0], 100 * 24_000) * 2


def test_free_pages_are_given_back(path: Path) -> None:
    ledger = Ledger(path, TOPOLOGY)
    ledger.open()
    try:
        with ledger.transaction(durable=True):
            ledger.apply(TOPOLOGY)
            for _ in range(400):
                ledger.publish("", QUEUE, "[]", bytes(20_000))
        with ledger.transaction(durable=False):
            ledger._db.execute("DELETE FROM broker_entries")
        ((before,),) = query(path, "PRAGMA page_count")
        for _ in range(4):
            ledger.tidy()
        ((after,),) = query(path, "PRAGMA page_count")
        assert isinstance(before, int)
        assert isinstance(after, int)
        assert after < before - 1000
    finally:
        ledger.close()


def fail_in_a_transaction(ledger: Ledger, handle: Handle) -> None:
    with ledger.transaction(durable=True):
        ledger.publish("", QUEUE, "[]", b"never")
        ledger.end(handle)
        ledger.claim()
        raise ZeroDivisionError


def test_a_transaction_that_fails_leaves_the_ledger_as_it_was(path: Path) -> None:
    """The failure: what is remembered of a transaction that was rolled back, such as a claimed window."""

    class FakeHandle:
        queue = QUEUE
        id: int | None = None

    handle = FakeHandle()
    ledger = Ledger(path, TOPOLOGY)
    ledger.open()
    try:
        with ledger.transaction(durable=True):
            ledger.apply(TOPOLOGY)
            ledger.subscribe(handle, prefetch=2)
            ledger.claim()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                fail_in_a_transaction(ledger, handle)
        with ledger.transaction(durable=True):
            for body in (b"0", b"1", b"2"):
                ledger.publish("", QUEUE, "[]", body)
            claimed = ledger.claim()
        assert [(h, [row[3] for row in rows]) for h, rows in claimed] == [(handle, [b"0", b"1"])]
        assert ledger.lost == []
    finally:
        ledger.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking beside threads is what is tested
def test_a_forked_child_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """The failure: a child shares the lock of its dead parent, and with it the parent's queues."""
    context = multiprocessing.get_context("fork")
    forked, go_on = context.Event(), context.Event()

    def child() -> None:
        forked.set()
        go_on.wait(20)

    member, peers = Member(tmp_path), Peers(tmp_path)
    process = context.Process(target=child)
    process.start()
    try:
        assert forked.wait(20)
        assert peers.dead([member.name]) == []
        member.release()  # what the kernel does when the parent dies
        assert peers.dead([member.name]) == [member.name]
    finally:
        go_on.set()
        process.join(20)
        peers.close()
        os.close(member.wake)
    assert process.exitcode == 0
