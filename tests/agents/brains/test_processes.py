"""A conversation with every brain in one process, and with another process for every turn, each ended by SIGKILL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sdqueue import Client, InMemorySessionStore, SessionWorker, Settings
from sdqueue.agents import TurnContext, as_turn_result, set_current_turn
from sdqueue.backends import opened_sessions
from tests.agents.brains.bots import BRAINS, CALLING, connections
from tests.agents.brains.process import build, serve
from tests.nursery import forked

TEXTS = ["hello", "weather Limbo", "order", "two", "yes", "sales", "weather Rome", "bye"]
"""``order`` makes a graph ask two questions, ``sales`` hands over to another agent."""

KILLED = "weather Limbo"
"""The process is killed while the tool of this turn runs, and the next one has it again."""

STREAMED = {"two", "weather Rome", "bye"}


@asynccontextmanager
async def consumer(environment: dict[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    async with forked(serve, environ=environment) as process:
        assert await process.stdout.readline() == b"ready\n"
        yield process.stdout


async def ask(client: Client, session_id: str, text: str, turn_id: str) -> Any:
    if text not in STREAMED:
        return await client.ask(session_id, text, id=turn_id, timeout=60)
    replies = [reply async for reply in client.stream(session_id, text, id=turn_id, timeout=60)]
    assert "".join(reply.text for reply in replies[:-1]) == replies[-1].text
    return replies[-1]


@pytest.mark.rabbitmq
@pytest.mark.redis
@pytest.mark.timeout(300)
async def test_another_process_for_every_turn_answers_as_one_process_does(
    amqp_url: str, redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies, tool calls, conversation and state are the same, whatever library the brain is of."""
    given = {
        "SDQUEUE_BROKER_URL": amqp_url,
        "SDQUEUE_STORE_URL": redis_url,
        "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_PARTITIONS": "4",
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")} | given
    environment["BRAINS_DB"] = str(tmp_path / "many.db")
    settings = Settings.load(broker_url=amqp_url, store_url=redis_url, namespace=namespace, partitions=4)
    replies: dict[str, list[Any]] = {name: [] for name in BRAINS}

    # When every turn is answered by another process
    for number, text in enumerate(TEXTS):
        if text == KILLED:
            async with (
                consumer(environment | {"BRAINS_LIMBO": "1"}) as output,
                Client.from_settings(settings) as client,
            ):
                for name in CALLING:
                    await client.send(name, text, id=f"{name}-{number}")
                    assert await output.readline() == b"in limbo\n"
        async with consumer(environment), Client.from_settings(settings) as client:
            asked = {name: ask(client, name, text, f"{name}-{number}") for name in BRAINS}
            for name, reply in zip(asked, await asyncio.gather(*asked.values()), strict=True):
                replies[name].append((reply.text, [call.name for call in reply.tool_calls]))

    # And when one process, with one agent a session, answers all
    monkeypatch.setenv("BRAINS_DB", str(tmp_path / "one.db"))
    single = InMemorySessionStore()
    worker = SessionWorker(agent_factory_ctx=build, store=single)
    expected: dict[str, list[Any]] = {name: [] for name in BRAINS}
    for name in BRAINS:
        for number, text in enumerate(TEXTS):
            set_current_turn(TurnContext(f"{name}-{number}", name))
            async with worker.acquire(name) as handle:
                result = as_turn_result(await handle.turn(text))
            expected[name].append((result.text, [call.name for call in result.tool_calls]))

    await connections.pop(str(tmp_path / "one.db")).close()

    # Then
    assert replies == expected
    async with opened_sessions(settings) as (store, _):
        for name in BRAINS:
            one, many = await single.load(name), await store.load(name)
            assert one is not None
            assert many is not None
            assert many.chat_ctx == one.chat_ctx
            assert comparable(many.agent_state) == comparable(one.agent_state)
    for name in ("remembering", "stored"):
        assert replies[name][2:5] == [("How many?", []), ('{"sure":"two"}', []), ("visit 3: two, yes", [])]
    assert replies["openai-agents"][5][1] == ["transfer_to_sales"]
    for name in CALLING:
        for number, city in ((1, "Limbo"), (6, "Rome")):
            assert replies[name][number] == (f"It is sun in {city} [{name}-{number}].", ["weather"])


def comparable(state: Any) -> Any:
    """Without what differs from run to run: threads, checkpoints and ids of questions are made up by the library."""
    if isinstance(state, dict):
        return {k: comparable(v) for k, v in state.items() if k not in ("thread_id", "checkpoint_id", "data")}
    return [comparable(each) for each in state] if isinstance(state, list) else state
