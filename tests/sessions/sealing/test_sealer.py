"""Keys of sessions: made, cached, rotated, erased, lost and wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sdqueue import (
    AsyncioLockBackend,
    Deferred,
    FileSessionStore,
    MemorySessionKeys,
    RecordCorrupt,
    RecordSealed,
    RecordTooNew,
    Retention,
    SessionWorker,
    VersionConflict,
    WrongKey,
    load_agent_factory,
)
from sdqueue.sessions import Keyring, Sealer, TurnOutcome, erase_key, rotate
from sdqueue.sessions.sealing.entry import KeyEntry
from sdqueue.testing.records import HOSTILE_IDS, end, make_record, say
from tests.servers.redis_group import RedisGroup
from tests.sessions.sealing.places import K1, K2, KINDS, Place, place


@pytest.fixture(params=KINDS)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with place(request.param, tmp_path, request) as found:
        yield found


# Key stores


async def test_an_entry_is_swapped_only_where_it_is_the_one_expected(where: Place) -> None:
    keys, other = where.keys(), where.keys()
    assert await keys.get("s") is None
    assert await keys.swap("s", b"x", b"a") is None
    assert await keys.swap("s", None, b"a") == b"a"
    assert await other.swap("s", None, b"b") == b"a"
    assert await other.swap("s", b"a", b"\xff\n\x00") == b"\xff\n\x00"
    assert await keys.swap("s", b"a", b"c") == b"\xff\n\x00"
    assert await keys.get("s") == b"\xff\n\x00"


async def test_of_many_swaps_one_wins(where: Place) -> None:
    openings = [where.keys() for _ in range(4)]
    kept = await asyncio.gather(*(openings[n % 4].swap("s", None, b"%d" % n) for n in range(20)))
    assert len(set(kept)) == 1
    assert await openings[0].get("s") == kept[0]


async def test_all_sessions_with_a_key_are_listed(where: Place) -> None:
    """Ids of whatever characters, and more than are read at once."""
    keys = where.keys()
    ids = [*HOSTILE_IDS, "\ud800", *(f"n{n}" for n in range(150))]
    for name in ids:
        await keys.swap(name, None, name.encode("utf-8", "surrogatepass"))
    assert sorted([name async for name in where.keys().sessions()]) == sorted(set(ids))
    for name in ids:
        assert await keys.get(name) == name.encode("utf-8", "surrogatepass")


async def test_sqlite_lists_more_sessions_than_it_reads_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdqueue.sessions.sealing.sqlite_keys._PART", 3)
    async with place("sqlite", tmp_path, request) as where:
        keys = where.keys()
        ids = sorted({*HOSTILE_IDS, "\ud800"})
        for name in ids:
            await keys.swap(name, None, b"x")
        assert sorted([name async for name in keys.sessions()]) == ids


@pytest.mark.redis
async def test_redis_keys_outlive_their_sessions_by_a_day(
    tmp_path: Path, request: pytest.FixtureRequest, redis_url: str, namespace: str
) -> None:
    """Every use of a key starts its life anew; what has ended leaves the index."""
    from redis.asyncio import Redis

    from sdqueue import RedisSessionKeys

    keys = RedisSessionKeys(redis_url, namespace=namespace, ttl_s=100)
    await keys.swap("s", None, b"a")
    async with Redis.from_url(redis_url) as redis:
        name = f"{namespace}:{{s}}:key"
        for use in (keys.get("s"), keys.swap("s", None, b"b"), keys.swap("s", b"a", b"c")):
            await redis.expire(name, 10)
            await use
            assert 86_400 + 90 < await redis.ttl(name) <= 86_400 + 100
        await redis.zadd(f"{namespace}:keys", {"long gone": 1.0})
    assert [session_id async for session_id in keys.sessions()] == ["s"]
    await keys.aclose()


@pytest.mark.redis
async def test_who_is_told_of_a_shorter_life_shortens_none_and_forgets_none(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given sessions that live for a year, when a client or ``keys rotate`` with the default of 30 days comes by.

    Otherwise the key would end before its session, or a rotation would leave it under the old master key unseen.
    """
    from redis.asyncio import Redis

    from sdqueue import RedisSessionKeys

    year = 365 * 24 * 3600.0
    keys, other = (RedisSessionKeys(redis_url, namespace=namespace, ttl_s=ttl_s) for ttl_s in (year, 30 * 86_400))
    with monkeypatch.context() as patch:
        before = time.time() - 100 * 86_400
        patch.setattr("sdqueue.sessions.sealing.redis_keys.time.time", lambda: before)
        await keys.swap("unused for long", None, b"a")
    await keys.swap("s", None, b"a")
    async with Redis.from_url(redis_url) as redis:
        name = f"{namespace}:{{s}}:key"
        assert await other.get("s") == b"a"
        assert await redis.ttl(name) > year
        assert await other.swap("s", None, b"b") == b"a"
        assert await redis.ttl(name) > year
        assert await other.swap("s", b"a", b"c") == b"c"
        assert await redis.ttl(name) > year
    assert sorted([each async for each in other.sessions()]) == ["s", "unused for long"]
    assert sorted([each async for each in keys.sessions()]) == ["s", "unused for long"]
    await keys.aclose()
    await other.aclose()


