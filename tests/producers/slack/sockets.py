"""FakeSockets: Slack's side of Socket Mode on 127.0.0.1, which gives out envelopes until they are acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web


class FakeSockets:
    """Used as ``async with FakeSockets() as sockets``; ``apps.connections.open`` is to answer with its ``url``."""

    def __init__(self) -> None:
        self.url = ""
        self.connections: list[web.WebSocketResponse] = []
        self.tickets: list[str] = []
        self.acknowledged: list[str] = []
        self.greet = True
        self._changed = asyncio.Condition()
        self._numbers = itertools.count(1)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/link", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"ws://{host}:{port}/link"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self.connections:
            await connection.close()
        assert self._runner is not None
        await self._runner.cleanup()

    def envelope(self, payload: dict[str, Any], kind: str = "events_api") -> dict[str, Any]:
        """A new envelope around a payload."""
        return {
            "type": kind,
            "envelope_id": f"envelope-{next(self._numbers)}",
            "payload": payload,
            "accepts_response_payload": kind != "events_api",
            "retry_attempt": 0,
            "retry_reason": "",
        }

    async def give(self, envelope: dict[str, Any], connection: int = -1) -> None:
        """Send it over a connection, the newest unless told."""
        await self.connections[connection].send_json(envelope)

    async def disconnect(self, connection: int = -1, reason: str = "refresh_requested") -> None:
        """Tell a client to come again, as Slack does every few hours."""
        await self.connections[connection].send_json({"type": "disconnect", "reason": reason, "debug_info": {}})

    async def cut(self, connection: int = -1) -> None:
        """End a connection without a word."""
        transport = self.connections[connection]._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something has become true."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(true)

    async def connected(self, times: int) -> None:
        """Wait until so many connections were made, in all."""
        await self.until(lambda: len(self.connections) >= times)

    async def acks(self, *envelopes: dict[str, Any]) -> None:
        """Wait until these are acknowledged."""
        names = {envelope["envelope_id"] for envelope in envelopes}
        await self.until(lambda: names <= set(self.acknowledged))

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.tickets.append(request.query["ticket"])
        if self.greet:
            await socket.send_json({"type": "hello", "num_connections": 1, "debug_info": {}, "connection_info": {}})
        async with self._changed:
            self.connections.append(socket)
            self._changed.notify_all()
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                async with self._changed:
                    self.acknowledged.append(json.loads(message.data)["envelope_id"])
                    self._changed.notify_all()
        return socket
