"""``sdqueue keys``, and consumers that seal: real processes, and what is at rest afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sdqueue.sessions.sealing.keyring import generate, parse_keys
from tests.cli.place import PATIENCE_S, Place, expect_began, expect_end, expect_line
from tests.servers.redis import PrivateRedis
from tests.sessions.sealing.places import Place as AtRest
from tests.sessions.sealing.places import spellings

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other

SECRET = "my name is Ada Lovelace, my card is 4111-1111"

Keys = dict[str, str]
"""The environment of a process with these master keys."""


async def generated(place: Place, name: str) -> str:
    """A new master key, of the command."""
    made = await place.run("keys", "generate", "--id", name)
    assert made.code == 0
    assert len(parse_keys(made.out.strip())[name]) == 32
    return made.out.strip()


def with_keys(*keys: str) -> Keys:
    return {"SDQUEUE_ENCRYPTION_KEYS": ",".join(keys)}


async def consumer(place: Place, env: Keys, *arguments: str) -> asyncio.subprocess.Process:
    process = await place.start("consumer", *arguments, env=env)
    await expect_line(process, " ready: ")
    return process


async def stop(process: asyncio.subprocess.Process) -> str:
    """End a consumer. Returns what it logged."""
    process.send_signal(signal.SIGTERM)
    assert await expect_end(process) == 0
    assert process.stderr is not None
    assert process.stdout is not None
    return (await process.stderr.read()).decode() + (await process.stdout.read()).decode()


@pytest.fixture(params=["sqlite", "rabbitmq"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[list[str], list[str], AtRest]]:
    """The options for broker and store, and what is at rest."""
    if request.param == "sqlite":
        (tmp_path / "at-rest").mkdir()
        store = f"sqlite:///{tmp_path}/at-rest/sessions.db"
        yield (
            ["--broker-url", f"sqlite:///{tmp_path}/broker.db"],
            ["--store-url", store],
            AtRest("sqlite", tmp_path / "at-rest"),
        )
        return
    amqp, redis, namespace = (request.getfixturevalue(name) for name in ("amqp_url", "redis_url", "namespace"))
    broker = ["--broker-url", amqp, "--namespace", namespace]
    yield broker, ["--store-url", redis], AtRest("redis", tmp_path, redis, namespace)


async def test_a_pool_that_seals(place: Place, where: tuple[list[str], list[str], AtRest]) -> None:
    """From the first key to the erasure: turns are answered, and what is at rest says nothing of them."""
    broker, store, at_rest = where
    both = [*broker, *store]
    keys = [*store, *(broker[2:] or [])]
    k1 = await generated(place, "k1")

    # Given a consumer with a key, a session that goes on in another process says nothing at rest.
    one = await consumer(place, with_keys(k1), *both)
    assert (await place.run("send", "u", SECRET, "--id", "said", "--stream", "--wait", *broker)).code == 0
    if broker[2:]:  # the log of a streamed answer is sealed too: it takes the key to read it
        known = await place.run("follow", "u", "said", *both, env=with_keys(k1))
        assert known.out.startswith("I will remember that your name is Ada")
        unknown = await place.run("follow", "u", "said", *both)
        assert unknown.code == 1
        assert "SDQUEUE_ENCRYPTION_KEYS" in unknown.err
        assert b":stream:" in await at_rest.content()
    await stop(one)
    two = await consumer(place, with_keys(k1), *both)
    answer = await place.run("send", "u", "what is my name?", "--wait", *broker)
    assert "Ada" in answer.out
    log = await stop(two)
    content = await at_rest.content()
    for spelling in spellings(SECRET):
        assert spelling not in content
    assert b"Ada" not in content
    assert b"sealed1:" in content
    for shown in (log, answer.out):
        assert k1[3:20] not in shown

    # When consumers have the wrong key, or none, then the turn waits, and none is dead.
    k2 = await generated(place, "k2")
    for env, says in ((with_keys(k2), "'k1'"), ({}, "SDQUEUE_ENCRYPTION_KEYS")):
        wrong = await consumer(place, env, *both)
        await place.run("send", "u", "and now?", "--id", "waits", *broker)
        assert wrong.stdout is not None
        assert wrong.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while says not in (line := (await wrong.stderr.readline()).decode()):
                assert line
        assert k1[3:20] not in line
        assert k2[3:20] not in line
        await stop(wrong)
    dead = await place.run("dead", "list", "--json", *broker)
    assert json.loads(dead.out)["letters"] == []

    # With both keys it is answered, and the keys of sessions are wrapped anew; then k1 is of no use any more.
    right = await consumer(place, with_keys(k2, k1), *both)
    waited = await place.run("send", "u", "and now?", "--id", "waits", "--wait", *broker)
    assert waited.out == "Message 3 of this session: and now?\n"
    rotated = await place.run("keys", "rotate", "--json", *keys, env=with_keys(k2, k1))
    assert json.loads(rotated.out) == {"rewrapped": 1, "already": 0, "erased": 0, "failed": {}, "first": "k2"}
    assert (await place.run("keys", "rotate", *keys, env=with_keys(k2, k1))).out.startswith("under k2: 0 keys")
    await stop(right)
    last = await consumer(place, with_keys(k2), *both)
    assert "Ada" in (await place.run("send", "u", "what is my name?", "--wait", *broker)).out

    # When it is erased, then while the consumer runs: the next turn begins a new session.
    erased = await place.run("keys", "erase", "u", "never-seen", *keys)
    assert erased.out.splitlines() == [
        "u: key erased, session deleted",
        "never-seen: had no key; session deleted",
    ]
    forgot = await place.run("send", "u", "what is my name?", "--wait", *broker)
    assert forgot.out == "You have not told me your name.\n"
    await stop(last)


async def test_a_flood_is_sealed_while_it_waits(
    place: Place, amqp_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Turns past the mailbox wait in Redis, sealed, and are answered in order by another consumer."""
    broker = ["--broker-url", amqp_url, "--namespace", namespace]
    k1 = generate("k1")
    env = with_keys(k1)
    options = [*broker, "--store-url", redis_url, "--mailbox-size", "1"]
    one = await consumer(place, env, *options, "--agent", "agents:endless", "--grace-s", "0")
    at_rest = AtRest("redis", tmp_path, redis_url, namespace)
    for n in range(6):
        await place.run("send", "u", f"{SECRET} {n}", "--id", f"t{n}", *broker)
    async with asyncio.timeout(PATIENCE_S):
        while b":deferred" not in (content := await at_rest.content()):
            await asyncio.sleep(0.05)
    await stop(one)
    content = await at_rest.content()
    for spelling in spellings(SECRET):
        assert spelling not in content
    two = await consumer(place, env, *options)
    numbered = await place.run("send", "u", "how many?", "--wait", *broker)
    assert numbered.out == "Message 7 of this session: how many?\n"
    await stop(two)


