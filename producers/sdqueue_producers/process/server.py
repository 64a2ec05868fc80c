"""WebServer: uvicorn inside a process that has more to do, with its own signals and bounded heads of requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final, Self

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdqueue.errors import ConfigurationError

MAX_HEAD_BYTES: Final = 64 * 1024

SILENT_MS: Final = 60_000
"""Milliseconds after which the kernel cuts a peer that takes nothing: closing waits until what was sent is taken."""


class WebServer:
    """Serves an application while the block lasts.

    Parameters:
        app: an ASGI application.
        host: an address or name to listen on.
        port: 0: any that is free; :attr:`port` tells which.
        head_timeout_s: seconds in which the head of a request must have come whole.
        grace_s: seconds that running requests get at the end.
        max_message_bytes: largest message of a WebSocket.

    Raises (when entered):
        ConfigurationError: the address cannot be had.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        head_timeout_s: float = 10.0,
        grace_s: float = 30.0,
        max_message_bytes: int = 1024 * 1024,
    ) -> None:
        self.host = host
        self.port = port
        self._grace_s = grace_s
        # h11, since the other implementation reads heads without a limit. No lifespan: the caller enters its parts.
        config = uvicorn.Config(
            app, http=_protocol(head_timeout_s), ws="websockets-sansio" if find_spec("websockets") else "none",
            ws_max_size=max_message_bytes, lifespan="off", log_config=None, access_log=False, server_header=False,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES, timeout_graceful_shutdown=None,
            ws_per_message_deflate=False,  # it costs each idle connection memory
        )  # fmt: skip
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        listener = self._bind()
        self.port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="web server")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            self._serving.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, asyncio.CancelledError):
                await self.stop()
        finally:
            await self.cut()

    async def stop(self) -> None:
        """Accept nothing more, and let requests that run end within the grace period. Idempotent."""
        if self._serving is None:
            return
        self._server.should_exit = True
        _, late = await asyncio.wait({self._serving}, timeout=self._grace_s)
        if late:
            await self.cut()
        self._serving.result()

    async def cut(self) -> None:
        """End it at once, whatever runs. Idempotent."""
        if self._serving is None or self._serving.done():
            return
        self._server.should_exit = self._server.force_exit = True
        running = set(self._server.server_state.tasks)
        for task in running:
            task.cancel()
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.wait({self._serving, *running})

    def _bind(self) -> socket.socket:
        try:
            (family, kind, number, _, address), *_ = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            listener = socket.socket(family, kind, number)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections have it from here
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS)
                listener.bind(address)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {self.host} port {self.port}: {error}; choose another with --producer-host and "
                "--producer-port"
            ) from None
        return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when it is done, for which uvicorn has no event."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's."""
        yield


def _protocol(head_timeout_s: float) -> type[asyncio.Protocol]:
    class Protocol(H11Protocol):
        """Gives up on clients that do not bring the head of a request to its end."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._late = self.loop.call_later(head_timeout_s, self._give_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._relax()
            elif self._late is None:
                self._late = self.loop.call_later(head_timeout_s, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _relax(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _give_up(self) -> None:
            self._late = None
            if not self.transport.is_closing():
                self.send_400_response(f"The head of the request did not arrive within {head_timeout_s:g} s.")

    return Protocol
