"""A front door over real HTTP with a pool behind it, whose agent does what a test says."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import AsyncOpenAI
from pydantic import SecretStr
from sdqueue_producers import ChannelContext, MemoryState, ProducerState
from sdqueue_producers.ingress import Ingress, IngressOptions
from sdqueue_producers.openai import OpenAIChannel, OpenAISettings
from sdqueue_producers.process import WebServer

from sdqueue.agents import ChatContext, StreamChunk, TurnResult, current_turn
from sdqueue.brokers import Broker, MemoryBroker, Topology
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.consumer.retry import RetryPolicy
from sdqueue.sessions import SessionWorker
from sdqueue.settings import Settings

ALICE, BOB = "sk-alice-0123456789", "sk-bob-01234567890"


class Brain:
    """What all agents of a pool know, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.metadata: list[dict[str, Any]] = []
        self.go_on = asyncio.Event()
        self.speaking = asyncio.Event()
        self.starts: dict[str, int] = defaultdict(int)

    def agent(self) -> Agent:
        return Agent(self)

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.asked]


class Agent:
    """Answers with the number of the message in its session; some words make it do something else."""

    def __init__(self, brain: Brain) -> None:
        self._brain = brain
        self._heard = 0
        self.chat_ctx = ChatContext()

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    def dump_state(self) -> int:
        return self._heard

    def load_state(self, heard: int) -> None:
        self._heard = heard

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        turn = current_turn()
        assert turn is not None
        self._brain.asked.append((turn.session_id, text))
        self._brain.metadata.append(dict(turn.metadata))
        self._brain.starts[turn.turn_id] += 1
        start = self._brain.starts[turn.turn_id]
        self._heard += 1
        match text:
            case "fail":
                raise ValueError("a secret inside")
            case "wait":
                self._brain.speaking.set()
                await self._brain.go_on.wait()
            case "spend":
                usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
                return TurnResult("spent", metadata={"usage": usage})
            case "stumble" if stream:
                return self._pieces(["one ", "two "] if start == 1 else ["one ", "two ", "three"], fails=start == 1)
            case "differ" if stream:
                return self._pieces(["one ", "two "] if start == 1 else ["uno ", "dos"], fails=start == 1)
            case "break" if stream:
                return self._pieces(["first ", ""], hold=1, breaks=True)
            case "hold" if stream:
                return self._pieces(["first ", "second ", "third"], hold=1)
        answer = f"{self._heard}: {text}"
        if stream:
            return self._pieces([f"{self._heard}: ", *[f"{word} " for word in text.split()[:-1]], text.split()[-1]])
        return answer

    async def _pieces(
        self, pieces: list[str], *, fails: bool = False, hold: int = 0, breaks: bool = False
    ) -> AsyncIterator[StreamChunk]:
        for number, piece in enumerate(pieces):
            if hold and number == hold:
                self._brain.speaking.set()
                await self._brain.go_on.wait()
                if breaks:
                    raise ValueError("a secret inside")
            yield StreamChunk(piece)
        if fails:
            raise ConnectionError("the model is away")
        yield StreamChunk(done=True, turn=TurnResult("".join(pieces)))


@dataclass
class Front:
    """A served front door.

    Parameters:
        url: of the server.
        channel: behind it.
        brain: of the pool.
        broker: between them.
        asker: what asks the pool.
    """

    url: str
    channel: OpenAIChannel
    brain: Brain
    broker: Broker
    http: httpx.AsyncClient
    asker: Client
    clients: list[AsyncOpenAI] = field(default_factory=list)

    def client(self, key: str = ALICE, **options: Any) -> AsyncOpenAI:
        """OpenAI's own client; it is closed with the server."""
        client = AsyncOpenAI(**({"base_url": f"{self.url}/v1", "api_key": key, "max_retries": 0} | options))
        self.clients.append(client)
        return client

    async def chat(self, text: str, session: str = "s", *, key: str = ALICE, **headers: str) -> httpx.Response:
        """One question, without OpenAI's client."""
        return await self.http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": text}]},
            headers={"Authorization": f"Bearer {key}", "X-Session-Id": session}
            | {name.replace("_", "-"): value for name, value in headers.items()},
        )


def settings(**given: Any) -> OpenAISettings:
    """With two keys."""
    return OpenAISettings(**({"keys": {"alice": SecretStr(ALICE), "bob": SecretStr(BOB)}} | given))


@asynccontextmanager
async def front_door(
    *,
    pool: bool = True,
    broker: Broker | None = None,
    state: ProducerState | None = None,
    worker: Any = None,
    options: IngressOptions | None = None,
    **given: Any,
) -> AsyncIterator[Front]:
    """A front door on a free port; with ``pool`` there is a consumer behind it."""
    brain = Brain()
    async with AsyncExitStack() as stack:
        if broker is None:
            broker = await stack.enter_async_context(MemoryBroker(Topology("openai", partitions=4)))
            await broker.apply()
        if pool:
            retry = RetryPolicy(first_s=0.01, longest_s=0.02)
            made = SessionWorker(agent_factory=brain.agent) if worker is None else worker(brain.agent)
            await stack.enter_async_context(Consumer(broker, made, ConsumerOptions(retry=retry, grace_s=1)))
        client = await stack.enter_async_context(Client(broker))
        state = MemoryState() if state is None else state
        channel = OpenAIChannel(settings(**given), ChannelContext(Settings(), state, client))
        await stack.enter_async_context(channel)
        ingress = await stack.enter_async_context(Ingress([channel], client, state, options))
        server = await stack.enter_async_context(WebServer(ingress.app, host="127.0.0.1", port=0, grace_s=1))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60))
        front = Front(server.url, channel, brain, broker, http, client)
        try:
            yield front
        finally:
            brain.go_on.set()
            for each in front.clients:
                await each.close()


class Cutter:
    """Passes connections on to a server, and cuts the first of them when the answer begins."""

    def __init__(self, url: str, cuts: int = 1) -> None:
        self._port = httpx.URL(url).port
        self._cuts = cuts
        self.connections = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        cut = self.connections <= self._cuts
        there, back = await asyncio.open_connection("127.0.0.1", self._port)

        async def forward() -> None:
            while data := await reader.read(65536):
                back.write(data)
                await back.drain()

        with suppress(OSError):
            forwarding = asyncio.create_task(forward())
            while data := await there.read(65536):
                if cut:
                    break
                writer.write(data)
                await writer.drain()
            forwarding.cancel()
            await asyncio.wait({forwarding})
        for each in (back, writer):
            each.transport.abort()
