"""RedisSessionStore: the suite that every store passes, and what is its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from sdqueue.agents import ChatMessage
from sdqueue.errors import ConfigurationError, RecordCorrupt, StoreUnavailable, VersionConflict
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.redis.connection import Command
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.testing import SessionStoreSuite, TurnBacklogSuite
from sdqueue.testing.records import HOSTILE_IDS, end, make_record, say

pytestmark = pytest.mark.redis


@pytest.fixture
async def store(redis_url: str, namespace: str) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(redis_url, namespace=namespace)
    yield store
    await store.aclose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


class TestRedisSessionStore(SessionStoreSuite, TurnBacklogSuite):
    @pytest.fixture(autouse=True)
    async def _hooks(self, redis_url: str, redis: Redis, namespace: str) -> AsyncIterator[None]:
        self.redis, self.keys = redis, KeySpace(namespace)
        async with Redis.from_url(redis_url, decode_responses=True) as client:
            self.other = RedisSessionStore(client=client, namespace=namespace)
            yield

    async def reopen(self, store: Any) -> RedisSessionStore:
        return self.other

    async def plant(self, store: Any, session_id: str, head: str) -> bool:
        await self.redis.hset(self.keys.session(session_id)[3], "head", head)
        return True


async def test_all_keys_of_a_session_end_with_it(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    """Each save starts the life of every key anew; none is without one."""
    record = make_record(["one"])
    end(record, "t", "reply")
    await store.begin("s", "other")
    await store.save("s", record)
    keys = sorted(await redis.keys(f"{namespace}:*"))
    names = [str(key, "utf-8").rpartition(":")[2] for key in keys if isinstance(key, bytes)]
    assert names == ["begun", "history", "ids", "session", "turns"]
    for key in keys:
        await redis.pexpire(key, 5_000)
    say(record, "two")
    await store.save("s", record)
    assert all([await redis.ttl(key) > 29 * 24 * 3600 for key in keys])


async def test_a_session_ends_after_its_ttl(redis_url: str, redis: Redis, namespace: str) -> None:
    store = RedisSessionStore(redis_url, namespace=namespace, ttl_s=60)
    await store.save("s", make_record(["one"]))
    for key in await redis.keys(f"{namespace}:*"):
        assert 0 < await redis.ttl(key) <= 60
    await store.aclose()


async def test_a_delete_leaves_no_key(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    record = make_record(["one"])
    end(record, "t", "reply")
    await store.begin("s", "t2")
    await store.save("s", record)
    await store.delete("s")
    assert await redis.keys(f"{namespace}:*") == []


@pytest.mark.parametrize("session_id", HOSTILE_IDS, ids=lambda name: ascii(name)[1:25])
def test_all_keys_of_a_session_are_in_one_slot(session_id: str) -> None:
    """Whatever braces it has: the hash tag is the whole id, and different ids have different keys."""
    keys = KeySpace("sdqueue").session(session_id)
    assert len({key_slot(key) for key in keys}) == 1
    tags = {key[key.index(b"{") + 1 : key.index(b"}")] for key in keys}
    assert len(tags) == 1
    assert tags != {b""}
    assert len(set(keys)) == len(keys)


async def test_the_bytes_of_a_save_do_not_grow_with_the_conversation(
    store: RedisSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given sessions of 10 and 10,000 messages, when a turn adds two, then as much is sent, but for longer numbers."""
    sent: list[int] = []
    execute = store._link.execute

    async def counting(commands: Sequence[Command], timeout_s: float) -> list[Any]:
        sent.append(sum(len(hiredis.pack_command(command)) for command in commands))
        return await execute(commands, timeout_s)

    records = {size: make_record([f"message {n}" for n in range(size)]) for size in (10, 10_000)}
    for size, record in records.items():
        await store.save(f"s-{size}", record)
        say(record, "question", "answer")
        end(record, "turn-1", "answer")
    monkeypatch.setattr(store._link, "execute", counting)
    for size, record in records.items():
        await store.save(f"s-{size}", record)
    few, many = sent
    assert 0 < few < 2_000
    assert many - few < 50
    monkeypatch.undo()
    for size, record in records.items():
        assert await store.load(f"s-{size}") == record


