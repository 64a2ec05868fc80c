"""Session stores: where sessions live between turns."""

from sdqueue.sessions.stores.backlog import Deferred, Kept, Standing, TurnBacklog
from sdqueue.sessions.stores.file import FileSessionStore
from sdqueue.sessions.stores.memory import InMemorySessionStore
from sdqueue.sessions.stores.null import NullSessionStore
from sdqueue.sessions.stores.redis import RedisSessionStore
from sdqueue.sessions.stores.sqlite import SQLiteSessionStore
from sdqueue.sessions.stores.store import RevisionCheck, SessionStore, StartCounter, TurnCounter

__all__ = [
    "Deferred",
    "FileSessionStore",
    "InMemorySessionStore",
    "Kept",
    "NullSessionStore",
    "RedisSessionStore",
    "RevisionCheck",
    "SQLiteSessionStore",
    "SessionStore",
    "Standing",
    "StartCounter",
    "TurnBacklog",
    "TurnCounter",
]