@pytest.mark.redis
async def test_on_a_cluster_all_sessions_with_a_key_are_listed(redis_group: RedisGroup) -> None:
    """Whatever nodes their keys are on; what has none any more leaves the index."""
    from redis.asyncio import RedisCluster

    from sdqueue import RedisSessionKeys

    port = (await redis_group.cluster())[0]
    keys = RedisSessionKeys(f"redis+cluster://127.0.0.1:{port}")
    ids = [f"s{n}" for n in range(20)]
    for name in ids:
        await keys.swap(name, None, b"x")
    async with RedisCluster(host="127.0.0.1", port=port) as redis:
        await redis.zadd("sdqueue:keys", {"long gone": 1.5})
        assert sorted([name async for name in keys.sessions()]) == sorted(ids)
        assert await redis.zscore("sdqueue:keys", "long gone") is None
    await keys.aclose()


# Reading and writing


async def test_every_session_has_a_key_of_its_own(where: Place) -> None:
    store = where.store()
    for name in ("a", "b"):
        await store.save(name, make_record(["one"]))
    entries = [KeyEntry.load(name, await where.keys().get(name)) for name in ("a", "b")]  # type: ignore[arg-type]
    assert entries[0].key_id != entries[1].key_id
    data = [Keyring(K1).unwrap(name, entry) for name, entry in zip("ab", entries, strict=True)]
    assert data[0] != data[1]
    assert [len(key) for key in data] == [32, 32]
    for key in (*data, *K1.values()):
        assert key not in await where.content()


async def test_two_processes_that_create_a_session_agree_on_its_key(where: Place) -> None:
    stores = [where.store() for _ in range(4)] if where.kind != "memory" else [where.store()] * 4
    await asyncio.gather(*(stores[n % 4].defer("s", [Deferred(f"t{n}", b"x")], limit=99) for n in range(12)))
    assert len(await where.store().deferred("s", count=99)) == 12


@pytest.mark.parametrize("keys", [K2, {"k1": b"9" * 32}], ids=["missing", "another of the same name"])
async def test_a_wrong_master_key_is_named_and_changes_nothing(where: Place, keys: dict[str, bytes]) -> None:
    """The session is never taken for a new one: not by a load, a save, nor by what goes into its backlog."""
    record = make_record(["one"])
    await where.store().save("s", record)
    wrong = where.store(keys)
    refusal = TurnOutcome("t", 1.0, ("r",))
    for use in (
        lambda: wrong.load("s"),
        lambda: wrong.save("s", make_record(["new"])),
        lambda: wrong.defer("s", [Deferred("t", b"x")], limit=9),
        lambda: wrong.refuse("s", refusal, retention=Retention()),
    ):
        with pytest.raises(WrongKey, match=r"'s'.*'k1'.*SDQUEUE_ENCRYPTION_KEYS") as refused:
            await use()
        for key in (*K1.values(), *keys.values()):
            assert key.decode() not in str(refused.value)
    right = where.store()
    assert await right.load("s") == record
    assert await right.deferred("s", count=9) == []
    both = where.store(K2 | K1)
    assert await both.load("s") == record


