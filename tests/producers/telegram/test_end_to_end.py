"""From a post of Telegram's to the message in the chat: repeated, out of order, refused and cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from sdqueue_producers import Bucket, MemoryState, ProducerObserver
from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.ingress import Ingress
from sdqueue_producers.process import WebServer
from sdqueue_producers.telegram import TelegramChannel

from sdqueue.agents import MemoAgent
from sdqueue.brokers import MemoryBroker, Topology
from sdqueue.channels import OnAmbiguous
from sdqueue.client import Client
from sdqueue.consumer import Consumer
from sdqueue.sessions import SessionWorker
from tests.producers.telegram.conftest import SECRET, made
from tests.producers.telegram.server import Cut, FakeTelegram, Refusal, message


class Notes(ProducerObserver):
    """Counts what the egress was not sure of, and what became of the turns."""

    def __init__(self) -> None:
        self.ambiguous: list[str] = []
        self.published: list[str] = []
        self.delivered: list[str] = []
        self.dead: list[str] = []
        self.defects: list[str] = []

    def reply_ambiguous(self, *, channel: str, reply_id: str, outcome: str) -> None:
        self.ambiguous.append(outcome)

    def turn_published(self, *, channel: str, session_id: str, turn_id: str) -> None:
        self.published.append(turn_id)

    def reply_delivered(self, *, channel: str, session_id: str, reply_id: str, seconds: float) -> None:
        self.delivered.append(reply_id)

    def reply_dead(self, *, channel: str, reply_id: str, reason: str, error: str) -> None:
        self.dead.append(reason)

    def channel_defect(self, *, channel: str, error: str, trace: str) -> None:
        self.defects.append(trace)


class World:
    """A bot, its pool and its chats."""

    def __init__(self, telegram: FakeTelegram, notes: Notes, http: httpx.AsyncClient) -> None:
        self.telegram = telegram
        self.notes = notes
        self._http = http

    async def post(self, update: dict[str, Any]) -> int:
        response = await self._http.post(
            "/telegram/bot", json=update, headers={"X-Telegram-Bot-Api-Secret-Token": SECRET}
        )
        return response.status_code

    async def until(self, holds: Callable[[], bool], told: Callable[[], str] = str) -> None:
        try:
            async with asyncio.timeout(60):
                while not holds():
                    await asyncio.sleep(0.01)  # several parts change, on either side of HTTP
        except TimeoutError:
            raise AssertionError(f"it did not come to that: {told()}") from None


@asynccontextmanager
async def world(telegram: FakeTelegram, options: EgressOptions | None = None, **settings: Any) -> AsyncIterator[World]:
    notes, state = Notes(), MemoryState()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(MemoryBroker(Topology("telegram", partitions=4)))
        await broker.apply()
        await stack.enter_async_context(Consumer(broker, SessionWorker(agent_factory=MemoAgent)))
        client = await stack.enter_async_context(Client(broker))
        channel = await stack.enter_async_context(made(telegram, state, **settings))
        await stack.enter_async_context(Egress(channel, broker, state, options or EgressOptions(), notes))
        ingress = await stack.enter_async_context(Ingress([channel], client, state, None, notes))
        server = await stack.enter_async_context(WebServer(ingress.app, host="127.0.0.1", port=0, grace_s=1))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False))
        yield World(telegram, notes, http)
    assert notes.defects == []


@pytest.fixture(autouse=True)
def no_pacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate limits have tests of their own; here they would only take time."""
    monkeypatch.setattr(TelegramChannel, "buckets", lambda self, address: [Bucket("all", 10_000, 1.0)])


async def test_updates_that_come_two_to_four_times_and_out_of_order_are_answered_once_each(
    telegram: FakeTelegram,
) -> None:
    rng = random.Random(7)
    updates = [message(number, f"m{number}", chat=number % 5 + 1) for number in range(40)]
    posts = [update for update in updates for _ in range(rng.randint(2, 4))]
    rng.shuffle(posts)
    async with world(telegram) as here:
        for first in range(0, len(posts), 10):
            statuses = await asyncio.gather(*map(here.post, posts[first : first + 10]))
            assert set(statuses) == {200}
        await here.until(lambda: len(here.notes.delivered) == 40)
        assert sorted(here.notes.published) == sorted(f"telegram:bot:{number}" for number in range(40))
    assert len(telegram.messages) == 40
    for chat in range(1, 6):
        answers = [shown.text for shown in telegram.messages.values() if shown.chat == chat]
        # The agent numbers the messages of a session as they took effect: the answers come in this order.
        assert [answer.split()[1] for answer in answers] == [str(n) for n in range(1, 9)]


FAULTS: list[Refusal | Cut] = [
    Refusal(429, "Too Many Requests: retry after 0", retry_after=0),
    Refusal(500),
    Refusal(502, body="<html>"),
    "cut before",
    "cut after",
]


@pytest.mark.parametrize("choice", list(OnAmbiguous))
async def test_with_a_platform_that_fails_each_answer_is_there_once_but_for_the_counted_ones(
    telegram: FakeTelegram, choice: OnAmbiguous
) -> None:
    rng = random.Random(11)
    faults = [rng.choice(FAULTS) for _ in range(15)]
    telegram.fail("sendMessage", *faults)
    telegram.fail("editMessageText", *faults)
    telegram.fail("sendChatAction", *faults)
    async with world(telegram, EgressOptions(on_ambiguous=choice)) as here:
        for number in range(20):
            assert await here.post(message(number, f"m{number}", chat=number % 4 + 1)) == 200
        await here.until(
            lambda: len(here.notes.delivered) == 20,
            lambda: f"{here.notes.__dict__}, {telegram.visible}",
        )
    assert here.notes.dead == []
    texts = [(shown.chat, shown.text) for shown in telegram.messages.values()]
    doubled = len(texts) - len(set(texts))
    missing = 20 - len(set(texts))
    assert here.notes.ambiguous
    assert doubled <= here.notes.ambiguous.count("resent")
    assert missing <= here.notes.ambiguous.count("dropped")
    assert missing == 0 if choice is OnAmbiguous.RESEND else doubled == 0


async def test_who_has_blocked_the_bot_stops_nobody_else(telegram: FakeTelegram) -> None:
    async with world(telegram, stream=False) as here:
        telegram.fail("sendMessage", Refusal(403, "Forbidden: bot was blocked by the user"))
        await here.post(message(1, "m1", chat=1))
        await here.until(lambda: here.notes.dead == ["reply-blocked"])
        await here.post(message(2, "m2", chat=2))
        await here.until(lambda: len(here.notes.delivered) == 1)
    assert [shown.chat for shown in telegram.messages.values()] == [2]


async def test_a_long_answer_comes_in_messages_that_telegram_takes(telegram: FakeTelegram) -> None:
    async with world(telegram) as here:
        text = " ".join(f"word{n}" for n in range(1500))
        await here.post(message(1, text))
        await here.until(lambda: len(here.notes.delivered) == 1)
    assert len(telegram.messages) >= 3
    assert all(len(shown.text) <= 4096 for shown in telegram.messages.values())
    assert " ".join(telegram.visible).endswith(text)
