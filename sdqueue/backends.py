"""Backends by URL: which broker, store, lock and membership the settings name.

=====================  =====================================================================================
``sqlite:///x/y.db``   a path relative to the current directory, as SQLAlchemy reads it
``sqlite:////x/y.db``  an absolute path
``file:///x/y``        an absolute path, as in RFC 8089; ``%20`` is a space
``memory://``          lives and ends with this process
``null://``            keeps nothing
=====================  =====================================================================================

Nothing is reached before it is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from sdqueue.agents import AgentFactory, AgentRoutes
from sdqueue.brokers import Broker, MemoryBroker, RabbitMQBroker, SQLiteBroker, Topology
from sdqueue.consumer.membership import Alone, Membership, RedisMembership
from sdqueue.errors import ConfigurationError
from sdqueue.sessions import (
    AsyncioLockBackend,
    FileLockBackend,
    FileSessionKeys,
    FileSessionStore,
    InMemorySessionStore,
    Keyring,
    LockBackend,
    MemorySessionKeys,
    MessageLimit,
    NullSessionStore,
    RedisLockBackend,
    RedisSessionKeys,
    RedisSessionStore,
    Sealer,
    SessionKeys,
    SessionStore,
    SessionWorker,
    SQLiteSessionKeys,
    SQLiteSessionStore,
    TokenLimit,
)
from sdqueue.settings import Settings
from sdqueue.streaming import DeltaLog, LogLimits, MemoryDeltaLog, RedisDeltaLog, SealedDeltaLog, SQLiteDeltaLog
from sdqueue.urls import mask

CLOSE_S: Final = 1.0
"""Seconds that a backend may take to close."""


def topology_of(settings: Settings) -> Topology:
    """The exchanges and queues that the settings name."""
    return Topology(settings.namespace, settings.partitions)


def open_broker(settings: Settings, *, name: str = "sdqueue") -> Broker:
    """The broker of ``SDQUEUE_BROKER_URL``, to be entered by the caller.

    Parameters:
        settings: where it is.
        name: who connects; shown by a broker that lists its connections.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = settings.broker_url
    topology = topology_of(settings)
    match _scheme(url):
        case "memory":
            return MemoryBroker(topology)
        case "sqlite":
            return SQLiteBroker(topology, _parent_made(path_of(url)))
        case "amqp" | "amqps":
            return RabbitMQBroker(url, topology, name=name)
    raise _unknown("SDQUEUE_BROKER_URL", url)


def open_store(settings: Settings) -> SessionStore:
    """The session store of ``SDQUEUE_STORE_URL``; with ``SDQUEUE_ENCRYPTION_KEYS`` it seals what it keeps.

    Raises:
        ConfigurationError: the URL cannot be read, or the package ``cryptography`` is needed and missing.
    """
    url = settings.store_url
    sealer = None if _scheme(url) == "null" else open_sealer(settings)
    match _scheme(url):
        case "memory":
            return InMemorySessionStore(sealer=sealer)
        case "null":
            return NullSessionStore()
        case "file":
            return FileSessionStore(path_of(url), sealer=sealer)
        case "sqlite":
            return SQLiteSessionStore(path_of(url), sealer=sealer)
        case scheme if scheme.startswith("redis"):
            return RedisSessionStore(url=url, namespace=settings.namespace, ttl_s=settings.session_ttl_s, sealer=sealer)
    raise _unknown("SDQUEUE_STORE_URL", url)


def open_sealer(settings: Settings) -> Sealer | None:
    """What seals the sessions of a store by ``SDQUEUE_ENCRYPTION_KEYS``; ``None`` where these are not set.

    Raises:
        ConfigurationError: the URL of the keys cannot be read, or the package ``cryptography`` is missing.
    """
    keys = settings.encryption_keys.get_secret_value()
    if not keys:
        return None
    return Sealer(Keyring.parse(keys), open_session_keys(settings), accept_plain=settings.encryption_accept_plain)


def open_session_keys(settings: Settings) -> SessionKeys:
    """The wrapped keys of sessions of ``SDQUEUE_KEYS_URL``; without one, beside the store.

    Those of a SQLite store are in ``<path>.keys`` beside it, those of a folder of files in its subfolder ``keys``.
    Where the store keeps nothing, they are beside the streamed answers.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = settings.keys_url or default_keys_url(settings.store_url)
    if not settings.keys_url and url == "memory://" and settings.stream_url:
        url = default_keys_url(settings.stream_url)  # the only thing that outlives the process and may be sealed
    match _scheme(url):
        case "memory":
            return MemorySessionKeys()
        case "file":
            return FileSessionKeys(path_of(url))
        case "sqlite":
            return SQLiteSessionKeys(path_of(url))
        case scheme if scheme.startswith("redis"):
            return RedisSessionKeys(url=url, namespace=settings.namespace, ttl_s=settings.session_ttl_s)
    raise _unknown("SDQUEUE_KEYS_URL", url)


def default_keys_url(store_url: str) -> str:
    """The keys that are beside a store."""
    match _scheme(store_url):
        case "sqlite":
            return f"{store_url}.keys"
        case "file":
            return (path_of(store_url) / "keys").as_uri()
        case "null":
            return "memory://"
    return store_url


def open_locks(settings: Settings) -> LockBackend:
    """The locks of ``SDQUEUE_LOCK_URL``; without one, what fits the store.

    A Redis store is locked in the same Redis, a SQLite store in the folder ``<path>.locks`` beside it, a folder of
    files in its own subfolder ``locks``, and a store that lives in this process by this process.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = settings.lock_url or default_lock_url(settings.store_url)
    match _scheme(url):
        case "memory":
            return AsyncioLockBackend()
        case "file":
            return FileLockBackend(path_of(url))
        case scheme if scheme.startswith("redis"):
            return RedisLockBackend(url=url, namespace=settings.namespace, ttl_s=settings.lock_ttl_s)
    raise _unknown("SDQUEUE_LOCK_URL", url)


