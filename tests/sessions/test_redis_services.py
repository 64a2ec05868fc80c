"""The Redis store and lock on Sentinel, on a cluster, over TLS, and on URLs of all kinds."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster

from sdqueue.errors import ConfigurationError, StoreUnavailable
from sdqueue.sessions.lease import leasing_for
from sdqueue.sessions.locks.redis import RedisLockBackend
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.redis.connection import connect
from sdqueue.sessions.redis.lease import RedisLeasing
from sdqueue.sessions.ring import Retention, TurnOutcome
from sdqueue.sessions.stores.backlog import Deferred, Standing
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.testing.records import HOSTILE_IDS, end, make_record, say
from tests.servers.process import free_port
from tests.servers.redis_group import RedisGroup, ping, until


async def check_turns(url: str, session_ids: Sequence[str] = ("s",)) -> None:
    """Two processes take turns on sessions, with waiting, handing over, plain locks and beginnings."""
    sides = []
    for _ in range(2):
        store, locks = RedisSessionStore(url), RedisLockBackend(url)
        sides.append((store, locks, leasing_for(store, locks)))
        assert isinstance(sides[-1][2], RedisLeasing)

    async def work(session_id: str, number: int) -> None:
        store, locks, leasing = sides[number % 2]
        async with leasing.lease(session_id, turn_id=f"t{number}") as lease:
            assert lease.begun == 1
            record = lease.record or SessionRecord()
            say(record, f"answer {number}")
            end(record, f"t{number}", "reply")
            await lease.save(record)
        async with locks.acquire(session_id) as held:
            assert held.token > 0
            assert await store.load(session_id) is not None

    async with asyncio.timeout(30):
        await asyncio.gather(*(work(name, number) for name in session_ids for number in range(4)))
    for name in session_ids:
        record = await sides[0][0].load(name)
        assert record is not None
        assert record.version == 4
        assert sorted(record.turns.outcomes) == ["t0", "t1", "t2", "t3"]
        await check_backlog(sides[0][0], sides[1][0], name)
        await sides[1][0].delete(name)
        assert await sides[0][0].load(name) is None
    assert await sides[0][0].backlogged() == {}
    for store, locks, _ in sides:
        await store.aclose()
        await locks.aclose()


async def check_backlog(here: RedisSessionStore, there: RedisSessionStore, session_id: str) -> None:
    """Turns wait, are refused and taken out, and the session is listed, which in a cluster is another node's key."""
    turns = [Deferred("a", b"A"), Deferred("b", b"B"), Deferred("c", b"C")]
    assert await here.defer(session_id, turns, limit=2) == [True, True, False]
    outcome = TurnOutcome("c", 1_000.0, ("full",), "dead")
    assert await there.refuse(session_id, outcome, retention=Retention()) == outcome
    assert await here.standing(session_id, "c") == Standing(2, outcome)
    assert [turn.body for turn in await there.deferred(session_id, count=10)] == [b"A", b"B"]
    listed = await there.backlogged()
    await here.enlist(session_id)
    await there.unlist(session_id, listed[session_id])
    assert session_id in await here.backlogged()
    await there.undefer(session_id, ["a"])
    assert (await here.standing(session_id, "a")).waiting == 1


@pytest.mark.redis
async def test_sentinel_names_the_primary_and_its_successor(redis_group: RedisGroup) -> None:
    """Given a primary, a replica and a sentinel: turns work; the primary is killed, and they work on the replica."""
    service = await redis_group.sentinel()
    url = service.url
    await check_turns(url)

    store = RedisSessionStore(url)
    await store.save("before", record := make_record(["one"]))
    await until(_has_session, service.replica)
    redis_group.kill(service.primary_index)
    with pytest.raises(StoreUnavailable, match="redis\\+sentinel"):
        await store.load("before")
    assert await until(_loaded, store) == record
    await until(_can_save, store)
    await store.aclose()
    await check_turns(url)


async def _has_session(port: int) -> bool:
    async with Redis(host="127.0.0.1", port=port) as client:
        return bool(await client.keys("sdqueue:{before}:*"))


async def _loaded(store: RedisSessionStore) -> SessionRecord | None:
    try:
        return await store.load("before")
    except StoreUnavailable:
        return None


async def _can_save(store: RedisSessionStore) -> bool:
    try:
        await store.save("after", SessionRecord())
    except StoreUnavailable:
        return False
    return True


