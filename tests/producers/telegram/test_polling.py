"""Long polling and webhooks: Telegram forgets a message only when the broker has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sdqueue_producers import MemoryState, Receipt, Submit
from sdqueue_producers.telegram import TelegramChannel, polling

from sdqueue.errors import BrokerUnavailable
from tests.producers.telegram.conftest import SECRET, made
from tests.producers.telegram.server import FakeTelegram, Refusal, message


class Broker:
    """Takes turns as an ingress does: a repeat is dropped, and it may be away."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.away = False
        self.refused = 0
        self._changed = asyncio.Condition()

    async def submit(self, receipt: Receipt) -> None:
        async with self._changed:
            self._changed.notify_all()
            if self.away:
                self.refused += 1
                raise BrokerUnavailable("away")
            self.turns.extend(turn.text for turn in receipt.turns if turn.text not in self.turns)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(holds)


@asynccontextmanager
async def listening(channel: TelegramChannel, submit: Submit) -> AsyncIterator[None]:
    task = asyncio.create_task(channel.listen(submit))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "CONFLICT_WAIT_S", 0.05)
    monkeypatch.setattr(polling, "RENEW_S", 0.05)
    monkeypatch.setattr(polling, "LEASE_S", 0.5)
    monkeypatch.setattr(polling, "MAX_WAIT_S", 0.1)


async def forgotten(telegram: FakeTelegram) -> None:
    async with asyncio.timeout(30):
        while telegram.waiting:
            telegram.polled.clear()
            await telegram.polled.wait()


async def test_messages_are_taken_in_order_and_forgotten_only_when_they_are_confirmed(telegram: FakeTelegram) -> None:
    broker = Broker()
    await telegram.tell(*(message(n, f"m{n}") for n in range(5)))
    async with made(telegram, mode="polling", poll_timeout_s=1) as channel, listening(channel, broker.submit):
        await broker.until(lambda: len(broker.turns) == 5)
        await forgotten(telegram)
        await telegram.tell(message(5, "m5"))
        await broker.until(lambda: len(broker.turns) == 6)
    assert broker.turns == [f"m{n}" for n in range(6)]
    assert telegram.offsets[0] is None


async def test_while_the_broker_is_away_nothing_is_forgotten(telegram: FakeTelegram) -> None:
    broker = Broker()
    broker.away = True
    await telegram.tell(message(1, "m1"), message(2, "m2"))
    async with made(telegram, mode="polling", poll_timeout_s=1) as channel, listening(channel, broker.submit):
        await broker.until(lambda: broker.refused >= 2)
        assert telegram.waiting == [1, 2]
        broker.away = False
        await broker.until(lambda: len(broker.turns) == 2)
        await forgotten(telegram)
    assert broker.turns == ["m1", "m2"]


async def test_an_update_that_is_no_turn_does_not_stop_the_others(telegram: FakeTelegram) -> None:
    broker = Broker()
    await telegram.tell({"update_id": 1, "message": "?"}, {"update_id": 2, "poll": {}}, message(3, "m3"))
    async with made(telegram, mode="polling", poll_timeout_s=1) as channel, listening(channel, broker.submit):
        await broker.until(lambda: broker.turns == ["m3"])
        await forgotten(telegram)


async def test_a_webhook_that_is_set_is_removed_and_a_rival_and_errors_are_outlived(telegram: FakeTelegram) -> None:
    broker = Broker()
    telegram.webhook = {"url": "https://old.example"}
    telegram.fail("getUpdates", Refusal(409, "Conflict: terminated by other getUpdates request"), Refusal(500))
    telegram.fail("getUpdates", "cut before", Refusal(429, "Too Many Requests", retry_after=0))
    await telegram.tell(message(1, "m1"))
    async with made(telegram, mode="polling", poll_timeout_s=1) as channel, listening(channel, broker.submit):
        await broker.until(lambda: broker.turns == ["m1"])
    assert telegram.webhook is None


async def test_of_two_processes_one_polls_and_the_other_takes_over_when_it_stops(telegram: FakeTelegram) -> None:
    state, one, two = MemoryState(clock=lambda: 0.0), Broker(), Broker()  # on which no lease runs out
    async with (
        made(telegram, state, mode="polling", poll_timeout_s=1) as first,
        made(telegram, state, mode="polling", poll_timeout_s=1) as second,
    ):
        async with listening(first, one.submit):
            await telegram.tell(message(1, "m1"))
            await one.until(lambda: one.turns == ["m1"])
            async with listening(second, two.submit):
                await telegram.tell(message(2, "m2"))
                await one.until(lambda: one.turns == ["m1", "m2"])
                await forgotten(telegram)
                assert two.turns == []
        async with listening(second, two.submit):
            await telegram.tell(message(3, "m3"))
            await two.until(lambda: two.turns == ["m3"])
    assert one.turns == ["m1", "m2"]


async def test_who_has_lost_the_lease_gives_way_and_polls_again_when_it_is_free(
    telegram: FakeTelegram, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    state, broker = MemoryState(clock=lambda: now), Broker()
    async with made(telegram, state, mode="polling", poll_timeout_s=1) as channel, listening(channel, broker.submit):
        await telegram.tell(message(1, "m1"))
        await broker.until(lambda: broker.turns == ["m1"])
        await state.set({"telegram:poller:bot": "somebody else"}, ttl_s=0.4)
        async with asyncio.timeout(30):
            while "another process polls" not in caplog.text:
                await asyncio.sleep(0.01)
        now = 1.0
        async with asyncio.timeout(30):
            while (await state.get(["telegram:poller:bot"])) == ["somebody else"]:
                await asyncio.sleep(0.02)
        await telegram.tell(message(2, "m2"))
        await broker.until(lambda: broker.turns == ["m1", "m2"])
    assert await state.get(["telegram:poller:bot"]) == [None]


async def test_with_webhooks_telegram_is_told_where_to_post(telegram: FakeTelegram) -> None:
    telegram.fail("setWebhook", Refusal(500))
    async with made(telegram, public_url="https://bot.example.com/") as channel:
        await channel.listen(Broker().submit)
    assert telegram.webhook == {
        "url": "https://bot.example.com/telegram/bot",
        "secret_token": SECRET,
        "allowed_updates": ["message"],
    }


async def test_without_a_public_address_the_webhook_is_left_alone(telegram: FakeTelegram) -> None:
    async with made(telegram) as channel:
        await channel.listen(Broker().submit)
        assert channel.paths == ("/telegram/{bot}",)
    assert telegram.calls == []
    async with made(telegram, mode="polling") as channel:
        assert channel.paths == ()
