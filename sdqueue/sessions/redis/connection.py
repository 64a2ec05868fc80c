"""Link: a Redis URL, or a client of the application's own, as something that takes commands in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from sdqueue.errors import ConfigurationError, StoreUnavailable
from sdqueue.tls import advice
from sdqueue.urls import mask

Command = tuple[Any, ...]

_log: Final = logging.getLogger(__name__)

CONNECTION_ERRORS: Final = (redis_errors.RedisError, redis_errors.RedisClusterException, OSError)
"""All that redis-py raises; ``TimeoutError`` is an ``OSError``."""
TIMEOUT_S: Final = 5.0
"""How long Redis may take to accept a connection, and to answer a batch."""

UNBOUNDED: Final = 2**31
"""Connections of a process, where the URL has no ``max_connections``: as many as it needs. redis-py 8 has 100."""


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise ValueError("must be true or false")
    return value.lower() in ("true", "yes", "1")


_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "max_connections": int,
    "client_name": str,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": _flag,
    "sentinel_username": str,
    "sentinel_password": str,
}
_WITH_SENTINELS: Final = ("protocol", "socket_connect_timeout", "retry")
"""What connections to Sentinels have of those to Redis, besides TLS."""
_SCHEMES: Final = frozenset(
    f"redis{tls}{kind}" for tls in ("", "s") for kind in ("", "+cluster", "+sentinel")
)  # fmt: skip


class Link(Protocol):
    """A way to a Redis service."""

    url: str
    """For people, with the password masked."""
    timeout_s: float

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands as one pipeline. Each has its reply or its exception at its place; nothing is sent twice."""
        ...

    def subscriber(self) -> AbstractAsyncContextManager[PubSub]:
        """A subscriber with a connection of its own."""
        ...

    async def aclose(self) -> None:
        """Close what this link has opened."""
        ...


def unavailable(link: Link, error: BaseException) -> StoreUnavailable:
    """The error that callers get for one of redis-py's."""
    if isinstance(error, redis_errors.NoPermissionError):
        failure = StoreUnavailable(
            f"Redis at {link.url} does not let this user do it: {error}; `ACL LOG` has the command and the key, and "
            "deploy/security what each process needs"
        )
        failure.__cause__ = error
        return failure
    if isinstance(error, ResponseError):
        reason = f"refused the command: {error}"
    else:
        reason = f"cannot be reached: {str(error) or type(error).__name__}"
    todo = advice(reason, "check that it runs, that this URL is right, and its log")
    failure = StoreUnavailable(f"Redis at {link.url} {reason}; {todo}. Whether the last write took effect is not known")
    failure.__cause__ = error
    return failure


class StandaloneLink:
    """One Redis primary, named directly or found through Sentinel.

    Parameters:
        client: does the connecting; its own retries and timeouts for commands are not used.
        url: for messages.
        timeout_s: see :data:`TIMEOUT_S`.
        close: what to close at the end besides connections in use.
    """

    def __init__(self, client: Redis, url: str, timeout_s: float, *, close: Sequence[Any] = ()) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._client = client
        self._close = close

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """See :class:`Link`."""
        replies: list[Any] = []
        try:
            # One timeout around the batch: redis-py's own, per reply, costs more than the reply.
            async with asyncio.timeout(timeout_s):
                pool = self._client.connection_pool
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's deprecation decorator
                try:
                    await connection.send_packed_command(b"".join(map(hiredis.pack_command, commands)))
                    for _ in commands:
                        try:
                            replies.append(await connection.read_response(disable_decoding=True))
                        except ResponseError as error:
                            replies.append(error)
                finally:
                    await pool.release(connection)
        except CONNECTION_ERRORS as error:
            replies.extend([error] * (len(commands) - len(replies)))
        return replies

    @asynccontextmanager
    async def subscriber(self) -> AsyncIterator[PubSub]:
        """See :class:`Link`."""
        async with self._client.pubsub() as pubsub:
            yield pubsub

    async def aclose(self) -> None:
        """See :class:`Link`."""
        for part in self._close:
            await part.aclose()


