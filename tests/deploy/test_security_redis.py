"""deploy/security: the suites of all that is in Redis pass as the user who does it, and nothing of them is refused.

A command or a key that the code begins to need fails here, until ``users.acl`` has it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

import pytest
from sdqueue_producers import ProducerState
from sdqueue_producers.state import RedisState
from sdqueue_producers.testing import StateSuite
from sdqueue_producers.webchat.feed import Draft, RedisFeed

from sdqueue.brokers import Topology
from sdqueue.consumer.membership import Epoch, RedisMembership, RedisPool
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.sealing.redis_keys import RedisSessionKeys
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.streaming import DeltaLog, LogEntry, RedisDeltaLog, StreamOffset
from sdqueue.testing import DeltaLogSuite, LockBackendSuite, SessionStoreSuite, TurnBacklogSuite
from tests.conftest import system_of
from tests.deploy.secured import Secured
from tests.servers.kinds import RABBITMQ, REDIS
from tests.streaming.test_logs import SMALL

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"), system_of(RABBITMQ), system_of(REDIS))
    yield made
    made.close()


@pytest.fixture(autouse=True)
async def redis(servers: Secured) -> AsyncIterator[Secured]:
    """An empty Redis; nothing may have been refused at the end."""
    await servers.redis.start()
    async with servers.client("admin") as admin:
        await admin.flushall()
        await admin.acl_log_reset()
        yield servers
        log = [entry for entry in await admin.acl_log() if "client|setinfo" not in entry["object"]]
    assert [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in log] == []


@pytest.fixture
def url(redis: Secured) -> str:
    """The address of those who work on sessions. Without TLS: what is tried here is what the users may do."""
    return redis.redis.plain("consumer")


class TestStore(SessionStoreSuite, TurnBacklogSuite):
    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[RedisSessionStore]:
        async with aclosing(RedisSessionStore(url)) as store, aclosing(RedisSessionStore(url)) as self.other:
            yield store

    async def reopen(self, store: RedisSessionStore) -> RedisSessionStore:
        return self.other


class TestLocks(LockBackendSuite):
    @pytest.fixture
    async def locks(self, url: str) -> AsyncIterator[RedisLockBackend]:
        async with aclosing(RedisLockBackend(url)) as locks, aclosing(RedisLockBackend(url)) as self.other:
            yield locks

    async def second_backend(self, locks: RedisLockBackend) -> RedisLockBackend:
        return self.other

    async def entries(self, locks: RedisLockBackend) -> int:
        return locks.entries + locks.watchdog.held


class WrittenByConsumers:
    """A log that consumers write and producers read."""

    def __init__(self, redis: Secured, **options: object) -> None:
        self.writer = RedisDeltaLog(redis.redis.plain("consumer"), **options)  # type: ignore[arg-type]
        self.reader = RedisDeltaLog(redis.redis.plain("producer"), **options)  # type: ignore[arg-type]

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        await self.writer.append(session_id, turn_id, entries)

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        return await self.reader.read(session_id, turn_id, after=after, wait_s=wait_s)

    async def aclose(self) -> None:
        await self.writer.aclose()
        await self.reader.aclose()


class TestStreams(DeltaLogSuite):
    slack = 100  # a node of a stream, which is trimmed as a whole

    @pytest.fixture
    async def log(self, redis: Secured) -> AsyncIterator[DeltaLog]:
        self.redis = redis
        async with aclosing(WrittenByConsumers(redis)) as log:
            yield log

    @pytest.fixture
    async def small_log(self, redis: Secured) -> AsyncIterator[DeltaLog]:
        async with aclosing(WrittenByConsumers(redis, limits=SMALL)) as log:
            yield log

    async def second_log(self, log: DeltaLog) -> DeltaLog:
        return WrittenByConsumers(self.redis)


class TestState(StateSuite):
    @pytest.fixture
    async def state(self, redis: Secured) -> AsyncIterator[ProducerState]:
        self.url = redis.redis.plain("producer")
        async with aclosing(RedisState(self.url)) as state:
            yield state

    async def second_state(self, state: ProducerState) -> ProducerState:
        return RedisState(self.url)


async def test_an_operator_may_all_that_a_consumer_may(redis: Secured) -> None:
    async with redis.client("admin") as admin:
        consumer, operator = [await admin.acl_getuser(f"sdqueue-{role}") for role in ("consumer", "operator")]
    assert set(consumer["keys"]) == set(operator["keys"])
    assert set(consumer["commands"]) < set(operator["commands"])


async def test_the_pages_of_the_web_chat_live_with_the_rights_of_a_producer(redis: Secured) -> None:
    url = redis.redis.plain("producer")
    async with RedisFeed(url) as feed, RedisFeed(url) as other:
        with other.watch("s") as wake:
            await wake.wait(10)  # it is connected
            assert await feed.add("s", Draft("slot", "{}"))
            assert await wake.wait(10)
        assert [entry.body for entry in (await other.read("s", None)).entries] == ["{}"]


async def test_a_pool_lives_with_the_rights_of_consumers_and_is_seen_by_all(redis: Secured) -> None:
    topology = Topology(partitions=4)
    async with RedisMembership(topology, redis.redis.plain("consumer"), name="one") as member:
        await member.beat("0:0")
        for role in ("producer", "operator", "monitor"):
            async with RedisPool(topology, redis.redis.plain(role)) as pool:
                assert list((await pool.look()).members) == [member.member]
        async with RedisPool(topology, redis.redis.plain("operator")) as pool:
            assert await pool.advance(None, Epoch(4))
        await member.sign_off()


async def test_keys_of_sessions_live_with_the_rights_of_consumers_and_operators(url: str) -> None:
    async with aclosing(RedisSessionKeys(url)) as keys:
        assert await keys.swap("s", None, b"wrapped") == b"wrapped"
        assert await keys.get("s") == b"wrapped"