async def test_a_session_that_is_erased_while_it_is_answered(
    place: Place, where: tuple[list[str], list[str], AtRest]
) -> None:
    """The turn runs again on a session that knows nothing, its stream starts over, and others can read it at once."""
    broker, store, at_rest = where
    env = with_keys(generate("k1"))
    keys = [*store, *(broker[2:] or [])]
    go = place.folder / "go"
    go.touch()
    one = await consumer(place, env, *broker, *store, "--agent", "agents:gated")
    assert (await place.run("send", "u", SECRET, "--wait", *broker)).out == f"0 before, {SECRET}\n"
    go.unlink()
    (place.folder / "began").unlink()
    asked = asyncio.create_task(place.run("send", "u", "anew", "--id", "t", "--wait", "--stream", "--json", *broker))
    await expect_began(place, one)
    erased = await place.run("keys", "erase", "u", *keys)
    assert erased.out == "u: key erased, session deleted\n"
    go.touch()
    said = [json.loads(line) for line in (await asked).out.splitlines()]
    assert said[-1]["text"] == "0 before, anew"
    restarts = [each["metadata"]["stream"] for each in said[:-1] if each["metadata"]["stream"]["restart"]]
    assert [place["index"] for place in restarts] == [0]
    followed = await place.run("follow", "u", "t", "--json", *broker, *store, env=env)
    told = [json.loads(line) for line in followed.out.splitlines()]
    assert told[-1] == said[-1]
    assert "".join(each["text"] for each in told[:-1]) == "0 before, anew"
    content = await at_rest.content()
    for spelling in spellings(SECRET):
        assert spelling not in content
    assert json.loads((await place.run("dead", "list", "--json", *broker)).out)["letters"] == []
    again = await place.run("send", "u", "more", "--wait", *broker)
    assert again.out == "2 before, more\n"
    await stop(one)