async def test_a_lost_key_is_no_erased_one(where: Place) -> None:
    """A key store that is empty, or of before: the session waits for its key, and is not overwritten."""
    record = make_record(["one"])
    await where.store().save("s", record)
    lost = where.open(Sealer(Keyring(K1), MemorySessionKeys()))
    with pytest.raises(RecordSealed, match=r"'s'.*none for it.*SDQUEUE_KEYS_URL"):
        await lost.load("s")
    with pytest.raises(VersionConflict):
        await lost.save("s", make_record(["new"]))
    with pytest.raises(RecordSealed, match=r"'s'.*SDQUEUE_KEYS_URL"):
        await lost.load("s")
    assert await where.store().load("s") == record


async def test_a_damaged_entry_is_named(where: Place) -> None:
    keys = where.keys()
    store = where.store()
    for n, entry in enumerate([b"", b"{", b"[]", b'{"form":1,"key_id":7}', b'{"form":1,"wrapped":"?"}', b'"x"']):
        await keys.swap(f"s{n}", None, entry)
        with pytest.raises(RecordCorrupt, match=rf"'s{n}'.*damaged"):
            await store.save(f"s{n}", make_record(["one"]))
    await keys.swap("new", None, b'{"form":2}')
    with pytest.raises(RecordTooNew, match=r"'new'.*form 2"):
        await store.save("new", make_record(["one"]))


async def test_an_entry_of_another_session_does_not_open(where: Place) -> None:
    """Whoever can write to the key store gains nothing by moving keys about."""
    store, keys = where.store(), where.keys()
    for name in ("a", "b"):
        await store.save(name, make_record([name]))
    stolen = await keys.get("a")
    assert stolen is not None
    assert await keys.swap("b", await keys.get("b"), stolen) == stolen
    with pytest.raises((WrongKey, RecordSealed), match="'b'"):
        await where.store().load("b")
    with pytest.raises(WrongKey, match="'b'"):
        await where.store().save("b", make_record(["new"]))


# Erasure


async def test_an_erased_session_is_as_if_it_had_never_been(where: Place) -> None:
    """Its remains in the store, as from a restored backup, read as no session, and a new one takes their place."""
    store = where.store()
    record = make_record(["one", "two"])
    end(record, "t1", "r")
    await store.save("s", record)
    await store.defer("s", [Deferred("t2", b"x"), Deferred("t3", b"y")], limit=9)
    await store.refuse("s", TurnOutcome("t4", 1.0, ("r",)), retention=Retention())
    assert await erase_key(where.keys(), "s")
    assert not await erase_key(where.keys(), "s")
    other = where.store()
    assert await other.load("s") is None
    assert await other.deferred("s", count=9) == []
    assert (await other.standing("s", "t4")).refusal is None
    new = make_record(["anew"])
    await other.save("s", new)
    await other.defer("s", [Deferred("t5", b"z")], limit=9)
    loaded = await where.store().load("s")
    assert loaded == new
    assert loaded is not None
    assert loaded.version == 1
    assert [turn.turn_id for turn in await where.store().deferred("s", count=9)] == ["t5"]
    assert await erase_key(where.keys(), "s")
    assert await where.store().load("s") is None


async def test_an_erased_key_is_nowhere(where: Place) -> None:
    """No byte of the wrapped key is left, not in the log of SQLite either."""
    store = where.store()
    await store.save("s", make_record(["one"]))
    found = await where.keys().get("s")
    assert found is not None
    wrapped = json.loads(found)["wrapped"].encode()
    assert wrapped in await where.content()
    await erase_key(where.keys(), "s")
    assert wrapped not in await where.content()


