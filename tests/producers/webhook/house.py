"""A whole house in one process: a web server, an ingress and an egress with the webhook, and a pool that answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from sdqueue_producers import MemoryState, ProducerState
from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.ingress import Ingress
from sdqueue_producers.process import WebServer
from sdqueue_producers.webhook import WebhookChannel

from sdqueue import Client, Consumer, MemoryBroker, SessionWorker, Topology
from sdqueue.agents import as_agent_factory
from sdqueue.brokers import Broker
from sdqueue.streaming import DeltaLog, MemoryDeltaLog
from tests.producers.webhook.tools import LEAST, SECRET, make_channel, signed_headers


@dataclass
class Brain:
    """Answers with ``You said: <text>``; ``slow`` ones wait for :attr:`go`, ``stream`` ones come in pieces."""

    turns: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, text: str, history: Any) -> AsyncGenerator[str, None]:
        self.turns.append(text)
        self.began.set()
        if text == "fail":
            raise ValueError("no answer to that")
        pieces = ["You ", "said: ", text]
        for number, piece in enumerate(pieces):
            if text.startswith("slow") and number == len(pieces) - 1:
                await self.go.wait()
            yield piece


@dataclass
class House:
    """What runs, and a client that signs."""

    channel: WebhookChannel
    http: httpx.AsyncClient
    brain: Brain
    state: ProducerState
    broker: Broker
    client: Client

    async def nobody_listens(self) -> None:
        """Wait until the server has heard that whoever waited for a reply on a request has gone."""
        async with asyncio.timeout(30):
            while self.client._questions:
                await asyncio.sleep(0.01)

    async def post(
        self, fields: Any = LEAST, *, endpoint: str = "crm", id_: str = "evt_1", **headers: str
    ) -> httpx.Response:
        """Send a signed message."""
        body = json.dumps(fields).encode()
        signed = signed_headers(body, id_=id_, secret=SECRET, **headers)
        return await self.http.post(f"/webhook/{endpoint}", content=body, headers=signed)

    def events(self, *, endpoint: str = "crm", id_: str = "evt_1", after: str = "") -> Any:
        """Ask for the events of a turn."""
        headers = signed_headers(b"", id_=id_) | ({"last-event-id": after} if after else {})
        return self.http.stream("GET", f"/webhook/{endpoint}/turns/{id_}/events", headers=headers)

    async def status(self, *, endpoint: str = "crm", id_: str = "evt_1") -> httpx.Response:
        """Ask what has become of a turn."""
        return await self.http.get(f"/webhook/{endpoint}/turns/{id_}", headers=signed_headers(b"", id_=id_))

    async def ended(self, *, endpoint: str = "crm", id_: str = "evt_1") -> httpx.Response:
        """Ask until it has ended."""
        async with asyncio.timeout(30):
            while (response := await self.status(endpoint=endpoint, id_=id_)).status_code == 202:
                await asyncio.sleep(0.02)
        return response


@asynccontextmanager
async def house(
    *,
    broker: Broker | None = None,
    state: ProducerState | None = None,
    egress: EgressOptions | None = None,
    log: DeltaLog | None = None,
    pool: bool = True,
    **given: Any,
) -> AsyncIterator[House]:
    """Let it run; ``given`` are the channel's settings, and ``lookup``."""
    brain = Brain()
    state = MemoryState() if state is None else state
    log = MemoryDeltaLog() if log is None else log
    async with AsyncExitStack() as stack:
        if broker is None:
            broker = await stack.enter_async_context(MemoryBroker(Topology(partitions=4)))
            await broker.apply()
        if pool:
            worker = SessionWorker(agent_factory=as_agent_factory(brain.answer))
            await stack.enter_async_context(Consumer(broker, worker, delta_log=log))
        client = await stack.enter_async_context(Client(broker, delta_log=log))
        channel = await stack.enter_async_context(make_channel(state=state, client=client, **given))
        await stack.enter_async_context(Egress(channel, broker, state, egress))
        ingress = await stack.enter_async_context(Ingress([channel], client, state))
        server = WebServer(ingress.app, host="127.0.0.1", port=0, head_timeout_s=10, grace_s=2)
        await stack.enter_async_context(server)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30))
        yield House(channel, http, brain, state, broker, client)
