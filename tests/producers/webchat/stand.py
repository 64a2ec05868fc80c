"""A web chat on a free port of this machine, whose turns go to the test, which also answers them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import aiohttp
import uvicorn
from sdqueue_producers import ChannelContext, MemoryState, Outgoing, ProducerState, Receipt
from sdqueue_producers.webchat import WebchatChannel, WebchatSettings
from sdqueue_producers.webchat.feed import Feed, FeedLimits, MemoryFeed
from starlette.applications import Starlette

from sdqueue.client import Client
from sdqueue.messages import InboundTurn, OutboundReply, ReplyKind
from sdqueue.settings import Settings

SECRET = "s3cret-that-signs-visitor-tokens-0001"
BACKEND = "bearer-secret-of-the-backend-00000001"


class Core:
    """Takes turns as the core does: a repeat is known, and where the broker does not confirm the test says so."""

    def __init__(self) -> None:
        self.turns: list[InboundTurn] = []
        self.arrived = asyncio.Queue[InboundTurn]()
        self.failures: list[Exception] = []

    async def submit(self, receipt: Receipt) -> None:
        if self.failures:
            raise self.failures.pop(0)
        for turn in receipt.turns:
            if all(turn.id != known.id for known in self.turns):
                self.turns.append(turn)
                self.arrived.put_nowait(turn)


class Site:
    """The web chat and how a test talks to it."""

    def __init__(self, channel: WebchatChannel, core: Core, base: str, http: aiohttp.ClientSession) -> None:
        self.channel = channel
        self.core = core
        self.base = base
        self.http = http

    async def token(self, visitor: str = "ann", **fields: Any) -> str:
        """A token of a named visitor, as the backend gets it."""
        headers = {"Authorization": f"Bearer {BACKEND}"}
        async with self.http.post(
            f"{self.base}/webchat/token", json={"visitor": visitor, **fields}, headers=headers
        ) as answer:
            assert answer.status == 200, await answer.text()
            return cast("str", (await answer.json())["token"])

    async def post(self, token: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Send a message without a socket."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.post(f"{self.base}/webchat/messages", json=fields, headers=headers) as answer:
            return answer.status, await answer.json()

    @asynccontextmanager
    async def socket(self, token: str, **hello: Any) -> AsyncIterator[Visitor]:
        """A WebSocket that has said hello and was welcomed."""
        async with self.http.ws_connect(f"{self.base}/webchat/socket") as ws:
            visitor = Visitor(ws)
            await ws.send_json({"type": "hello", "token": token, **hello})
            welcome = await visitor.next()
            assert welcome["type"] == "welcome", welcome
            yield visitor

    @asynccontextmanager
    async def events(self, token: str, **headers: str) -> AsyncIterator[Events]:
        """An event stream."""
        headers = {"Authorization": f"Bearer {token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        async with self.http.get(f"{self.base}/webchat/events", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            yield Events(answer)

    async def answer(self, turn: InboundTurn, text: str, kind: ReplyKind = "final") -> None:
        """Deliver the reply that ends a turn, as the egress does."""
        await self.channel.deliver(turn.address, Outgoing(reply_to(turn, text, kind), text))


class Visitor:
    """One WebSocket."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def next(self, *, skip: tuple[str, ...] = ("ping",)) -> dict[str, Any]:
        """What comes next; a close is ``{"closed": code}``."""
        async with asyncio.timeout(30):
            while True:
                message = await self.ws.receive()
                if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                    # aiohttp forgets the code where the other side is gone before its own close has arrived there.
                    code = message.data if message.type is aiohttp.WSMsgType.CLOSE else self.ws.close_code
                    return {"closed": code, "type": "closed", "reason": message.extra}
                event = cast("dict[str, Any]", json.loads(message.data))
                if event["type"] not in skip:
                    return event

    async def some(self, count: int) -> list[dict[str, Any]]:
        return [await self.next() for _ in range(count)]

    async def say(self, text: str, id: str = "m1") -> None:  # noqa: A002
        await self.ws.send_json({"type": "message", "id": id, "text": text})


class Events:
    """One event stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._text = ""

    async def part(self) -> dict[str, str]:
        """The next event or comment, by field."""
        async with asyncio.timeout(30):
            while "\n\n" not in self._text:
                data = await self.answer.content.readany()
                if not data:
                    return {"end": ""}
                self._text += data.decode()
        part, _, self._text = self._text.partition("\n\n")
        fields = (line.partition(": ") for line in part.split("\n"))
        return {name: value for name, _, value in fields}

    async def next(self) -> dict[str, Any]:
        """The data of the next event."""
        while True:
            part = await self.part()
            if "data" in part or "end" in part:
                return {**json.loads(part.get("data", "{}")), "sse": part}


class Server:
    """Serves an ASGI app on a free port of 127.0.0.1 for the length of a block."""

    def __init__(self, app: Starlette, **config: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        # No pings: a client of the tests answers them only while it reads, and would be cut off for it.
        config = {
            "log_level": "error", "timeout_graceful_shutdown": 1, "lifespan": "off", "access_log": False,
            "ws_ping_interval": None, **config,
        }  # fmt: skip
        self._server = uvicorn.Server(uvicorn.Config(app, **config))
        self._server.capture_signals = _no_signals  # type: ignore[method-assign,assignment]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        await self._task
        self._socket.close()


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def settings_of(**fields: Any) -> WebchatSettings:
    return WebchatSettings.load(**{"secrets": SECRET, "backend_secrets": BACKEND} | fields)


def channel_of(
    feed: Feed, state: ProducerState, settings: WebchatSettings, request_timeout_s: float = 30.0
) -> WebchatChannel:
    general = Settings(broker_url="memory://", store_url="memory://", request_timeout_s=request_timeout_s)
    return WebchatChannel(settings, ChannelContext(general, state, cast("Client", None)), feed)


@asynccontextmanager
async def web_chat(
    feed: Feed | None = None,
    state: ProducerState | None = None,
    core: Core | None = None,
    request_timeout_s: float = 30.0,
    **fields: Any,
) -> AsyncIterator[Site]:
    """A web chat; ``fields`` are settings."""
    settings = settings_of(**fields)
    limits = FeedLimits(settings.feed_entries, settings.feed_ttl_s)
    core = core or Core()
    feed, state = feed or MemoryFeed(limits), state or MemoryState()
    async with channel_of(feed, state, settings, request_timeout_s) as channel:
        app = Starlette(routes=list(channel.routes(core.submit)))
        async with Server(app) as server, aiohttp.ClientSession() as http:
            yield Site(channel, core, f"http://127.0.0.1:{server.port}", http)


def reply_to(turn: InboundTurn, text: str, kind: ReplyKind = "final", number: str = "0") -> OutboundReply:
    return OutboundReply(
        id=f"{turn.id}:{number}",
        turn_id=turn.id or "",
        session_id=turn.session_id,
        seq=1,
        kind=kind,
        text=text,
        channel="webchat",
        address=turn.address,
    )
