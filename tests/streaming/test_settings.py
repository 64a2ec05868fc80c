"""Which log the settings name."""

from __future__ import annotations

from typing import Any

import pytest

from sdqueue.backends import open_delta_log, opened_delta_log
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings
from sdqueue.streaming import LogLimits, MemoryDeltaLog, RedisDeltaLog, SQLiteDeltaLog


@pytest.mark.parametrize(
    ("given", "kind", "where"),
    [
        ({"store_url": "redis://h/1"}, RedisDeltaLog, "redis://h/1"),
        ({"store_url": "redis://h/1", "stream_url": "redis://other"}, RedisDeltaLog, "redis://other"),
        ({"store_url": "redis+cluster://h:1"}, RedisDeltaLog, "redis+cluster://h:1"),
        ({"store_url": "sqlite:///a/b.db"}, SQLiteDeltaLog, "a/b.db.streams"),
        ({"store_url": "sqlite:////a/b.db"}, SQLiteDeltaLog, "/a/b.db.streams"),
        ({"store_url": "file:///a/b%20c"}, SQLiteDeltaLog, "/a/b c/streams.db"),
        ({"store_url": "memory://", "broker_url": "memory://"}, MemoryDeltaLog, None),
        ({"store_url": "null://"}, type(None), None),
        ({"store_url": "redis://h", "stream_url": "null://"}, type(None), None),
        ({"store_url": "redis://h", "stream_entries": 0}, type(None), None),
    ],
)
async def test_what_fits_the_store_unless_told_otherwise(given: dict[str, Any], kind: type, where: str | None) -> None:
    async with opened_delta_log(Settings.load(**given, stream_ttl_s=7)) as log:
        assert type(log) is kind
        if isinstance(log, RedisDeltaLog):
            assert log._link.url == where
        if isinstance(log, SQLiteDeltaLog):
            assert str(log._path) == where
        if log is not None:
            assert log._limits == LogLimits(1000, 7)  # type: ignore[attr-defined]


async def test_the_namespace_keeps_pools_apart() -> None:
    log = open_delta_log(Settings.load(store_url="redis://h", namespace="mine"))
    assert isinstance(log, RedisDeltaLog)
    assert log._key("s{1}", "t") == b"mine:{s%7B1%7D}:stream:t"


@pytest.mark.parametrize("url", ["file:///x", "amqp://h", "x", "memory://y"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SDQUEUE_STREAM_URL"):
        Settings.load(stream_url=url)
