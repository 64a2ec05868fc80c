"""Which feed the settings name."""

from __future__ import annotations

from sdqueue.backends import path_of
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings
from sdqueue.urls import mask
from sdqueue_producers.webchat.feed.feed import Feed, FeedLimits
from sdqueue_producers.webchat.feed.memory import MemoryFeed
from sdqueue_producers.webchat.feed.redis import RedisFeed
from sdqueue_producers.webchat.feed.sqlite import SQLiteFeed


def open_feed(settings: Settings, limits: FeedLimits) -> Feed:
    """The feed that fits ``SDQUEUE_PRODUCER_STATE_URL``, or without it the store.

    The same Redis; for a SQLite database, one beside it with ``.webchat`` behind its name; for a folder of files,
    ``webchat.db`` in it; else this process.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = settings.producer_state_url or settings.store_url
    match url.partition("://")[0]:
        case "memory" | "null":
            return MemoryFeed(limits)
        case "sqlite":
            path = path_of(url)
            return SQLiteFeed(path.with_name(f"{path.name}.webchat"), limits)
        case "file":
            return SQLiteFeed(path_of(url) / "webchat.db", limits)
        case scheme if scheme.startswith("redis"):
            return RedisFeed(url, namespace=settings.namespace, limits=limits)
    raise ConfigurationError(f"SDQUEUE_PRODUCER_STATE_URL: web chat has no place for {mask(url)!r}")
