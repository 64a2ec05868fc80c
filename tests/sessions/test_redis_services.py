"""The Redis store and lock on Sentinel, on a cluster, over TLS, and on URLs of all kinds."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

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
from tests.conftest import refuse
from tests.servers.process import find, free_port, launch, reap


class Servers:
    """Redis processes of one test, on free ports."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.folder = folder
        self._binary = binary
        self._processes: list[subprocess.Popen[bytes]] = []

    async def start(self, *options: str, config: str | None = None) -> int:
        """One more, ready to answer; a free port is put in place of ``{port}``. Returns the port."""
        port = free_port()
        folder = self.folder / str(port)
        folder.mkdir()
        words = [word.format(port=port) for word in options]
        if config is not None:
            (folder / "server.conf").write_text(config.format(port=port))
            words = [str(folder / "server.conf"), *words]
        common = ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
        self._processes.append(launch([self._binary, *words, *common], folder / "server.log"))
        return port

    def kill(self, index: int) -> None:
        """Kill one, as a power cut would."""
        reap(self._processes[index])

    def close(self) -> None:
        """Kill all."""
        for process in self._processes:
            reap(process)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    binary = find("redis-server", "valkey-server")
    if binary is None:
        refuse("no Redis: private instances are needed, and redis-server is not installed", os.environ)
    servers = Servers(tmp_path, binary)
    yield servers
    servers.close()


async def until(check: Any, *args: Any, timeout_s: float = 30.0) -> Any:
    """Ask again until the answer is true."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                answer = await check(*args)
            except (RedisError, OSError, StoreUnavailable):
                answer = None
            if answer:
                return answer
            await asyncio.sleep(0.05)


async def ping(port: int, **options: Any) -> bool:
    async with Redis(host="127.0.0.1", port=port, **options) as client:
        return bool(await client.ping())


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
async def test_sentinel_names_the_primary_and_its_successor(servers: Servers) -> None:
    """Given a primary, a replica and a sentinel: turns work; the primary is killed, and they work on the replica."""
    primary = await servers.start("--port", "{port}")
    await until(ping, primary)
    following = ("--replicaof", f"127.0.0.1 {primary}", "--repl-diskless-sync-delay", "0")
    replica = await servers.start("--port", "{port}", *following)
    sentinel = await servers.start(
        "--sentinel",
        config=f"port {{port}}\nsentinel monitor main 127.0.0.1 {primary} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
    )
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/main/0?socket_timeout=1"
    await until(_sees_replica, sentinel)
    await check_turns(url)

    store = RedisSessionStore(url)
    await store.save("before", record := make_record(["one"]))
    await until(_has_session, replica)
    servers.kill(0)
    with pytest.raises(StoreUnavailable, match="redis\\+sentinel"):
        await store.load("before")
    assert await until(store.load, "before") == record
    await until(_can_save, store)
    await store.aclose()
    await check_turns(url)


async def _sees_replica(port: int) -> bool:
    client: Any = Redis(host="127.0.0.1", port=port)
    async with client:
        return int((await client.sentinel_masters())["main"]["num-slaves"]) == 1


async def _has_session(port: int) -> bool:
    async with Redis(host="127.0.0.1", port=port) as client:
        return bool(await client.keys("sdqueue:{before}:*"))


async def _can_save(store: RedisSessionStore) -> bool:
    await store.save("after", SessionRecord())
    return True


async def _cluster(servers: Servers) -> list[int]:
    """Three nodes that serve a third of the slots each."""
    buses = [free_port() for _ in range(3)]
    ports = []
    for bus in buses:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(bus))
        ports.append(await servers.start("--port", "{port}", *options))
    for number, port in enumerate(ports):
        await until(ping, port)
        first, last = number * 5462, min(16384, (number + 1) * 5462) - 1
        await command(port, "CLUSTER ADDSLOTSRANGE", first, last)
        await command(port, "CLUSTER MEET", "127.0.0.1", ports[0], buses[0])
    for port in ports:
        await until(_cluster_is_ok, port)
    return ports


async def command(port: int, *words: Any) -> Any:
    """What a server answers to a command."""
    client: Any = Redis(host="127.0.0.1", port=port)
    async with client:
        return await client.execute_command(*words)


async def _cluster_is_ok(port: int) -> bool:
    info = await command(port, "CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


@pytest.mark.redis
async def test_a_cluster_keeps_each_session_in_one_slot(servers: Servers) -> None:
    """Sessions on all three nodes, with ids that look like hash tags; by URL, and on a client of one's own."""
    ports = await _cluster(servers)
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
async def test_a_lost_node_of_a_cluster_takes_only_its_sessions(servers: Servers) -> None:
    """A node without a replica is killed: its sessions raise, those of the others go on."""
    ports = await _cluster(servers)
    for port in ports:
        async with Redis(host="127.0.0.1", port=port) as client:
            await client.config_set("cluster-require-full-coverage", "no")
    store = RedisSessionStore(f"redis+cluster://127.0.0.1:{ports[0]}?socket_timeout=1")
    names = [f"user-{n}" for n in range(20)]
    for name in names:
        await store.save(name, make_record([name]))
    servers.kill(2)
    for _ in range(3):
        results = await asyncio.gather(*(store.load(name) for name in names), return_exceptions=True)
        assert all(isinstance(result, SessionRecord | StoreUnavailable) for result in results)
        answered = sum(isinstance(result, SessionRecord) for result in results)
    assert 5 < answered < 20
    await store.aclose()


@pytest.mark.redis
async def test_tls(servers: Servers) -> None:
    """A server certificate is checked against the authority that the URL names; without it nothing is sent."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = servers.folder / "cert.pem", servers.folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    port = await servers.start(
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


async def _tls_ping(port: int, cert: str) -> bool:
    return await ping(port, ssl=True, ssl_ca_certs=cert, password="pass/word")


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
