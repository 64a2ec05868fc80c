"""Stores with a sealer: what they do for others is the same, and what they leave behind says nothing."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from sdqueue import ChatMessage, Deferred, RecordCorrupt, RecordSealed, RedisLockBackend, Retention
from sdqueue.sessions import SessionRecord, TurnOutcome
from sdqueue.sessions.lease import leasing_for
from sdqueue.sessions.redis.keys import KeySpace
from sdqueue.testing import SessionStoreSuite, TurnBacklogSuite
from sdqueue.testing.records import end, make_record, say
from tests.sessions.sealing.places import KINDS, Place, place, spellings

SECRET = "my card is 4111-1111-1111-1111, my name is Ada Lovelace"


@pytest.fixture(params=KINDS)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with place(request.param, tmp_path, request) as found:
        yield found


class SealedStore(SessionStoreSuite, TurnBacklogSuite):
    """The suites that every store passes, unchanged."""

    kind: str

    @pytest.fixture(autouse=True)
    async def _place(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[None]:
        async with place(self.kind, tmp_path, request) as self.where:
            yield

    @pytest.fixture
    async def store(self, _place: None) -> Any:
        return self.where.store()


class TestSealedMemory(SealedStore):
    kind = "memory"


class TestSealedFile(SealedStore):
    kind = "file"

    async def reopen(self, store: Any) -> Any:
        return self.where.store()

    async def plant(self, store: Any, session_id: str, head: str) -> bool:
        store._files.path(session_id, "json").write_text(head)
        return True


class TestSealedSQLite(SealedStore):
    kind = "sqlite"

    async def reopen(self, store: Any) -> Any:
        return self.where.store()

    async def plant(self, store: Any, session_id: str, head: str) -> bool:
        _sql(self.where, "UPDATE session_records SET head = ? WHERE id = ?", head, session_id)
        return True


class TestSealedRedis(SealedStore):
    kind = "redis"

    async def reopen(self, store: Any) -> Any:
        return self.where.store()

    async def plant(self, store: Any, session_id: str, head: str) -> bool:
        async with Redis.from_url(self.where.redis_url) as redis:
            await redis.hset(KeySpace(self.where.namespace).session(session_id)[3], "head", head)
        return True


async def fill(store: Any, session_id: str = "s") -> SessionRecord:
    """A session that says its secret in every part that a store keeps."""
    record = make_record([SECRET], metadata={"about": SECRET}, agent_state={"facts": [SECRET]})
    end(record, "t1", json.dumps({"text": SECRET}))
    await store.begin(session_id, "t2")
    await store.save(session_id, record)
    say(record, f"again: {SECRET}")
    end(record, "t2", json.dumps({"text": SECRET}))
    await store.save(session_id, record)
    await store.defer(session_id, [Deferred("t3", SECRET.encode()), Deferred("t4", SECRET.encode() * 2)], limit=10)
    refusal = TurnOutcome("t5", 1.0, (json.dumps({"text": SECRET}),))
    assert await store.refuse(session_id, refusal, retention=Retention()) == refusal
    return record


async def test_what_is_kept_says_nothing(where: Place) -> None:
    """Given every part of a session with the secret, then no byte of it is at rest: files, the log of SQLite, Redis.

    The same session without a sealer does show it, so the search finds what is there.
    """
    store = where.store()
    record = await fill(store)
    content = await where.content()
    for spelling in spellings(SECRET):
        assert spelling not in content
    assert content.count(b"sealed1:") >= (4 if where.kind in ("memory", "file") else 8)
    assert await store.load("s") == record
    assert [turn.body for turn in await store.deferred("s", count=9)] == [SECRET.encode(), SECRET.encode() * 2]
    assert (await store.standing("s", "t5")).refusal == TurnOutcome("t5", 1.0, (json.dumps({"text": SECRET}),))
    await fill(where.open(None), "plain")
    assert SECRET.encode() in await where.content()


async def test_sessions_of_before_are_read_and_sealed_with_their_next_save(where: Place) -> None:
    """Given plain sessions and backlogs, when a sealer comes, then all is read, and a save leaves nothing plain."""
    record = await fill(where.open(None))
    store = where.store()
    loaded = await store.load("s")
    assert loaded == record
    assert [turn.turn_id for turn in await store.deferred("s", count=9)] == ["t3", "t4"]
    assert (await store.standing("s", "t5")).refusal is not None
    await store.undefer("s", ["t3", "t4"])
    say(loaded, "more")
    end(loaded, "t6", "r")
    await store.save("s", loaded)
    assert await store.load("s") == loaded
    with pytest.raises(RecordSealed):
        await where.open(None).load("s")
    content = await where.content()
    if where.kind == "sqlite":  # what the log and freed pages have kept goes with a VACUUM
        _sql(where, "DELETE FROM session_refused")
        await where.close()
        _sql(where, "VACUUM")
        content = await where.content()
    elif where.kind == "redis":
        async with Redis.from_url(where.redis_url) as redis:
            await redis.delete(KeySpace(where.namespace).session("s")[9])
        content = await where.content()
    else:
        return  # only the refusal, which is not written again, is left: nothing to be told apart by its bytes
    assert SECRET.encode() not in content


async def test_a_store_that_takes_only_sealed_sessions(where: Place) -> None:
    """Whoever can write to the store cannot put a plain session in the place of a sealed one."""
    await fill(where.open(None))
    store = where.store(accept_plain=False)
    with pytest.raises(RecordSealed, match=r"'s'.*ACCEPT_PLAIN"):
        await store.load("s")
    with pytest.raises(RecordSealed, match="'s'"):
        await store.deferred("s", count=1)
    record = make_record(["one"])
    await store.save("new", record)
    assert await store.load("new") == record


async def test_without_keys_a_sealed_session_is_refused(where: Place) -> None:
    """It is neither taken for a new one nor overwritten."""
    record = await fill(where.store())
    store = where.open(None)
    with pytest.raises(RecordSealed, match=r"'s'.*SDQUEUE_ENCRYPTION_KEYS"):
        await store.load("s")
    with pytest.raises(RecordSealed, match="'s'"):
        await store.deferred("s", count=1)
    with pytest.raises(RecordSealed, match="'s'"):
        await store.standing("s", "t5")
    assert await where.store().load("s") == record


async def test_bytes_of_a_save_do_not_grow_with_the_conversation(tmp_path: Path, request: Any) -> None:
    """A turn adds two messages to sessions of 10 and of 3,000: as many rows are new in either, all the others stay."""
    async with place("sqlite", tmp_path, request) as where:
        store = where.store()
        for size in (10, 3_000):
            record = make_record([f"message {n}" for n in range(size)])
            for n in range(64):
                end(record, f"t{n}", "r")
            await store.save("s", record)
            before = set(_sql(where, "SELECT body FROM session_messages UNION ALL SELECT body FROM session_turns"))
            say(record, "question", "answer")
            end(record, "new", "answer")
            await store.save("s", record)
            after = set(_sql(where, "SELECT body FROM session_messages UNION ALL SELECT body FROM session_turns"))
            assert len(after - before - {(None,)}) == 3  # the oldest reply is forgotten
            assert await store.load("s") == record
            await store.delete("s")


async def test_a_second_outcome_of_a_turn_replaces_the_first(where: Place) -> None:
    """As in a replay: Redis finds the old one among the sealed ones."""
    store = where.store()
    record = make_record(["one"])
    for n in range(3):
        end(record, f"t:{n}\ud800", f"r{n}")
    await store.save("s", record)
    end(record, "t:1\ud800", "again")
    await store.save("s", record)
    loaded = await where.store().load("s")
    assert loaded is not None
    assert loaded == record
    assert [(o.turn_id[:3], o.replies) for o in loaded.turns] == [
        ("t:0", ("r0",)), ("t:2", ("r2",)), ("t:1", ("again",)),
    ]  # fmt: skip


# Tampering: whoever can write to the store, and has no key


REDIS_PARTS = ["head", "history", "turns", "deferred", "refused"]


@pytest.fixture
async def redis_place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with place("redis", tmp_path, request) as found:
        yield found


@pytest.mark.redis
@pytest.mark.parametrize("part", REDIS_PARTS)
@pytest.mark.parametrize("change", ["bit", "cut", "rename", "other session", "other place"])
async def test_what_was_changed_does_not_open(redis_place: Place, part: str, change: str) -> None:
    """A flipped bit, a cut, another label or key id, a part of another session, one of another kind or position."""
    store = redis_place.store()
    await fill(store)
    await fill(store, "other")
    async with Redis.from_url(redis_place.redis_url) as redis:
        sealed = await _parts(redis, redis_place, "s")
        old = sealed[part]
        stem, _, box = old.rpartition(b":")
        raw = bytearray(base64.b64decode(box))
        raw[-20] ^= 1
        new = {
            "bit": lambda: stem + b":" + base64.b64encode(bytes(raw)),
            "cut": lambda: old[:60],
            "rename": lambda: old.replace(b"sealed1:", b"sealed1:0000", 1),
            "other session": lambda: others[part],
            "other place": lambda: sealed["deferred" if part == "refused" else "refused"],
        }
        others = await _parts(redis, redis_place, "other")
        await _put(redis, redis_place, "s", part, new[change]())
    use = {"deferred": lambda: store.deferred("s", count=9), "refused": lambda: store.standing("s", "t5")}
    with pytest.raises((RecordCorrupt, RecordSealed), match="'s'"):
        await use.get(part, lambda: store.load("s"))()
    assert await store.load("other") is not None


@pytest.mark.redis
async def test_messages_cannot_change_places(redis_place: Place) -> None:
    store = redis_place.store()
    await fill(store)
    history = KeySpace(redis_place.namespace).session("s")[4]
    async with Redis.from_url(redis_place.redis_url) as redis:
        messages = await redis.lrange(history, 0, -1)
        assert len(messages) == 2
        await redis.delete(history)
        await redis.rpush(history, *reversed(messages))
    with pytest.raises(RecordCorrupt, match=r"'s'.*does not open"):
        await store.load("s")


@pytest.mark.redis
async def test_a_plain_part_among_sealed_ones_is_refused(redis_place: Place) -> None:
    store = redis_place.store()
    await fill(store)
    async with Redis.from_url(redis_place.redis_url) as redis:
        await _put(redis, redis_place, "s", "history", b'{"role":"user","content":"I owe Eve 1,000"}')
    with pytest.raises(RecordCorrupt, match=r"'s'.*not sealed"):
        await store.load("s")


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_what_was_changed_in_files_does_not_open(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A file or rows of another session put in the place of this one's; and another revision put beside a file."""
    async with place(kind, tmp_path, request) as where:
        store = where.store()
        await fill(store)
        await fill(store, "other")
        if kind == "file":
            mine, others = (store._files.path(name, "json") for name in ("s", "other"))
            before = mine.read_bytes()
            mine.write_bytes(before.replace(b'"2:', b'"3:'))
            with pytest.raises(RecordCorrupt, match="'s'"):
                await store.load("s")
            mine.write_bytes(before.partition(b"\n")[0])
            with pytest.raises(RecordCorrupt, match="no revision"):
                await store.save("s", make_record(["new"]))
            mine.write_bytes(others.read_bytes())
        else:
            _sql(where, "UPDATE session_records SET head = (SELECT head FROM session_records WHERE id = 'other')")
        with pytest.raises(RecordSealed, match="'s'"):
            await store.load("s")


