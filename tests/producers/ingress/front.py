"""A channel for the tests, an ingress that serves it on 127.0.0.1, and raw requests to that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from sdqueue_producers import (
    Answer,
    BaseChannel,
    Caps,
    MemoryState,
    Outgoing,
    ProducerObserver,
    ProducerState,
    Receipt,
    Request,
    Sent,
    Submit,
    refusal,
)
from sdqueue_producers.ingress import Ingress, IngressOptions
from sdqueue_producers.process import WebServer
from starlette.responses import PlainTextResponse

from sdqueue.brokers import Broker, Delivery, MemoryBroker, Topology
from sdqueue.client import Client
from sdqueue.errors import InvalidTurn
from sdqueue.messages import InboundTurn


class Chat(BaseChannel):
    """Takes ``{"turns": [{"session": …, "id": …, "text": …}], "aliases": […]}``."""

    name = "chat"
    paths: Sequence[str] = ("/chat", "/chat/{room}")

    def __init__(self, caps: Caps | None = None) -> None:
        self.caps = Caps(ack_deadline_s=60.0) if caps is None else caps
        self.requests: list[Request] = []
        self.typed: list[tuple[Any, bool]] = []
        self.typing_done: Callable[[], None] = lambda: None
        self.answer: Answer | None = None
        self.before: Callable[[Request], Awaitable[None]] | None = None
        self.listener: Callable[[Submit], Awaitable[None]] | None = None

    async def receive(self, request: Request) -> Receipt:
        self.requests.append(request)
        if self.before is not None:
            await self.before(request)
        try:
            said = json.loads(request.body)
            turns = tuple(turn(**fields) for fields in said["turns"])
        except (ValueError, KeyError, TypeError, InvalidTurn):
            return refusal(400, "not-json", "the body must be JSON")
        return Receipt(
            turns,
            on_ok=PlainTextResponse("kept"),
            on_fail=PlainTextResponse("again", 503),
            aliases=tuple(said.get("aliases", ())),
            answer=self.answer,
        )

    async def listen(self, submit: Submit) -> None:
        if self.listener is not None:
            await self.listener(submit)

    async def deliver(self, address: Any, outgoing: Outgoing) -> Sent:
        return Sent()

    async def typing(self, address: Any, on: bool) -> None:
        self.typed.append((address, on))
        self.typing_done()


def turn(session: str = "s", text: str = "hello", **fields: Any) -> InboundTurn:
    return InboundTurn.make({"session_id": session, "id": "1", "text": text, "channel": "chat", **fields})


def body(*turns: dict[str, Any], aliases: Sequence[str] = ()) -> bytes:
    return json.dumps({"turns": turns or [{}], "aliases": list(aliases)}).encode()


class Seen(ProducerObserver):
    """Keeps all events, as ``(name, fields)``."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        for name in vars(ProducerObserver):
            if not name.startswith("_"):
                setattr(self, name, self._keeper(name))

    def _keeper(self, name: str) -> Callable[..., None]:
        return lambda **fields: self.events.append((name, fields))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for found, fields in self.events if found == name]


class Front:
    """An ingress that is served, and what its broker has got."""

    def __init__(self, ingress: Ingress, server: WebServer, http: httpx.AsyncClient, seen: Seen) -> None:
        self.ingress = ingress
        self.port = server.port
        self.server = server
        self.http = http
        self.seen = seen
        self.broker: Broker
        self.client: Client
        self.turns: list[InboundTurn] = []
        self.deliveries: list[Delivery] = []
        self._arrived = asyncio.Event()

    def take(self, delivery: Delivery) -> None:
        self.turns.append(InboundTurn.decode(delivery.message.body))
        self.deliveries.append(delivery)
        delivery.subscription.ack(delivery)
        self._arrived.set()

    async def got(self, count: int) -> list[InboundTurn]:
        """Wait until the broker has delivered so many turns."""
        async with asyncio.timeout(30):
            while len(self.turns) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.turns

    async def raw(
        self,
        data: bytes,
        *,
        end: bool = False,
        more: Sequence[bytes] = (),
        pause_s: float = 0.0,
        patience_s: float = 30,
    ) -> bytes:
        """Send bytes and read all that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            for piece in more:
                await asyncio.sleep(pause_s)
                writer.write(piece)
                await writer.drain()
            if end:
                writer.write_eof()
            async with asyncio.timeout(patience_s):
                return await reader.read()
        finally:
            writer.close()

    async def status(self, data: bytes, **how: Any) -> int:
        return int((await self.raw(data, **how)).split(b" ", 2)[1])


@asynccontextmanager
async def served(
    *channels: BaseChannel,
    broker: Broker | None = None,
    state: ProducerState | None = None,
    options: IngressOptions | None = None,
    consume: bool = True,
    head_timeout_s: float = 30.0,
    grace_s: float = 5.0,
) -> AsyncIterator[Front]:
    """An ingress on a free port, over a broker (default: in memory), with a consumer that only notes the turns."""
    seen = Seen()
    async with AsyncExitStack() as stack:
        if broker is None:
            broker = await stack.enter_async_context(MemoryBroker(Topology(partitions=4)))
            await broker.apply()
        client = await stack.enter_async_context(Client(broker))
        ingress = Ingress(channels, client, MemoryState() if state is None else state, options, seen)
        await stack.enter_async_context(ingress)
        server = WebServer(ingress.app, host="127.0.0.1", port=0, head_timeout_s=head_timeout_s, grace_s=grace_s)
        await stack.enter_async_context(server)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30))
        front = Front(ingress, server, http, seen)
        front.broker, front.client = broker, client
        if consume:
            for queue in broker.topology.partition_queues:
                subscription = await broker.subscribe(queue, front.take, prefetch=100)
                stack.push_async_callback(subscription.close)
        yield front
