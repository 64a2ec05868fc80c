"""Sessions: state, locks and stores around any agent. Usable alone, without a broker."""

from sdqueue.sessions.handle import SessionHandle
from sdqueue.sessions.locks import AsyncioLockBackend, FileLockBackend, Held, LockBackend, RedisLockBackend
from sdqueue.sessions.parking import unpark
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import Retention, TurnOutcome, TurnRing, TurnState
from sdqueue.sessions.session import Session, SessionInit
from sdqueue.sessions.stores import (
    Deferred,
    FileSessionStore,
    InMemorySessionStore,
    NullSessionStore,
    RedisSessionStore,
    RevisionCheck,
    SessionStore,
    SQLiteSessionStore,
    Standing,
    StartCounter,
    TurnBacklog,
    TurnCounter,
)
from sdqueue.sessions.worker import SessionWorker

__all__ = [
    "AsyncioLockBackend",
    "Deferred",
    "FileLockBackend",
    "FileSessionStore",
    "Held",
    "InMemorySessionStore",
    "LockBackend",
    "NullSessionStore",
    "RedisLockBackend",
    "RedisSessionStore",
    "Retention",
    "RevisionCheck",
    "SQLiteSessionStore",
    "Session",
    "SessionHandle",
    "SessionInit",
    "SessionRecord",
    "SessionStore",
    "SessionWorker",
    "Standing",
    "StartCounter",
    "Stored",
    "TurnBacklog",
    "TurnCounter",
    "TurnOutcome",
    "TurnRing",
    "TurnState",
    "unpark",
]