@pytest.mark.redis
async def test_a_cluster_keeps_each_session_in_one_slot(redis_group: RedisGroup) -> None:
    """Sessions on all three nodes, with ids that look like hash tags; by URL, and on a client of one's own."""
    ports = await redis_group.cluster()
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{ports[0]}"
    await check_turns(url, [*HOSTILE_IDS, *(f"user-{n}" for n in range(20))])

    client: Any = RedisCluster(host="127.0.0.1", port=ports[1])
    store, locks = RedisSessionStore(client=client), RedisLockBackend(client=client)
    async with leasing_for(store, locks).lease("s", turn_id="t") as lease:
        await lease.save(record := make_record(["one"]))
    assert await store.load("s") == record
    await store.aclose()
    await locks.aclose()
    assert await client.keys("sdqueue:{s}:*", target_nodes=RedisCluster.ALL_NODES)
    await client.aclose()


@pytest.mark.redis
async def test_a_lost_node_of_a_cluster_takes_only_its_sessions(redis_group: RedisGroup) -> None:
    """A node without a replica is killed: its sessions raise, those of the others go on."""
    ports = await redis_group.cluster()
    for port in ports:
        async with Redis(host="127.0.0.1", port=port) as client:
            await client.config_set("cluster-require-full-coverage", "no")
    store = RedisSessionStore(f"redis+cluster://127.0.0.1:{ports[0]}")
    names = [f"user-{n}" for n in range(20)]
    for name in names:
        await store.save(name, make_record([name]))
    redis_group.kill(2)
    for _ in range(3):
        results = await asyncio.gather(*(store.load(name) for name in names), return_exceptions=True)
        assert all(isinstance(result, SessionRecord | StoreUnavailable) for result in results)
        answered = sum(isinstance(result, SessionRecord) for result in results)
    assert 5 < answered < 20
    await store.aclose()


@pytest.mark.redis
async def test_tls(redis_group: RedisGroup) -> None:
    """A server certificate is checked against the authority that the URL names; without it nothing is sent."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = redis_group.folder / "cert.pem", redis_group.folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    port = redis_group.launch(
        "--port", "0", "--tls-port", "{port}", "--tls-cert-file", str(cert), "--tls-key-file", str(key),
        "--tls-auth-clients", "no", "--requirepass", "pass/word",
    )  # fmt: skip
    await until(_tls_ping, port, str(cert))
    await check_turns(f"rediss://:pass%2Fword@127.0.0.1:{port}?ssl_ca_certs={cert}")

    unknown = RedisSessionStore(f"rediss://:pass%2Fword@127.0.0.1:{port}")
    with pytest.raises(StoreUnavailable, match="certificate") as error:
        await unknown.load("s")
    assert "word" not in str(error.value)
    await unknown.aclose()
    wrong = RedisSessionStore(f"rediss://:wrong@127.0.0.1:{port}?ssl_ca_certs={cert}")
    with pytest.raises(StoreUnavailable, match=r"(?i)password") as error:
        await wrong.load("s")
    assert "wrong@" not in str(error.value)
    await wrong.aclose()

    # A Sentinel is asked over TLS as well: it answers nothing else here.
    sentinel = redis_group.launch(
        "--sentinel",
        config=f"port 0\ntls-port {{port}}\ntls-cert-file {cert}\ntls-key-file {key}\ntls-ca-cert-file {cert}\n"
        f"tls-auth-clients no\ntls-replication yes\nsentinel monitor main 127.0.0.1 {port} 1\n"
        "sentinel auth-pass main pass/word\n",
    )
    await until(_tls_ping, sentinel, str(cert), None)
    await check_turns(f"rediss+sentinel://:pass%2Fword@127.0.0.1:{sentinel}/main?ssl_ca_certs={cert}")


async def _tls_ping(port: int, cert: str, password: str | None = "pass/word") -> bool:
    return await ping(port, ssl=True, ssl_ca_certs=cert, password=password)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://localhost", "scheme"),
        ("redis://localhost/x", "database"),
        ("redis://localhost/0/1", "database"),
        ("redis://localhost:port", "port"),
        ("redis://a:1,b:2", "several hosts"),
        ("redis://localhost?sokcet_timeout=1", "sokcet_timeout"),
        ("redis://localhost?socket_timeout=soon", "soon"),
        ("rediss://localhost?ssl_check_hostname=perhaps", "ssl_check_hostname"),
        ("redis+sentinel://localhost:26379", "service"),
        ("redis+cluster://localhost/1", "database"),
    ],
)
def test_a_url_that_cannot_work_is_named(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as error:
        connect(url, None)
    assert url in str(error.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as error:
        connect("redis://user:secret@localhost/x", None)
    assert "secret" not in str(error.value)
    assert "secret" not in connect("redis://user:secret@localhost/1", None).url


def test_exactly_one_way_to_redis_is_given() -> None:
    for url, client in ((None, None), ("redis://localhost", Redis())):
        with pytest.raises(ConfigurationError, match="either"):
            RedisSessionStore(url, client=client)


async def test_a_redis_that_is_not_there_is_named() -> None:
    store = RedisSessionStore(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match=r"redis://127\.0\.0\.1.*check that it runs"):
        await store.load("s")
    await store.aclose()
