"""Sessions: state, locks and stores around any agent. Usable alone, without a broker."""

from sdqueue.sessions.handle import SessionHandle
from sdqueue.sessions.history import HistoryPolicy, MessageLimit, Summary, TokenLimit, estimate_tokens
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
    "HistoryPolicy",
    "InMemorySessionStore",
    "LockBackend",
    "MessageLimit",
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
    "Stored",
    "Summary",
    "TokenLimit",
    "TurnBacklog",
    "TurnCounter",
    "TurnOutcome",
    "TurnRing",
    "TurnState",
    "estimate_tokens",
    "unpark",
]
