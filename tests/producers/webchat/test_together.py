"""Ingress, web chat, consumer and egress together, in one process on memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from sdqueue_producers import ChannelContext, MemoryState
from sdqueue_producers.egress import Egress
from sdqueue_producers.ingress import Ingress
from sdqueue_producers.webchat import WebchatChannel
from sdqueue_producers.webchat.feed import MemoryFeed

from sdqueue import Client, Consumer, MemoryBroker, SessionWorker, Settings, Topology
from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, TurnResult
from tests.producers.webchat.stand import Core, Server, Site, settings_of


class Talker:
    """Answers in three pieces."""

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult | AsyncIterator[StreamChunk]:
        self.chat_ctx.append(ChatMessage("user", text))
        if text == "fail":
            raise ValueError("as the test wants it")
        return self._pieces(text) if stream else TurnResult(f"You said {text}")

    async def _pieces(self, text: str) -> AsyncIterator[StreamChunk]:
        for piece in ("You ", "said ", text):
            yield StreamChunk(piece)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    topology, state, general = (
        Topology("t", partitions=2),
        MemoryState(),
        Settings(broker_url="memory://", store_url="memory://"),
    )
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(MemoryBroker(topology))
        await broker.apply()
        client = await stack.enter_async_context(Client(broker))
        channel = WebchatChannel(settings_of(), ChannelContext(general, state, client), MemoryFeed())
        await stack.enter_async_context(channel)
        await stack.enter_async_context(Consumer(broker, SessionWorker(agent_factory=Talker)))
        await stack.enter_async_context(Egress(channel, broker, state))
        ingress = await stack.enter_async_context(Ingress([channel], client, state))
        server = await stack.enter_async_context(Server(ingress.app))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Site(channel, Core(), f"http://127.0.0.1:{server.port}", http)


async def test_a_conversation_over_the_whole_way(site: Site) -> None:
    """Each message is one turn and has one answer, in order, whichever door it came by and however often."""
    token = await site.token()
    async with site.socket(token) as visitor, site.events(token) as events:
        for n in range(5):
            for _ in range(2):
                await visitor.say(f"number {n}", f"m{n}")
                assert (await site.post(token, id=f"m{n}", text=f"number {n}"))[0] == 200
        seen: list[str] = []
        while len(seen) < 10:
            event = await visitor.next()
            assert event["type"] in ("ack", "message", "typing", "partial", "final")
            seen += [event["text"]] if event["type"] in ("message", "final") else []
        assert [text for text in seen if text.startswith("You")] == [f"You said number {n}" for n in range(5)]
        assert [text for text in seen if text.startswith("num")] == [f"number {n}" for n in range(5)]
        kinds = [(await events.next())["type"] for _ in range(10)]
        assert "message" in kinds
    async with site.socket(token) as visitor:
        whole = []
        while len(whole) < 10:
            event = await visitor.next()
            whole += [event] if event["type"] in ("message", "final") else []
        assert len({event["message"] for event in whole}) == 10


async def test_a_dead_turn_is_an_error_that_is_shown(site: Site) -> None:
    async with site.socket(await site.token()) as visitor:
        await visitor.say("fail")
        while (event := await visitor.next())["type"] != "error":
            assert event["type"] in ("ack", "message", "typing")
        assert event["text"]
        await visitor.say("go on", "m2")
        while (event := await visitor.next())["type"] != "final":
            pass
        assert event["text"] == "You said go on"


async def test_bad_input_is_refused_through_the_whole_ingress_too(site: Site) -> None:
    for path in ("token", "messages"):
        async with site.http.post(f"{site.base}/webchat/{path}", data=b"{") as answer:
            assert answer.status in (400, 401, 415)
            assert (await answer.json())["detail"]
    async with site.http.put(f"{site.base}/webchat/messages") as answer:
        assert answer.status == 405
    headers = {"Authorization": f"Bearer {await site.token()}", "Content-Type": "application/json"}
    async with site.http.post(f"{site.base}/webchat/messages", data=b"x" * 200_000, headers=headers) as answer:
        assert answer.status == 413