class ClusterLink:
    """A Redis Cluster.

    Parameters:
        client: does the connecting and the routing.
        url: for messages.
        timeout_s: see :data:`TIMEOUT_S`.
        owned: whether to close the client at the end.
    """

    def __init__(self, client: RedisCluster, url: str, timeout_s: float, *, owned: bool) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._client = client
        self._owned = owned
        self._learning = asyncio.Lock()

    async def execute(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """See :class:`Link`. One pipeline a node, and each node fails alone."""
        replies: list[Any] = [None] * len(commands)
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.initialize()
        except CONNECTION_ERRORS as error:
            return [error] * len(commands)
        by_node: dict[str, tuple[ClusterNode, list[PipelineCommand]]] = {}
        keys = [_first_key(command) for command in commands]
        elsewhere = next((key for key in keys if key is not None), b"")  # what has no key goes with the others
        for position, (command, key) in enumerate(zip(commands, keys, strict=True)):
            try:
                slot = self._client.keyslot(elsewhere if key is None else key)
                node = self._client.nodes_manager.get_node_from_slot(slot)
            except CONNECTION_ERRORS as error:
                replies[position] = error
            else:
                by_node.setdefault(node.name, (node, []))[1].append(PipelineCommand(position, *command))
        await asyncio.gather(*(self._ask(node, part, timeout_s, replies) for node, part in by_node.values()))
        if any(isinstance(reply, _LAYOUT_ERRORS) for reply in replies):
            await self._learn_layout(timeout_s)
        return replies

    async def _ask(
        self, node: ClusterNode, commands: list[PipelineCommand], timeout_s: float, replies: list[Any]
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await node.execute_pipeline(commands)
                for command in commands:
                    replies[command.position] = command.result
                    if isinstance(command.result, _REDIRECTIONS):
                        replies[command.position] = await self._redirected(command)
        except CONNECTION_ERRORS as error:
            for command in commands:
                replies[command.position] = error

    async def _redirected(self, command: PipelineCommand) -> Any:
        """The command did not run here: the slot has moved, and redis-py follows it."""
        try:
            return await self._client.execute_command(*command.args)
        except CONNECTION_ERRORS as error:
            return error

    async def _learn_layout(self, timeout_s: float) -> None:
        """Ask the cluster who serves what now, so that the next batch finds a promoted replica."""
        if self._learning.locked():
            return
        async with self._learning:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._client.nodes_manager.initialize()
            except CONNECTION_ERRORS as error:
                # The next batch fails too and reports it to those who wait for it.
                _log.warning("the layout of %s cannot be read: %s", self.url, error)

    @asynccontextmanager
    async def subscriber(self) -> AsyncIterator[PubSub]:
        """See :class:`Link`. Any node will do: a cluster passes messages on to all of them."""
        await self._client.initialize()
        node = self._client.get_random_node()
        pool = ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)
        async with Redis.from_pool(pool) as client, client.pubsub() as pubsub:
            yield pubsub

    async def aclose(self) -> None:
        """See :class:`Link`."""
        if self._owned:
            await self._client.aclose()


_LAYOUT_ERRORS: Final = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    TimeoutError,
    redis_errors.ClusterDownError,
    redis_errors.SlotNotCoveredError,
)
_REDIRECTIONS: Final = (redis_errors.MovedError, redis_errors.AskError, redis_errors.TryAgainError)


def _first_key(command: Command) -> Any | None:
    if len(command) == 1:
        return None
    if command[0] == "XREAD":
        return command[command.index("STREAMS") + 1]
    return command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]