async def test_keys_that_cannot_be_reached_are_waited_for(
    place: Place,
    amqp_url: str,
    redis_url: str,
    namespace: str,
    private_redis: Callable[..., Awaitable[PrivateRedis]],
) -> None:
    """Given a key store that stands still, then is gone: nothing is dead, nothing is taken for a new session."""
    redis = await private_redis("keys")
    env = with_keys(generate("k1")) | {"SDQUEUE_KEYS_URL": redis.url}
    broker = ["--broker-url", amqp_url, "--namespace", namespace]
    options = [*broker, "--store-url", redis_url]
    one = await consumer(place, env, *options)
    for session in ("u", "v"):
        await place.run("send", session, "my name is Ada", "--wait", *broker)
    await stop(one)
    two = await consumer(place, env, *options)
    await place.run("send", "v", "hi", "--wait", *broker)  # has its key in memory
    redis.pause()
    asked = [
        asyncio.create_task(place.run("send", session, "what is my name?", "--wait", "--stream", *broker))
        for session in ("u", "v", "new")
    ]
    assert "Ada" in (await asked[1]).out
    assert two.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while "cannot be reached" not in (await two.stderr.readline()).decode():
            pass
    redis.resume()
    assert "Ada" in (await asked[0]).out
    assert "not told me" in (await asked[2]).out
    assert json.loads((await place.run("dead", "list", "--json", *broker)).out)["letters"] == []
    await stop(two)


