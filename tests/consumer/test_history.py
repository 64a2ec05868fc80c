"""Histories are shortened on a turn's own time, and no answer is lost for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sdqueue import MessageLimit, Summary
from sdqueue.agents import ChatMessage
from tests.consumer.acting import Acting
from tests.consumer.stand import Stand

LIMIT = MessageLimit(4)


class Hook:
    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.let_go = asyncio.Event()
        self.deaf = False
        self.error: BaseException | None = None

    async def __call__(self, messages: Sequence[ChatMessage]) -> str:
        self.began.set()
        if self.error is not None:
            raise self.error
        while True:
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise
            else:
                return "too late"


async def _says(stand: Stand, *texts: str, **fields: Any) -> list[str]:
    answers = []
    for text in texts:
        turn = await stand.send("s", text, **fields)
        answers.append((await stand.expect_reply(turn)).text)
    return answers


async def _kept(stand: Stand) -> list[str]:
    return [m.content for m in (await stand.record("s")).chat_ctx.items if m.role == "user"]


async def test_a_history_is_shortened_before_it_is_saved_and_the_agent_sees_that(stand: Stand) -> None:
    async with stand.running(history=[LIMIT]) as member:
        answers = await _says(stand, *"abcdef")
        assert answers == ["1. a", "2. b", "3. c", "2. d", "3. e", "2. f"]
        assert member.watcher.of("history_unshortened") == []
    assert await _kept(stand) == ["e", "f"]


@pytest.mark.parametrize("error", [ConnectionError("away"), asyncio.CancelledError(), SystemExit(3)], ids=repr)
async def test_a_hook_that_fails_is_reported_and_the_turn_is_answered(stand: Stand, error: BaseException) -> None:
    hook = Hook()
    hook.error = error
    async with stand.running(history=[Summary(LIMIT, hook)]) as member:
        assert await _says(stand, *"abc") == ["1. a", "2. b", "3. c"]
        (event,) = member.watcher.of("history_unshortened")
    assert (event["session_id"], event["turn_id"]) == ("s", "t3")
    assert type(error).__name__ in event["error"]
    assert await _kept(stand) == ["a", "b", "c"]
    assert member.watcher.settled == [("t1", "completed"), ("t2", "completed"), ("t3", "completed")]


async def test_past_twice_the_limit_the_oldest_are_dropped_also_where_the_hook_breaks_out(stand: Stand) -> None:
    hook = Hook()
    hook.error = SystemExit(3)
    async with stand.running(history=[Summary(LIMIT, hook)]):
        assert await _says(stand, *"abcdef") == ["1. a", "2. b", "3. c", "4. d", "5. e", "2. f"]


@pytest.mark.usefixtures("clock")
async def test_a_slow_hook_ends_with_the_turn_s_own_time(stand: Stand) -> None:
    hook = Hook()
    async with stand.running(history=[Summary(LIMIT, hook)]) as member:
        await _says(stand, *"ab")
        assert await _says(stand, "c", deadline_s=0.3) == ["3. c"]
        (event,) = member.watcher.of("history_unshortened")
    assert "not shortened in the 0.3 s that the turn had left" in event["error"]


@pytest.mark.usefixtures("clock")
async def test_a_hook_that_ignores_its_cancellation_is_abandoned(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answer", "pipeline"):
        monkeypatch.setattr(f"sdqueue.consumer.{module}.STOP_WITHIN_S", 0.1)
    hook = Hook()
    hook.deaf = True
    async with stand.running(history=[Summary(LIMIT, hook)]) as member:
        await _says(stand, *"ab")
        assert await _says(stand, "c", deadline_s=0.2) == ["3. c"]
        (event,) = member.watcher.of("history_unshortened")
        assert "ignores its cancellation" in event["error"]
        assert len(member.watcher.of("agent_stuck")) == 1
        hook.let_go.set()
        assert await _says(stand, "d") == ["4. d"], "what comes too late changes nothing"


async def test_a_turn_that_is_cancelled_while_the_hook_runs_leaves_nothing(stand: Stand) -> None:
    hook = Hook()
    async with stand.running(history=[Summary(LIMIT, hook)]) as member:
        await _says(stand, *"ab")
        turn = await stand.send("s", "c")
        await hook.began.wait()
        await stand.send("s", kind="cancel")
        error = await stand.expect_reply(turn, kind="error")
        await member.watcher.expect_settled(4)
    assert error.metadata["reason"] == "cancelled"
    assert await _kept(stand) == ["a", "b"]


async def test_a_consumer_that_stops_while_the_hook_runs_leaves_the_turn_to_the_next(stand: Stand) -> None:
    hook = Hook()
    async with stand.running(history=[Summary(LIMIT, hook)]) as member:
        await _says(stand, *"ab")
        turn = await stand.send("s", "c")
        await hook.began.wait()
        member.stop_at_once()
        await member.watcher.expect_settled(3)
    assert await _kept(stand) == ["a", "b"]
    async with stand.running(history=[LIMIT]):
        assert (await stand.expect_reply(turn)).text == "3. c"
    assert await _kept(stand) == ["c"]


async def test_the_history_of_a_suspect_is_shortened_too(stand: Stand) -> None:
    """It runs in a process of its own, and its state is saved here."""
    async with stand.running(history=[LIMIT], agent="tests.consumer.stand:Puppet"):
        await _says(stand, *"ab")
        for _ in range(2):
            await stand.store.begin("s", "suspect")
        await stand.send("s", "c", id="suspect")
        assert (await stand.expect_reply("suspect")).text == "3. c"
    assert await _kept(stand) == ["c"]


class Keeping(Acting):
    history_limited = False


@pytest.mark.parametrize(("kind", "kept"), [(Acting, ["c"]), (Keeping, ["a", "b", "c"])])
async def test_a_suspect_that_keeps_its_conversation_itself_is_left_alone_there_too(
    stand: Stand, kind: type[Acting], kept: list[str]
) -> None:
    async with stand.running(kind, agent=f"{kind.__module__}:{kind.__name__}", history=[LIMIT]):
        await _says(stand, *"ab")
        for _ in range(2):
            await stand.store.begin("s", "suspect")
        await stand.send("s", "c", id="suspect")
        assert (await stand.expect_reply("suspect")).text.startswith("3. c")
    assert await _kept(stand) == kept
    assert (await stand.record("s")).agent_state == {"heard": 3}