async def test_a_process_with_the_key_in_memory_loses_nothing_to_an_erasure(where: Place) -> None:
    """Given a process that knows the key, when it is erased and the session deleted, then what comes is sealed anew.

    Its save of the old session conflicts; the new session and its backlog are not sealed with the erased key.
    """
    store, other = where.store(), where.store()
    record = make_record(["one"])
    await store.save("s", record)
    assert await store.load("s") == record
    await erase_key(where.keys(), "s")
    await other.delete("s")
    say(record, "two")
    with pytest.raises(VersionConflict):
        await store.save("s", record)
    await store.defer("s", [Deferred("t", b"x")], limit=9)
    new = make_record(["anew"])
    await store.save("s", new)
    third = where.store()
    assert await third.load("s") == new
    assert [turn.turn_id for turn in await third.deferred("s", count=9)] == ["t"]


async def test_a_save_on_an_erased_session_conflicts_even_before_it_is_deleted(where: Place) -> None:
    """A process whose knowledge of the key has ended asks, and does not bring the session back."""
    store = where.store(cache_s=0)
    record = make_record(["one"])
    await store.save("s", record)
    await erase_key(where.keys(), "s")
    say(record, "two")
    with pytest.raises(VersionConflict, match="no record"):
        await store.save("s", record)
    assert await store.load("s") is None


