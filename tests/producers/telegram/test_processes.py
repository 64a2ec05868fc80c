"""Both doors in real processes, on RabbitMQ and Redis, with the producer killed in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from openai import AsyncOpenAI
from sdqueue_producers.state import RedisState

from sdqueue.backends import open_broker
from sdqueue.settings import Settings
from tests.examples.served import consumer, started
from tests.producers.telegram.server import TOKEN, FakeTelegram, message
from tests.servers.process import free_port

pytestmark = pytest.mark.timeout(300)

KEY = "sk-alice-0123456789"


@pytest.fixture
def env(amqp_url: str, redis_url: str, namespace: str, telegram: FakeTelegram) -> dict[str, str]:
    return {
        "SDQUEUE_BROKER_URL": amqp_url,
        "SDQUEUE_STORE_URL": redis_url,
        "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_PARTITIONS": "4",
        "SDQUEUE_PRODUCER_PORT": str(free_port()),
        "SDQUEUE_OPENAI_KEYS": json.dumps({"alice": KEY}),
        "SDQUEUE_TELEGRAM_TOKEN": TOKEN,
        "SDQUEUE_TELEGRAM_MODE": "polling",
        "SDQUEUE_TELEGRAM_API_URL": telegram.url,
        "SDQUEUE_TELEGRAM_POLL_TIMEOUT_S": "1",
        "SDQUEUE_TELEGRAM_STREAM": "false",
    }


async def until(holds: Callable[[], bool], telegram: FakeTelegram) -> None:
    async with asyncio.timeout(60):
        while not holds():
            telegram.changed.clear()
            await telegram.changed.wait()


async def settled(env: dict[str, str], update: int) -> None:
    """Wait until the egress knows that the answer to a message is shown: killed before, it would send it again."""
    state = RedisState(env["SDQUEUE_STORE_URL"], namespace=env["SDQUEUE_NAMESPACE"])
    async with asyncio.timeout(60):
        while await state.get([f"telegram:ended:telegram:bot:{update}"]) == [None]:
            await asyncio.sleep(0.02)
    await state.aclose()


async def queued(env: dict[str, str]) -> None:
    """Wait until a turn waits in one of the partitions."""
    settings = Settings(broker_url=env["SDQUEUE_BROKER_URL"], namespace=env["SDQUEUE_NAMESPACE"], partitions=4)
    async with asyncio.timeout(60), open_broker(settings) as broker:
        while True:
            states = [await broker.queue_state(name) for name in broker.topology.partition_queues]
            if any(state.depth for state in states):
                return
            await asyncio.sleep(0.05)


async def test_messages_are_answered_once_each_and_in_order_though_the_producer_is_killed(
    env: dict[str, str], telegram: FakeTelegram
) -> None:
    """Given a producer that is killed as soon as it has asked for messages, when another one and a consumer come, then
    every message of every chat has one answer, in order, and Telegram keeps nothing back."""
    chats = [7, 8, 9, 10]
    sent = [(chat, f"m{n}") for n in range(5) for chat in chats]
    await telegram.tell(*(message(number, text, chat=chat) for number, (chat, text) in enumerate(sent)))
    producer = ("sdqueue.cli", "producer", "--channels", "telegram")
    async with started(*producer, until=" ready", env=env) as first:
        await asyncio.wait_for(telegram.polled.wait(), 60)
        first.kill()
        await first.wait()
    async with started(*producer, until=" ready", env=env), consumer(env=env):
        await until(lambda: len(telegram.messages) >= len(sent) and not telegram.waiting, telegram)
    for chat in chats:
        answers = [shown.text for shown in telegram.messages.values() if shown.chat == chat]
        assert len(answers) == 5
        assert all(f"m{n}" in answer for n, answer in enumerate(answers)), answers


async def test_openais_client_and_telegram_are_answered_by_one_pool(
    env: dict[str, str], telegram: FakeTelegram
) -> None:
    url = f"http://127.0.0.1:{env['SDQUEUE_PRODUCER_PORT']}/v1"
    producer = ("sdqueue.cli", "producer", "--channels", "openai,telegram")
    async with (
        consumer(env=env),
        started(*producer, until=" ready", env=env) as first,
        AsyncOpenAI(base_url=url, api_key=KEY, max_retries=4) as client,
    ):
        one = await client.responses.create(model="sdqueue", input="my name is Ada")
        stream = await client.chat.completions.create(
            model="sdqueue",
            messages=[{"role": "user", "content": "my name is Bob"}],
            stream=True,
            extra_headers={"X-Session-Id": "b"},
        )
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said)
        await telegram.tell(message(1, "hello"))
        await until(lambda: len(telegram.messages) == 1, telegram)
        await settled(env, 1)
        first.kill()
        await first.wait()
        async with started(*producer, until=" ready", env=env):
            two = await client.responses.create(model="sdqueue", input="what is my name?", previous_response_id=one.id)
            assert "Ada" in two.output_text
            assert (await client.responses.retrieve(one.id)).output_text == one.output_text
            await telegram.tell(message(2, "again"))
            await until(lambda: len(telegram.messages) == 2, telegram)
    assert [shown.chat for shown in telegram.messages.values()] == [7, 7]


async def test_a_question_survives_the_producer_that_took_it(env: dict[str, str]) -> None:
    """Given a producer that is killed between the broker's confirm and the answer, when OpenAI's client asks another
    one by itself, then it gets the answer of the one turn."""
    url = f"http://127.0.0.1:{env['SDQUEUE_PRODUCER_PORT']}/v1"
    producer = ("sdqueue.cli", "producer", "--channels", "openai")
    async with AsyncOpenAI(base_url=url, api_key=KEY, max_retries=20) as client:
        async with started(*producer, until=" ready", env=env) as first:
            asking = asyncio.create_task(client.responses.create(model="sdqueue", input="hello", conversation="c"))
            await queued(env)
            first.kill()
            await first.wait()
        async with started(*producer, until=" ready", env=env), consumer(env=env):
            assert (await asking).output_text.startswith("Message 1 ")
            again = await client.responses.create(model="sdqueue", input="more", conversation="c")
            assert again.output_text.startswith("Message 2 ")
