"""The WebSocket: hello, then messages one way and what the visitor sees the other way, on one connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.websockets import WebSocket, WebSocketDisconnect

from sdqueue.errors import StoreUnavailable
from sdqueue_producers.webchat.access import Access, parse
from sdqueue_producers.webchat.feed import Feed, Wake
from sdqueue_producers.webchat.intake import Conversation, Intake, Said, largest
from sdqueue_producers.webchat.presence import Presence
from sdqueue_producers.webchat.problem import Problem
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.tail import Tail

HELLO_S: Final = 10.0
"""Seconds that a client may take to say who it is."""

CLOSE_S: Final = 2.0
"""Seconds that a client may take to hear why it is cut off."""

CODES: Final[Mapping[int, int]] = {
    400: 4400,
    401: 4401,
    403: 4403,
    408: 4408,
    413: 1009,
    415: 1003,
    429: 4429,
    503: 1013,
}
"""Close codes, by the status that the same problem has over HTTP."""


class Hello(BaseModel):
    """The first message of a client."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["hello"]
    token: str
    after: str | None = Field(default=None, max_length=64)
    conversation: Conversation = ""


class _Kind(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["message", "ping"]


class _Gone(Exception):  # not an error: the client has left
    """The client has left."""


class SocketDoor:
    """Serves WebSockets.

    Parameters:
        settings: limits.
        access: who may.
        feed: what visitors see.
        intake: takes their messages.
        presence: how many there are.
    """

    def __init__(
        self, settings: WebchatSettings, access: Access, feed: Feed, intake: Intake, presence: Presence
    ) -> None:
        self._settings = settings
        self._access = access
        self._feed = feed
        self._intake = intake
        self._presence = presence

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from handshake to close."""
        with ExitStack() as stack, ExitStack() as unknown:
            try:
                self._access.check_origin(socket)
                stack.enter_context(self._presence.connection())
                unknown.enter_context(self._presence.waiting())
            except Problem as problem:
                # Before the handshake is answered: with the extension of ASGI the client gets status and reason.
                await _deny(socket, problem)
                return
            await socket.accept()
            connection = _Connection(socket, self._settings.send_timeout_s, largest(self._settings))
            try:
                await self._converse(connection, unknown)
            except* _Gone:
                pass
            except* Problem as group:
                await connection.close(_first(group))

    async def _converse(self, connection: _Connection, unknown: ExitStack) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                hello = parse(await connection.receive(), Hello)
        except TimeoutError:
            raise Problem(408, "no-hello", f"say hello within {HELLO_S:g} s") from None
        known = self._access.read(hello.token)
        unknown.close()
        session_id = known.visitor.session_id(hello.conversation)
        tail = Tail(self._feed, session_id, hello.after)
        with self._presence.of(session_id), self._feed.watch(session_id) as wake:
            await connection.send(
                {"type": "welcome", "max_chars": self._settings.max_chars, "heartbeat_s": self._settings.heartbeat_s}
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._show(connection, tail, wake))
                tasks.create_task(_expire(known.expires_at))
                await self._listen(connection, hello, known.visitor)

    async def _listen(self, connection: _Connection, hello: Hello, visitor: Any) -> None:
        """Take one message after the other: what a client sends meanwhile waits in the connection."""
        while True:
            data = await connection.receive()
            if parse(data, _Kind).type == "ping":
                await connection.send({"type": "pong"})
                continue
            said = parse(data, Said)
            try:
                await self._intake.take(visitor, hello.conversation, said)
            except Problem as problem:
                await connection.send({"type": "nack", "message": said.id, **problem.fields()})
            else:
                await connection.send({"type": "ack", "message": said.id})

    async def _show(self, connection: _Connection, tail: Tail, wake: Wake) -> None:
        while True:
            try:
                events = await tail.next()
            except StoreUnavailable:
                raise Problem(503, "unavailable", "what was said cannot be read; connect again") from None
            for event in events:
                await connection.send(event)
            if not events and not await wake.wait(self._settings.heartbeat_s):
                # Browsers do not show a page the pings of the protocol; it takes silence for a dead connection.
                await connection.send({"type": "ping"})


class _Connection:
    """Sends and receives, one message at a time, each within its limits."""

    def __init__(self, socket: WebSocket, send_timeout_s: float, largest: int) -> None:
        self._socket = socket
        self._send_timeout_s = send_timeout_s
        self._largest = largest
        self._gate = asyncio.Lock()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; returns when the connection has room for the next one."""
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        try:
            async with asyncio.timeout(self._send_timeout_s), self._gate:
                await self._socket.send_text(text)
        except TimeoutError:
            raise Problem(
                408, "too-slow", f"the client has taken nothing for {self._send_timeout_s:g} s; connect again"
            ) from None
        except (WebSocketDisconnect, RuntimeError) as error:
            raise _Gone from error  # RuntimeError: Starlette's, for a send after the end

    async def receive(self) -> str:
        """The next message."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Gone
        text = message.get("text")
        if text is None:
            raise Problem(415, "binary", "send text, not binary frames")
        if len(text) > self._largest or len(text.encode("utf-8", "surrogatepass")) > self._largest:
            raise Problem(413, "too-large", f"a message may have {self._largest} bytes")
        assert isinstance(text, str)
        return text

    async def close(self, problem: Problem) -> None:
        """Say why, as far as the client listens, and end the connection."""
        code = CODES.get(problem.status, 1011)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code, problem.reason)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            return  # it is gone, or takes nothing: the server cuts the connection when this returns


async def _expire(expires_at: float) -> None:
    await asyncio.sleep(max(0.0, expires_at - time.time()))
    raise Problem(401, "expired-token", "the visitor token has expired; connect with another one")


async def _deny(socket: WebSocket, problem: Problem) -> None:
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(problem.response())
    else:
        await socket.close(CODES.get(problem.status, 1011), problem.reason)


def _first(group: BaseExceptionGroup[Problem]) -> Problem:
    """The problem that ended a connection; others were consequences."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Problem)
    return error
