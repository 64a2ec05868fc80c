"""Sessions: state, locks and stores around any agent. Usable alone, without a broker."""

from sdqueue.sessions.handle import SessionHandle
from sdqueue.sessions.history import HistoryPolicy, MessageLimit, Summary, TokenLimit, estimate_tokens
from sdqueue.sessions.locks import AsyncioLockBackend, FileLockBackend, Held, LockBackend, RedisLockBackend
from sdqueue.sessions.parking import unpark
from sdqueue.sessions.record import SessionRecord, Stored
from sdqueue.sessions.ring import Retention, TurnOutcome, TurnRing, TurnState
from sdqueue.sessions.sealing.file_keys import FileSessionKeys
from sdqueue.sessions.sealing.keyring import Keyring
from sdqueue.sessions.sealing.keys import MemorySessionKeys, SessionKeys
from sdqueue.sessions.sealing.redis_keys import RedisSessionKeys
from sdqueue.sessions.sealing.sealer import Sealer
from sdqueue.sessions.sealing.sqlite_keys import SQLiteSessionKeys
from sdqueue.sessions.sealing.upkeep import Rotation, erase_key, rotate
from sdqueue.sessions.session import Session, SessionInit
from sdqueue.sessions.stores import (
    Deferred,
    FileSessionStore,
    InMemorySessionStore,
    Kept,
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
    "FileSessionKeys",
    "FileSessionStore",
    "Held",
    "HistoryPolicy",
    "InMemorySessionStore",
    "Kept",
    "Keyring",
    "LockBackend",
    "MemorySessionKeys",
    "MessageLimit",
    "NullSessionStore",
    "RedisLockBackend",
    "RedisSessionKeys",
    "RedisSessionStore",
    "Retention",
    "RevisionCheck",
    "Rotation",
    "SQLiteSessionKeys",
    "SQLiteSessionStore",
    "Sealer",
    "Session",
    "SessionHandle",
    "SessionInit",
    "SessionKeys",
    "SessionRecord",
    "SessionStore",
    "SessionWorker",
    "Standing",
    "StartCounter",
    "Stored",
    "Summary",
    "TokenLimit",
    "TurnBacklog",
    "TurnCounter",
    "TurnOutcome",
    "TurnRing",
    "TurnState",
    "erase_key",
    "estimate_tokens",
    "rotate",
    "unpark",
]