def connect(url: str | None, client: Redis | RedisCluster | None) -> Link:
    """A link by URL, or on a client that the application has already and goes on to own.

    ``redis://[user:password@]host[:port][/db]``, ``redis+cluster://host:port,host:port`` and
    ``redis+sentinel://host:port,host:port/service[/db]``; ``rediss…`` for TLS, to the Sentinels as well. Options in the
    query: the timeouts ``socket_timeout`` and ``socket_connect_timeout`` in seconds, ``max_connections``,
    ``client_name``, redis-py's ``ssl_…``, ``sentinel_username`` and ``sentinel_password``. Nothing is connected yet.

    Raises:
        ConfigurationError: the URL cannot work, or not exactly one of the two is given.
    """
    if (url is None) == (client is None):
        raise ConfigurationError("a Redis store or lock needs either a url or a client")
    if isinstance(client, RedisCluster):
        if client.get_encoder().decode_responses:
            raise ConfigurationError(
                "the Redis Cluster client given decodes responses; make it without decode_responses"
            )
        return ClusterLink(client, "the cluster of the client given", TIMEOUT_S, owned=False)
    if client is not None:
        return StandaloneLink(client, "the address of the client given", TIMEOUT_S)
    assert url is not None
    try:
        return _from_url(url)
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"the Redis URL {mask(url)!r} cannot work: {error}") from None


def _from_url(url: str) -> Link:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"the scheme must be one of {', '.join(sorted(_SCHEMES))}")
    tls, (_, _, kind) = parts.scheme.startswith("rediss"), parts.scheme.partition("+")
    options = _options(parts.query)
    timeout_s = options.pop("socket_timeout", TIMEOUT_S)
    sentinel_options = {k: options.pop(f"sentinel_{k}", None) for k in ("username", "password")}
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    # socket_timeout None: a batch has one timeout of its own, see StandaloneLink.
    # max_connections: everybody who waits for a streamed answer has one.
    options = {
        "protocol": 2, "socket_connect_timeout": TIMEOUT_S, "socket_timeout": None, "socket_keepalive": True,
        "username": unquote(user) or None, "password": unquote(password) or None, "retry": Retry(NoBackoff(), 0),
        "max_connections": UNBOUNDED,
    } | options  # fmt: skip
    path = [unquote(step) for step in parts.path.split("/") if step]

    if kind == "sentinel":
        if not path:
            raise ValueError("it names no service; write redis+sentinel://host:26379/service")
        options |= {"ssl": True} if tls else {}
        shared = {k: v for k, v in options.items() if k in _WITH_SENTINELS or k.startswith("ssl")}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it without types
            _hosts(hosts, 26379),
            sentinel_kwargs=sentinel_options | shared | {"socket_timeout": timeout_s},
            **options,
        )
        client = sentinel.master_for(path[0], db=_database(path[1:]))
        return StandaloneLink(client, mask(url), timeout_s, close=(client, *sentinel.sentinels))
    if kind == "cluster":
        if _database(path):
            raise ValueError("a cluster has no other database than 0")
        nodes = [ClusterNode(host, port) for host, port in _hosts(hosts, 6379)]
        return ClusterLink(
            RedisCluster(startup_nodes=nodes, **options | ({"ssl": True} if tls else {})),
            mask(url),
            timeout_s,
            owned=True,
        )
    ((host, port),) = _hosts(hosts, 6379, most=1)
    if tls:
        options["connection_class"] = SSLConnection
    client = Redis.from_pool(ConnectionPool(host=host, port=port, db=_database(path), **options))
    return StandaloneLink(client, mask(url), timeout_s, close=(client,))


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"it has the option {name!r}; known are {', '.join(_OPTIONS)}")
        try:
            options[name] = _OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"its option {name} has the value {value!r}: {error}") from None
    return options


def _hosts(netloc: str, default_port: int, *, most: int = 100) -> list[tuple[str, int]]:
    found = []
    for address in netloc.split(","):
        part = urlsplit(f"//{address}")
        found.append((part.hostname or "localhost", part.port or default_port))
    if len(found) > most:
        raise ValueError("several hosts need redis+cluster:// or redis+sentinel://")
    return found


def _database(path: list[str]) -> int:
    if not path:
        return 0
    if len(path) > 1 or not path[0].isdecimal():
        raise ValueError(f"its path {'/'.join(path)!r} is no database number")
    return int(path[0])