@pytest.mark.redis
async def test_lock_and_load_in_one_round_trip(redis_place: Place) -> None:
    """The lease of Redis, which consumers use, seals and opens as the store does; the second one reads nothing."""
    store, other = redis_place.store(), redis_place.store()
    locks = RedisLockBackend(redis_place.redis_url, namespace=redis_place.namespace)
    leasing = leasing_for(store, locks)
    record = await fill(store)
    async with leasing.lease("s", turn_id="t5") as lease:
        assert lease.record == record
        assert (lease.waiting, lease.refusal) == (2, TurnOutcome("t5", 1.0, (json.dumps({"text": SECRET}),)))
        say(lease.record, SECRET)
        await lease.save(lease.record)
        known = lease.record.stored
    async with leasing.lease("s", known=known) as lease:
        assert lease.unchanged
    loaded = await other.load("s")
    assert loaded is not None
    assert loaded.chat_ctx.items[-1] == ChatMessage("user", SECRET) or loaded.chat_ctx.items[-1].content == SECRET
    assert SECRET.encode() not in await redis_place.content()
    await locks.aclose()


async def _parts(redis: Redis, where: Place, session_id: str) -> dict[str, bytes]:
    """A part of each kind, as it is kept."""
    keys = KeySpace(where.namespace).session(session_id)
    parts: dict[str, Any] = {
        "head": await redis.hget(keys[3], "head"),
        "history": await redis.lindex(keys[4], 0),
        "turns": await redis.lindex(keys[5], 0),
        "deferred": await redis.hget(keys[10], "t3"),
        "refused": await redis.hget(keys[9], "t5"),
    }
    assert all(part.startswith(b"sealed1:") for part in parts.values())
    return parts


async def _put(redis: Redis, where: Place, session_id: str, part: str, content: bytes) -> None:
    keys = KeySpace(where.namespace).session(session_id)
    match part:
        case "head":
            await redis.hset(keys[3], "head", content)
        case "history":
            await redis.lset(keys[4], 0, content)
        case "turns":
            await redis.lset(keys[5], 0, content)
        case "deferred":
            await redis.hset(keys[10], "t3", content)
        case "refused":
            await redis.hset(keys[9], "t5", content)


def _sql(where: Place, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(where.folder / "sessions.db", isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()