def open_worker(
    settings: Settings, agents: AgentFactory | AgentRoutes, *, store: SessionStore, locks: LockBackend
) -> SessionWorker:
    """What serves the sessions, with the limits of the settings.

    Parameters:
        settings: how many sessions are kept in memory, and how much of a conversation.
        agents: what :func:`~sdqueue.load_agents` has found.
        store, locks: where sessions live.
    """
    history: list[MessageLimit] = []
    if settings.history_messages:
        history.append(MessageLimit(settings.history_messages))
    if settings.history_tokens:
        history.append(TokenLimit(settings.history_tokens))
    return SessionWorker(
        agent_factory=agents, store=store, lock_backend=locks, max_sessions=settings.max_sessions, history=history
    )


def open_membership(settings: Settings, *, name: str = "consumer") -> Membership:
    """How the consumers of a pool find each other: in the Redis of the lock, or else of the store.

    Without Redis each is alone, and several share the queues as the broker gives them out.

    Parameters:
        settings: where Redis is.
        name: of the consumer.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = redis_url(settings)
    return Alone(name) if url is None else RedisMembership(topology_of(settings), url, name=name)


def open_delta_log(settings: Settings) -> DeltaLog | None:
    """Where streamed answers are kept: ``SDQUEUE_STREAM_URL``; without it, what fits the store.

    For a Redis store that is the same Redis, on connections of its own; for a SQLite store the database
    ``<path>.streams`` beside it, for a folder of files ``streams.db`` in it. A store that lives in this process has one
    in this process, to be handed to consumers and clients alike; ``null://`` has none. With
    ``SDQUEUE_ENCRYPTION_KEYS`` a log that leaves the process is sealed.

    Returns:
        ``None`` where they are not kept.

    Raises:
        ConfigurationError: the URL cannot be read.
    """
    url = settings.stream_url or _default_stream_url(settings.store_url)
    if not settings.stream_entries:
        return None
    limits = LogLimits(settings.stream_entries, settings.stream_ttl_s)
    match _scheme(url):
        case "null":
            return None
        case "memory":
            return MemoryDeltaLog(limits)
        case "sqlite":
            return _sealed(SQLiteDeltaLog(path_of(url), limits=limits), settings)
        case scheme if scheme.startswith("redis"):
            return _sealed(RedisDeltaLog(url, namespace=settings.namespace, limits=limits), settings)
    raise _unknown("SDQUEUE_STREAM_URL", url)


@asynccontextmanager
async def opened_delta_log(settings: Settings) -> AsyncIterator[DeltaLog | None]:
    """The log of streamed answers for the length of a block, closed at its end."""
    async with AsyncExitStack() as stack:
        log = open_delta_log(settings)
        if log is not None:
            _close_at_end(stack, log)
        yield log


def _sealed(log: DeltaLog, settings: Settings) -> DeltaLog:
    sealer = open_sealer(settings)
    return log if sealer is None else SealedDeltaLog(log, sealer)


def _default_stream_url(store_url: str) -> str:
    match _scheme(store_url):
        case "sqlite":
            return f"{store_url}.streams"
        case "file":
            return f"sqlite:///{path_of(store_url) / 'streams.db'}"
    return store_url


def redis_url(settings: Settings) -> str | None:
    """The Redis that all consumers share, where there is one."""
    urls = (settings.lock_url, settings.store_url)
    return next((url for url in urls if _scheme(url).startswith("redis")), None)


def default_lock_url(store_url: str) -> str:
    """The lock that fits a store."""
    match _scheme(store_url):
        case "sqlite":
            return path_of(store_url).absolute().with_name(f"{path_of(store_url).name}.locks").as_uri()
        case "file":
            return (path_of(store_url) / "locks").as_uri()
        case scheme if scheme.startswith("redis"):
            return store_url
    return "memory://"


@asynccontextmanager
async def opened_sessions(settings: Settings) -> AsyncIterator[tuple[SessionStore, LockBackend]]:
    """The store and its locks for the length of a block, closed at its end."""
    async with AsyncExitStack() as stack:
        store = open_store(settings)
        _close_at_end(stack, store)
        locks = open_locks(settings)
        _close_at_end(stack, locks)
        yield store, locks


def path_of(url: str) -> Path:
    """The path of a ``sqlite:`` or ``file:`` URL."""
    scheme, _, rest = url.partition("://")
    return Path(unquote(rest)) if scheme == "file" else Path(rest.removeprefix("/"))


def _close_at_end(stack: AsyncExitStack, backend: object) -> None:
    # Closing is not part of the protocols: what a user brings may have nothing to close.
    close = getattr(backend, "aclose", None)
    if close is not None:
        stack.push_async_callback(_close, close)


async def _close(close: Callable[[], Awaitable[None]]) -> None:
    with suppress(TimeoutError):  # a server that does not answer: what is not given back ends with the process
        async with asyncio.timeout(CLOSE_S):
            await close()


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _parent_made(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"SDQUEUE_BROKER_URL: cannot make the folder {str(path.parent)!r}: {error}") from None
    return path


def _unknown(setting: str, url: str) -> ConfigurationError:
    return ConfigurationError(f"{setting}: no backend for {mask(url)!r}; `sdqueue settings` says which there are")