async def test_a_backup_of_the_records_does_not_bring_an_erased_session_back(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The files of before are put back: they cannot be opened, with all master keys there are."""
    async with place("file", tmp_path, request) as where:
        await where.store().save("s", make_record(["one"]))
        shutil.copytree(tmp_path / "sessions", tmp_path / "backup")
        await erase_key(where.keys(), "s")
        await where.store().delete("s")
        shutil.copytree(tmp_path / "backup", tmp_path / "sessions", dirs_exist_ok=True)
        assert await where.store(K1 | K2).load("s") is None
        assert list((tmp_path / "sessions").glob("*.json")) == []
        store = FileSessionStore(tmp_path / "backup", sealer=Sealer(Keyring(K1), MemorySessionKeys()))
        with pytest.raises(RecordSealed):
            await store.load("s")


# Memory of keys


class _Counting(MemorySessionKeys):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def get(self, session_id: str) -> bytes | None:
        self.asked += 1
        return await super().get(session_id)

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        self.asked += 1
        return await super().swap(session_id, expected, entry)


async def test_a_warm_session_asks_for_no_key(tmp_path: Path) -> None:
    """One question for a new session, none while it is worked on, and one again when the memory of it has ended."""
    keys = _Counting()
    store = FileSessionStore(tmp_path, sealer=Sealer(Keyring(K1), keys, cached=2))
    record = make_record(["one"])
    await store.save("s", record)
    assert keys.asked == 1
    for _ in range(3):
        await store.save("s", record)
        assert await store.load("s") is not None
    assert keys.asked == 1
    for name in "ab":  # one more than are kept
        await store.save(name, make_record(["one"]))
    assert keys.asked == 3
    assert await store.load("s") is not None
    assert keys.asked == 4
    hasty = FileSessionStore(tmp_path, sealer=Sealer(Keyring(K1), keys, cache_s=0))
    for asked in (5, 6):
        assert await hasty.load("s") is not None
        assert keys.asked == asked


# Rotation


async def test_a_rotation_under_load(where: Place) -> None:
    """Given sessions worked on all the time, when the master key changes, then no save fails, and k1 is of no use."""
    both = K2 | K1
    stores = [where.store(both, cache_s=0) for _ in range(2)] if where.kind != "memory" else [where.store(both)] * 2
    before = where.store()
    for n in range(40):
        await before.save(f"s{n}", make_record(["one"]))
    await erase_key(where.keys(), "s39")
    if where.kind == "memory":
        stores = [where.store(both)] * 2
    done = asyncio.Event()

    async def work(number: int) -> int:
        turns = 0
        while not done.is_set() or turns < 3:
            name = f"s{number}-{turns}" if turns % 3 == 0 else f"s{number}"
            record = await stores[number % 2].load(name) or make_record([])
            say(record, f"turn {turns}")
            await stores[number % 2].save(name, record)
            turns += 1
            await asyncio.sleep(0)  # a store in memory never waits
        return turns

    async with asyncio.TaskGroup() as group:
        working = [group.create_task(work(number)) for number in range(4)]
        seen: list[int] = []
        result = await rotate(where.keys(), Keyring(both), on_progress=lambda part: seen.append(part.rewrapped))
        done.set()
    assert (result.erased, result.failed) == (1, {})
    assert result.rewrapped == 39
    again = await rotate(where.keys(), Keyring(both))
    assert (again.rewrapped, again.failed, again.erased) == (0, {}, 1)
    assert again.already >= 39
    only = where.store(K2)
    for n in range(39):
        assert await only.load(f"s{n}") is not None
    assert all(task.result() >= 3 for task in working)


async def test_a_rotation_goes_on_where_it_was_interrupted(where: Place) -> None:
    """Cancelled in the middle, run again: what was done is not done again, and all is done in the end."""
    store = where.store()
    for n in range(130):
        await store.save(f"s{n}", make_record(["one"]))
    keyring = Keyring(K2 | K1)
    first: list[int] = []

    def interrupt(part: Any) -> None:
        first.append(part.rewrapped)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rotate(where.keys(), keyring, on_progress=interrupt)
    assert 0 < first[0] < 130
    result = await rotate(where.keys(), keyring)
    assert (result.rewrapped, result.already) == (130 - first[0], first[0])


async def test_what_cannot_be_rotated_is_told_and_left(where: Place) -> None:
    """A session of a third master key keeps its key as it is."""
    await where.store({"k0": b"0" * 32}).save("old", make_record(["one"]))
    await where.store().save("s", make_record(["one"]))
    result = await rotate(where.keys(), Keyring(K2 | K1))
    assert result.rewrapped == 1
    assert list(result.failed) == ["old"]
    assert "'k0'" in result.failed["old"]
    assert await where.store({"k0": b"0" * 32}).load("old") is not None


# Others' workers


@pytest.mark.parametrize("kind", KINDS)
async def test_a_sealed_store_works_in_superdialogs_own_worker(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop-in: each turn in a worker of its own, and nothing of what is said at rest."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    session = pytest.importorskip("superdialog.session", reason="superdialog is not installed")
    context = pytest.importorskip("superdialog.chat_context")

    class Brain:
        def __init__(self) -> None:
            self.chat_ctx: Any = context.ChatContext()

        def load_chat_ctx(self, ctx: Any) -> None:
            self.chat_ctx = ctx

        def assist(self, text: str) -> None:
            return None

        async def turn(self, text: str, *, stream: bool = False) -> str:
            self.chat_ctx.items.append(context.ChatMessage("user", text))
            return str(len(self.chat_ctx.items))

    async with place(kind, tmp_path, request) as where:
        store = where.store()
        for n in range(1, 4):
            worker = session.SessionWorker(agent_factory=Brain, store=store, lock_backend=AsyncioLockBackend())
            async with worker.acquire("s") as handle:
                assert await handle.turn(f"my secret is {n}") == str(n)
        assert b"my secret" not in await where.content()
        loaded = await where.store().load("s")
        assert loaded is not None
        assert loaded.version == 3


async def test_an_erasure_is_felt_by_a_worker_that_has_the_agent_in_memory(where: Place) -> None:
    """The next turn is answered by an agent that knows nothing of before."""
    store = where.store()
    worker = SessionWorker(agent_factory=load_agent_factory(""), store=store)
    async with worker.acquire("s") as handle:
        await handle.turn("my name is Ada")
    async with worker.acquire("s") as handle:
        assert "Ada" in (await handle.turn("what is my name?")).text
    await erase_key(where.keys(), "s")
    await where.store().delete("s")
    async with worker.acquire("s") as handle:
        assert "Ada" not in (await handle.turn("what is my name?")).text
