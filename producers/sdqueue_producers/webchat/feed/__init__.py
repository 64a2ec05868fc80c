"""The feed: what visitors see, in a bounded log a session, from which every process shows it."""

from sdqueue_producers.webchat.feed.feed import LARGEST_READ, Draft, Entry, Feed, FeedLimits, Mode, Page, Place
from sdqueue_producers.webchat.feed.memory import MemoryFeed
from sdqueue_producers.webchat.feed.opening import open_feed
from sdqueue_producers.webchat.feed.redis import RedisFeed
from sdqueue_producers.webchat.feed.sqlite import SQLiteFeed
from sdqueue_producers.webchat.feed.wakes import Wake, Wakes

__all__ = [
    "LARGEST_READ",
    "Draft",
    "Entry",
    "Feed",
    "FeedLimits",
    "MemoryFeed",
    "Mode",
    "Page",
    "Place",
    "RedisFeed",
    "SQLiteFeed",
    "Wake",
    "Wakes",
    "open_feed",
]