async def test_an_outcome_that_is_replaced_costs_no_other_its_replies(store: RedisSessionStore) -> None:
    """The old one is taken out of the list: trimmed by number, the list would lose its oldest instead."""
    record = SessionRecord()
    for turn_id in ("a", "b", "c"):
        end(record, turn_id, "first")
    await store.save("s", record)
    end(record, "b", "second", at=1_001.0)
    await store.save("s", record)
    loaded = await store.load("s")
    assert loaded is not None
    assert list(loaded.turns.outcomes.values()) == list(record.turns.outcomes.values())
    assert list(loaded.turns.outcomes) == ["a", "c", "b"]


async def test_missing_messages_are_written_again(store: RedisSessionStore, redis: Redis, namespace: str) -> None:
    """Redis dropped the history (eviction) behind the back of a process that knows it: the save writes it whole."""
    record = make_record(["one", "two"])
    await store.save("s", record)
    await redis.delete(KeySpace(namespace).session("s")[4])
    with pytest.raises(RecordCorrupt, match=r"'s'.*evicts"):
        await store.load("s")
    say(record, "three")
    await store.save("s", record)
    assert (record.stored.version, record.stored.items) == (2, 3)
    assert await store.load("s") == record


async def test_a_session_of_before_lives_had_names_goes_on(
    store: RedisSessionStore, redis: Redis, namespace: str
) -> None:
    """Its saves are checked as before, and what comes after its delete is another session."""
    await store.save("s", make_record(["old"]))
    key = KeySpace(namespace).session("s")[3]
    fields = json.loads(await redis.hget(key, "head"))
    del fields["born"]
    await redis.hset(key, mapping={"version": "1", "head": json.dumps(fields)})
    record, stale = await store.load("s"), await store.load("s")
    assert record is not None
    assert stale is not None
    await store.save("s", record)
    assert await store.load("s") == record
    with pytest.raises(VersionConflict, match="version 2"):
        await store.save("s", stale)
    await store.delete("s")
    await store.save("s", make_record(["new"]))
    with pytest.raises(VersionConflict, match="deleted and created anew"):
        await store.save("s", stale)


@pytest.mark.parametrize("revision", ["2:{born}", "1:another", "1", "damaged"])
async def test_a_head_of_another_state_is_named(
    store: RedisSessionStore, redis: Redis, namespace: str, revision: str
) -> None:
    record = make_record(["one"])
    await store.save("s", record)
    await redis.hset(KeySpace(namespace).session("s")[3], "version", revision.format(born=record.stored.born))
    with pytest.raises(RecordCorrupt, match=r"'s'.*damaged"):
        await store.load("s")


async def test_remains_of_an_evicted_session_do_not_come_back(
    store: RedisSessionStore, redis: Redis, namespace: str
) -> None:
    record = make_record(["old"])
    end(record, "old", "r")
    await store.save("s", record)
    await redis.delete(KeySpace(namespace).session("s")[3])
    assert await store.load("s") is None
    new = make_record(["new"])
    end(new, "new", "r")
    await store.save("s", new)
    assert await store.load("s") == new


async def test_a_restarted_redis_that_forgot_the_scripts_gets_them_again(
    store: RedisSessionStore, redis: Redis
) -> None:
    """Only the calls that Redis did not know are sent again: a doubled save would be a conflict."""
    record = make_record(["one"])
    await store.save("s", record)
    await redis.script_flush()
    records = [make_record([str(n)]) for n in range(20)]
    results = await asyncio.gather(
        store.save("s", record),
        store.load("s"),
        *(store.save(f"s{n}", r) for n, r in enumerate(records)),
        store.save("s", make_record()),
        return_exceptions=True,
    )
    assert isinstance(results.pop(), VersionConflict)
    assert not [result for result in results if isinstance(result, BaseException)]
    loaded = await store.load("s")
    assert loaded is not None
    assert loaded.version == 2


async def test_a_cancelled_save_happens_wholly(store: RedisSessionStore) -> None:
    """The caller is gone while the save is under way: it happens, or not, but never in part."""
    for steps in range(6):
        record = make_record(["one"])
        end(record, "t", "r")
        task = asyncio.create_task(store.save(f"s{steps}", record))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store._scripts.settled()
        loaded = await store.load(f"s{steps}")
        if loaded is not None:
            assert loaded.chat_ctx.items == [ChatMessage("user", "one")]
            assert list(loaded.turns.outcomes) == ["t"]


async def test_after_close_it_says_so(store: RedisSessionStore) -> None:
    await store.save("s", SessionRecord())
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.load("s")


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a b"])
def test_a_namespace_that_breaks_keys_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        RedisSessionStore("redis://localhost", namespace=namespace)