async def test_parked_moved_and_replayed_under_seal(
    place: Place, amqp_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    """Turns behind a dead one, and in queues while the number of partitions changes, are sealed in the store."""
    broker = ["--broker-url", amqp_url, "--namespace", namespace]
    store, at_rest = ["--store-url", redis_url], AtRest("redis", tmp_path, redis_url, namespace)
    env = with_keys(generate("k1"))
    parking = await consumer(place, env, *broker, *store, "--agent", "agents:broken", "--on-dead", "park")
    assert (await place.run("send", "u", "my name is Ada", "--id", "t1", "--wait", *broker)).code == 1
    await place.run("send", "u", f"{SECRET} one", "--id", "t2", *broker)
    async with asyncio.timeout(PATIENCE_S):
        while b":deferred" not in await at_rest.content():
            await asyncio.sleep(0.1)
    await stop(parking)
    await place.run("send", "u", f"{SECRET} two", "--id", "t3", *broker)
    await place.run("send", "v", f"{SECRET} three", "--id", "t4", *broker)

    reshard = ("topology", "reshard", "--partitions", "7", *broker, *store)
    refused = await place.run(*reshard)
    assert refused.code == 2
    assert "SDQUEUE_ENCRYPTION_KEYS" in refused.err
    done = await place.run(*reshard, env=env)
    assert done.code == 0, done.err
    assert "2 turns were put aside" in done.out
    content = await at_rest.content()
    for spelling in spellings(SECRET):
        assert spelling not in content

    seven = (*broker, "--partitions", "7")
    memo = await consumer(place, env, *seven, *store, "--on-dead", "park")
    # What comes now stands behind all that was put aside.
    counted = await place.run("send", "v", "how many?", "--wait", *seven)
    assert counted.out == "Message 2 of this session: how many?\n"
    assert "t1" in (await place.run("dead", "replay", "t1", *seven)).out
    counted = await place.run("send", "u", "how many?", "--wait", *seven)
    assert counted.out == "Message 4 of this session: how many?\n"
    await stop(memo)


async def test_keys_that_cannot_be_rotated_are_told(place: Place) -> None:
    """The session is named, the old keys must stay, and the exit code says that it is not done."""
    store = ("--store-url", "sqlite:///sessions.db")
    k1, k2 = generate("k1"), generate("k2")
    one = await consumer(place, with_keys(k1), "--broker-url", "sqlite:///broker.db", *store)
    assert (await place.run("send", "u", "hi", "--wait", "--broker-url", "sqlite:///broker.db")).code == 0
    await stop(one)
    rotated = await place.run("keys", "rotate", *store, env=with_keys(k2))
    assert rotated.code == 1
    assert "0 keys wrapped anew, 0 were before; 0 erased, 1 failed" in rotated.out
    assert "'u'" in rotated.err
    assert "keep the old master keys" in rotated.err
    none = await place.run("keys", "rotate", *store)
    assert (none.code, none.out) == (2, "")
    assert "SDQUEUE_ENCRYPTION_KEYS is not set" in none.err


async def test_dev_keeps_its_keys_in_its_folder(place: Place) -> None:
    """Whatever the keys of a pool are said to be: sessions sealed there are its own."""
    env = with_keys(generate("k1")) | {"SDQUEUE_KEYS_URL": "redis://nowhere.invalid:1/0"}
    said = await place.run("dev", stdin=f"{SECRET}\nwhat is my name?\n", env=env)
    assert said.code == 0
    assert "Ada" in said.out
    assert (place.folder / ".sdqueue" / "sessions.db.keys").exists()
    with closing(sqlite3.connect(place.folder / ".sdqueue" / "sessions.db")) as connection:
        heads: list[Any] = connection.execute("SELECT head FROM session_records").fetchall()
    assert [head[:8] for (head,) in heads] == ["sealed1:"]
    parts = [Path(root) / name for root, _, names in os.walk(place.folder / ".sdqueue") for name in names]
    assert not any(SECRET.encode() in path.read_bytes() for path in parts if path.name.startswith("sessions.db"))


async def test_dev_keeps_streamed_answers_in_its_folder(place: Place) -> None:
    """Wherever those of a pool are said to be."""
    env = {"SDQUEUE_STREAM_URL": "sqlite:///of-the-pool.db", "SDQUEUE_STREAM_ENTRIES": "10"}
    said = await place.run("dev", "--agent", "agents:wordy", stdin="hi\n", env=env)
    assert "one two three" in said.out
    assert not (place.folder / "of-the-pool.db").exists()


async def test_follow_is_told_where_the_keys_are(place: Place) -> None:
    """By the option too, as ``keys rotate`` is; without them, in words."""
    env = with_keys(generate("k1"))
    broker, store = ("--broker-url", "sqlite:///b.db"), ("--store-url", "sqlite:///s.db")
    keys = ("--keys-url", "sqlite:///elsewhere.keys")
    one = await consumer(place, env, *broker, *store, *keys, "--agent", "agents:wordy")
    sent = await place.run("send", "u", SECRET, "--id", "t", "--wait", "--stream", *broker)
    assert sent.out == "one two three\n"
    await stop(one)
    told = await place.run("follow", "u", "t", *broker, *store, *keys, env=env)
    assert (told.code, told.out) == (0, "one two three\n")
    for options, given in ((keys, {}), ((), env)):
        refused = await place.run("follow", "u", "t", *broker, *store, *options, env=given)
        assert refused.code != 0
        assert "'u'" in refused.err
        assert "SDQUEUE_ENCRYPTION_KEYS" in refused.err or "SDQUEUE_KEYS_URL" in refused.err


async def test_doctor_tries_the_keys(place: Place) -> None:
    env = with_keys(generate("k1"))
    told = await place.run("doctor", "--broker-url", "memory://", "--store-url", "sqlite:///s.db", env=env)
    assert "s.db: writes, reads and deletes" in told.out
    broken = await place.run(
        "doctor", "--broker-url", "memory://", "--store-url", "sqlite:///s.db",
        env=env | {"SDQUEUE_KEYS_URL": "redis://127.0.0.1:1/0"},
    )  # fmt: skip
    assert broken.code == 1
    assert "127.0.0.1:1" in broken.out
