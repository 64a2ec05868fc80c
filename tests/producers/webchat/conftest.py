"""The feeds that every test of a feed runs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sdqueue_producers.webchat.feed import Feed, FeedLimits, MemoryFeed, RedisFeed, SQLiteFeed

MakeFeed = Callable[..., Feed]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make_feed(request: pytest.FixtureRequest, tmp_path: Path) -> MakeFeed:
    """Makes feeds on one place, as several processes have them; a memory feed is always the same one."""
    if request.param == "redis":
        url, namespace = request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")
        return lambda limits=None: RedisFeed(url, namespace=namespace, limits=limits)
    if request.param == "sqlite":
        return lambda limits=None: SQLiteFeed(tmp_path / "feed.db", limits)
    kept: list[MemoryFeed] = []

    def make(limits: FeedLimits | None = None) -> Feed:
        kept.append(kept[0] if kept else MemoryFeed(limits))
        return kept[0]

    return make
