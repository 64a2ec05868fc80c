"""Whatever interrupts a turn half-way, the session goes on as if that turn had not begun, with every brain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sdqueue.agents import TurnContext, as_agent_factory, as_turn_result, current_turn, set_current_turn
from sdqueue.sessions import InMemorySessionStore, SessionInit, SessionWorker
from tests.agents.brains import bots
from tests.agents.brains.bots import BRAINS, CALLING
from tests.agents.brains.process import build

KEPT = pytest.mark.parametrize("kept", [1000, 0], ids=["warm", "cold"])
"""Whether agents stay in memory between two turns."""


@pytest.fixture(autouse=True)
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    path = str(tmp_path / "checkpoints.db")
    monkeypatch.setenv("BRAINS_DB", path)
    monkeypatch.setattr(bots, "limbo", asyncio.Semaphore(0))
    yield
    if path in bots.connections:
        await bots.connections.pop(path).close()


class Talk:
    """A session with a brain, within one process."""

    def __init__(self, name: str, kept: int) -> None:
        self.name = name
        self.store = InMemorySessionStore()
        self.worker = SessionWorker(agent_factory_ctx=build, store=self.store, max_sessions=kept)

    async def say(self, text: str, *, stream: bool = False, listen: int | None = None) -> str:
        set_current_turn(TurnContext("t", self.name))
        async with self.worker.acquire(self.name, init=SessionInit(self.name)) as handle:
            if not stream:
                return as_turn_result(await handle.turn(text)).text
            said: list[str] = []
            async for chunk in await handle.turn(text, stream=True):
                said.append(chunk.text)
                if len(said) == listen:
                    break
        return "".join(said)

    async def lines(self) -> list[tuple[str, str]]:
        record = await self.store.load(self.name)
        return [(message.role, message.content) for message in record.chat_ctx.items] if record else []


async def undisturbed(name: str, *texts: str) -> tuple[list[str], list[tuple[str, str]]]:
    talk = Talk(name, 1000)
    return [await talk.say(text) for text in texts], await talk.lines()


@KEPT
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CALLING)
async def test_a_turn_whose_tool_fails_leaves_the_session_as_it_was(name: str, kept: int, stream: bool) -> None:
    """It is the tool's own error that comes out, by which is decided whether to try again."""
    expected, lines = await undisturbed(name, "hello", "weather Oslo", "bye")
    talk = Talk(name, kept)

    with pytest.raises(ConnectionError, match="no such place"):
        await talk.say("weather Nowhere", stream=stream)
    said = [await talk.say("hello", stream=stream)]
    with pytest.raises(ConnectionError, match="no such place"):
        await talk.say("weather Nowhere", stream=stream)
    said += [await talk.say(text, stream=stream) for text in ("weather Oslo", "bye")]

    assert said == expected
    assert await talk.lines() == lines


@KEPT
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CALLING)
async def test_a_turn_that_is_cancelled_leaves_the_session_as_it_was(
    name: str, kept: int, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does one whose time is up: to the agent that is the same."""
    expected, lines = await undisturbed(name, "hello", "weather Oslo", "bye")
    monkeypatch.setenv("BRAINS_LIMBO", "1")
    talk = Talk(name, kept)
    said = [await talk.say("hello", stream=stream)]

    turn = asyncio.create_task(talk.say("weather Limbo", stream=stream))
    await bots.limbo.acquire()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    said += [await talk.say(text, stream=stream) for text in ("weather Oslo", "bye")]

    assert said == expected
    assert await talk.lines() == lines


@KEPT
@pytest.mark.parametrize("name", BRAINS)
async def test_what_was_heard_before_the_listener_left_is_part_of_the_conversation(name: str, kept: int) -> None:
    """The model sees the broken answer, and sees it once."""
    talk = Talk(name, kept)
    await talk.say("hello")
    before = await talk.lines()

    heard = await talk.say("more", stream=True, listen=1)
    assert await talk.lines() == [*before, ("user", "more"), ("assistant", heard)]
    answer = await talk.say("bye")

    seen = len(before) + 3 + (name in ("chain", "openai-agents"))  # with the system prompt that the library adds
    assert answer.startswith(f"{seen} messages, ")


@KEPT
@pytest.mark.parametrize("name", BRAINS)
async def test_an_agent_is_assisted(name: str, kept: int) -> None:
    """Before its first turn, between two, and before one that answers a question; it sees each note once."""
    talk = Talk(name, kept)

    async def assist(note: str) -> None:
        async with talk.worker.acquire(name) as handle:
            handle.assist(note)

    await assist("one")
    first = await talk.say("hello")
    await assist("two")
    second = await talk.say("bye")

    prompt = name in ("chain", "openai-agents", "pydantic-ai")
    assert first.startswith(f"{2 + prompt - (name == 'pydantic-ai')} messages, ")  # there as an instruction
    assert second.startswith(f"{5 + prompt} messages, ")
    assert [line for line in await talk.lines() if line[0] == "system" and line[1] != "Be kind."] == [
        ("system", "one"),
        ("system", "two"),
    ]


@pytest.mark.parametrize("name", CALLING)
async def test_tools_see_the_turn_that_they_work_for(name: str) -> None:
    talk = Talk(name, 0)
    assert await talk.say("weather Oslo") == "It is sun in Oslo [t]."
    assert current_turn() == TurnContext("t", name)


@pytest.mark.parametrize("name", BRAINS)
async def test_two_sessions_of_one_object_know_nothing_of_each_other(name: str) -> None:
    one, two = as_agent_factory(BRAINS[name])(), as_agent_factory(BRAINS[name])()
    await one.turn("first")
    await one.turn("second")
    answer = (await two.turn("first")).text
    assert answer == (await as_agent_factory(BRAINS[name])().turn("first")).text
