"""Sealed logs of streamed answers: the suite that every log passes, and what is at rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from sdqueue import Keyring, MemorySessionKeys, RecordCorrupt, RecordSealed, Sealer, Settings, StreamNotFound, WrongKey
from sdqueue.backends import open_delta_log, open_session_keys
from sdqueue.sessions import RedisSessionKeys, SQLiteSessionKeys, erase_key
from sdqueue.sessions.sealing.keyring import generate
from sdqueue.streaming import (
    BEGINNING,
    DeltaLog,
    LogEntry,
    LogLimits,
    MemoryDeltaLog,
    RedisDeltaLog,
    SealedDeltaLog,
    SQLiteDeltaLog,
    StreamOffset,
    follow,
)
from sdqueue.testing import DeltaLogSuite

SMALL = LogLimits(entries=10, ttl_s=0.2)
SECRET = LogEntry(StreamOffset.of(1, 0), "my card is 4111-1111")
KEYS = {"k1": b"1" * 32}


def sealed(log: DeltaLog, keys: MemorySessionKeys, master: dict[str, bytes] = KEYS) -> SealedDeltaLog:
    return SealedDeltaLog(log, Sealer(Keyring(master), keys))


class TestSealedMemory(DeltaLogSuite):
    @pytest.fixture
    async def log(self) -> DeltaLog:
        return sealed(MemoryDeltaLog(), MemorySessionKeys())

    @pytest.fixture
    async def small_log(self) -> DeltaLog:
        return sealed(MemoryDeltaLog(SMALL), MemorySessionKeys())


class TestSealedSQLite(DeltaLogSuite):
    def make(self, folder: Path, limits: LogLimits | None = None) -> DeltaLog:
        keys = SQLiteSessionKeys(folder / "keys.db")
        return SealedDeltaLog(SQLiteDeltaLog(folder / "log.db", limits=limits), Sealer(Keyring(KEYS), keys))

    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[DeltaLog]:
        self.folder = tmp_path
        log = self.make(tmp_path)
        yield log
        await log.aclose()

    @pytest.fixture
    async def small_log(self, tmp_path: Path) -> AsyncIterator[DeltaLog]:
        log = self.make(tmp_path, SMALL)
        yield log
        await log.aclose()

    async def second_log(self, log: DeltaLog) -> DeltaLog:
        return self.make(self.folder)


class TestSealedRedis(DeltaLogSuite):
    slack = 100  # a node of a stream, which is trimmed as a whole

    @pytest.fixture(autouse=True)
    def _remember(self, redis_url: str, namespace: str) -> None:
        self._where = redis_url, namespace

    def make(self, limits: LogLimits | None = None) -> DeltaLog:
        url, namespace = self._where
        keys = RedisSessionKeys(url, namespace=namespace)
        return SealedDeltaLog(RedisDeltaLog(url, namespace=namespace, limits=limits), Sealer(Keyring(KEYS), keys))

    @pytest.fixture
    async def log(self, _remember: None) -> AsyncIterator[DeltaLog]:
        log = self.make()
        yield log
        await log.aclose()

    @pytest.fixture
    async def small_log(self, _remember: None) -> AsyncIterator[DeltaLog]:
        log = self.make(SMALL)
        yield log
        await log.aclose()

    async def second_log(self, log: DeltaLog) -> DeltaLog:
        return self.make()


async def test_what_is_kept_says_nothing_and_is_bound_to_its_place() -> None:
    """An entry that is moved to another turn, session or offset does not open there."""
    inner, keys = MemoryDeltaLog(), MemorySessionKeys()
    log = sealed(inner, keys)
    await log.append("s", "t", [SECRET])
    (kept,) = await inner.read("s", "t", after=BEGINNING, wait_s=0) or ()
    assert "4111" not in kept.body
    assert kept.body.startswith("sealed1:")
    await inner.append("s", "other", [kept])
    await inner.append("s", "t", [LogEntry(StreamOffset.of(1, 1), kept.body)])
    for turn_id, after in (("other", BEGINNING), ("t", SECRET.offset)):
        with pytest.raises(RecordCorrupt, match="'s'"):
            await log.read("s", turn_id, after=after, wait_s=0)
    await inner.append("s2", "t", [kept])
    with pytest.raises(RecordSealed, match="'s2'"):
        await log.read("s2", "t", after=BEGINNING, wait_s=0)


async def test_who_has_not_the_keys_is_told_so() -> None:
    inner, keys = MemoryDeltaLog(), MemorySessionKeys()
    await sealed(inner, keys).append("s", "t", [SECRET])
    with pytest.raises(RecordSealed, match=r"'s'.*SDQUEUE_ENCRYPTION_KEYS"):
        await anext(follow(inner, "s", "t", after=BEGINNING, timeout=1))
    with pytest.raises(WrongKey, match="'k1'"):
        await anext(follow(sealed(inner, keys, {"k2": b"2" * 32}), "s", "t", after=BEGINNING, timeout=1))


async def test_an_erased_answer_is_a_forgotten_one() -> None:
    """Also for a reader in the middle of it."""
    inner, keys = MemoryDeltaLog(), MemorySessionKeys()
    await sealed(inner, keys).append("s", "t", [SECRET, LogEntry(StreamOffset.of(1, 1), "more")])
    await erase_key(keys, "s")
    assert await sealed(inner, keys).read("s", "t", after=BEGINNING, wait_s=0) is None
    with pytest.raises(StreamNotFound):
        await anext(follow(sealed(inner, keys), "s", "t", after=SECRET.offset, timeout=1))


class _Counting(MemoryDeltaLog):
    """Counts how often it is read."""

    reads = 0

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        self.reads += 1
        return await super().read(session_id, turn_id, after=after, wait_s=wait_s)


async def test_a_reader_of_an_erased_answer_waits_and_asks_no_more_than_others() -> None:
    inner, keys = _Counting(), MemorySessionKeys()
    await sealed(inner, keys).append("s", "t", [SECRET])
    await erase_key(keys, "s")
    with pytest.raises(StreamNotFound):
        await anext(follow(sealed(inner, keys), "s", "t", after=BEGINNING, timeout=0.3))
    assert inner.reads < 10


async def test_what_is_said_after_an_erasure_is_read() -> None:
    """Given a process that remembers the key, when the turn runs again on the new session, then readers get that.

    Also the reply that ends the turn, behind deltas that nothing opens any more.
    """
    inner, keys = MemoryDeltaLog(), MemorySessionKeys()
    log = sealed(inner, keys)
    await log.append("s", "t", [SECRET])
    await log.append("s", "u", [SECRET])
    await erase_key(keys, "s")
    anew = LogEntry(StreamOffset.of(2, 0), "anew")
    end = LogEntry(StreamOffset.end(), "end")
    await log.append("s", "t", [anew])
    reader = sealed(inner, keys)
    assert await reader.read("s", "t", after=BEGINNING, wait_s=0) == [anew]
    await log.append("s", "u", [end])
    assert await reader.read("s", "u", after=BEGINNING, wait_s=0) == [end]
    assert list(await reader.read("s", "u", after=end.offset, wait_s=0) or ()) == []


class _Silent(MemorySessionKeys):
    """Counts how often it is asked."""

    asked = 0

    async def swap(self, session_id: str, expected: bytes | None, entry: bytes) -> bytes | None:
        self.asked += 1
        return await super().swap(session_id, expected, entry)


async def test_deltas_do_not_ask_for_the_key_each_time() -> None:
    keys = _Silent()
    log = sealed(MemoryDeltaLog(), keys)
    for index in range(10):
        await log.append("s", "t", [LogEntry(StreamOffset.of(1, index), "x")])
    assert keys.asked == 1


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"store_url": "redis://h"}, "redis"),
        ({"store_url": "sqlite:///x/s.db"}, "x/s.db.keys"),
        ({"store_url": "file:///x/y"}, "/x/y/keys"),
        ({"store_url": "null://", "stream_url": "redis://h"}, "redis"),
        ({"store_url": "null://", "stream_url": "sqlite:///x/l.db"}, "x/l.db.keys"),
    ],
)
async def test_settings_with_keys_seal_the_log(settings: dict[str, str], keys: str) -> None:
    """With keys that other processes can have: beside the store, or beside the log where the store keeps nothing."""
    loaded = Settings.load(encryption_keys=generate("k1"), **settings)
    log = open_delta_log(loaded)
    assert isinstance(log, SealedDeltaLog)
    found = open_session_keys(loaded)
    if keys == "redis":
        assert isinstance(found, RedisSessionKeys)
    else:
        where = found._path if isinstance(found, SQLiteSessionKeys) else found._files.directory  # type: ignore[attr-defined]
        assert str(where) == keys
    await log.aclose()
    await found.aclose()
