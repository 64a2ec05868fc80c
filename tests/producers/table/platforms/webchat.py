"""The web chat: one WebSocket for each visitor, opened again from the last event seen."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import aiohttp

from tests.producers.table.platforms.platform import Platform, pause

SECRET: Final = "s3cret-that-signs-visitor-tokens-0001"
BACKEND: Final = "bearer-secret-of-the-backend-00000001"

ACK_S: Final = 5.0
"""Seconds after which a page takes its connection for dead."""


class WebChat(Platform):
    """Visitors whose page sends a message until its ack, and shows every event with an id, whatever it shows already.

    The connection of a visitor is cut now and then; the events go on where they were.
    """

    name = "webchat"
    channel = "webchat"
    sessions = "webchat:main:"

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(url, chance)
        self._visitors: dict[int, _Visitor] = {}
        self._tasks: asyncio.TaskGroup

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(self._leave)

    def _leave(self) -> None:
        for visitor in self._visitors.values():
            visitor.leave()

    def settings(self) -> Mapping[str, str]:
        return {
            "SDQUEUE_WEBCHAT_SECRETS": SECRET,
            "SDQUEUE_WEBCHAT_BACKEND_SECRETS": BACKEND,
            "SDQUEUE_WEBCHAT_MESSAGES_PER_MINUTE": "100000",
            "SDQUEUE_WEBCHAT_STREAM": "false",
        }

    async def send(self, conversation: int, number: int) -> bool:
        if conversation not in self._visitors:
            self._visitors[conversation] = _Visitor(self, conversation)
            self._visitors[conversation].come(self._tasks)
        return await self._visitors[conversation].say(self.mark(conversation, number))


class _Visitor:
    """A visitor and the connection of the moment."""

    def __init__(self, chat: WebChat, number: int) -> None:
        self._chat = chat
        self._number = number
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._acks: dict[str, asyncio.Future[bool]] = {}
        self._after: str | None = None
        self._task: asyncio.Task[None] | None = None

    def come(self, tasks: asyncio.TaskGroup) -> None:
        """Stay connected until told to leave."""
        self._task = tasks.create_task(self._stay())

    def leave(self) -> None:
        """Go away."""
        if self._task is not None:
            self._task.cancel()

    async def say(self, mark: str) -> bool:
        """Send a message, and wait for its ack."""
        socket = self._socket
        if socket is None:
            return False
        ack = self._acks[mark] = asyncio.get_running_loop().create_future()
        try:
            await socket.send_json({"type": "message", "id": mark.replace(".", "-"), "text": f"say {mark}"})
            if self._chat.chance.random() < 0.05:
                await socket.close()
                return False
            async with asyncio.timeout(ACK_S):
                return await ack
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False

    async def _stay(self) -> None:
        headers = {"Authorization": f"Bearer {BACKEND}", "content-type": "application/json"}
        token = ""
        while True:
            try:
                if not token:
                    body = json.dumps({"visitor": str(self._number)}).encode()
                    status, told = await self._chat.post("/webchat/token", body, headers)
                    token = told["token"] if status in (200, 201) else ""
                if token:
                    async with self._chat.http.ws_connect(f"{self._chat.url}/webchat/socket") as socket:
                        await self._read(socket, token)
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                pass
            self._lose()
            await pause(0.1)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, token: str) -> None:
        await socket.send_json({"type": "hello", "token": token, "after": self._after})
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            self._take(json.loads(message.data), socket)

    def _take(self, event: dict[str, Any], socket: aiohttp.ClientWebSocketResponse) -> None:
        if event["type"] == "welcome":
            self._socket = socket
        if "id" in event:
            self._after = event["id"]
        if event["type"] in ("ack", "nack"):
            ack = self._acks.get(event["message"].replace("-", "."))
            if event["type"] == "nack" and event.get("error") not in ("unavailable", "not-accepted"):
                self._chat.strange.append(f"visitor {self._number} got {event}")
            if ack is not None and not ack.done():
                ack.set_result(event["type"] == "ack")
        if event["type"] in ("final", "error"):
            self._chat.show(self._number, event["text"])

    def _lose(self) -> None:
        self._socket = None
        for ack in self._acks.values():
            if not ack.done():
                ack.set_result(False)
