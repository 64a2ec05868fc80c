"""LLMAgent behind the queue: a model's server that fails, tools that ask which turn they serve, and streams."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sdqueue import LLMAgent, LLMAgentFactory, current_turn
from sdqueue.agents import ToolCall
from sdqueue.consumer import RetryPolicy
from sdqueue.consumer.retry import retry_after
from tests.agents.openai_server import Answer, Calls, Cut, Fail, OpenAIServer, Request, Say
from tests.consumer.stand import Stand

KEY = "a-key-without-any-known-form"
AGENT = "tests.consumer.test_llm:make"


async def which() -> str:
    """Which turn this is."""
    return _told()


def which_in_a_thread() -> str:
    """Which turn this is, asked from a thread."""
    return _told()


def _told() -> str:
    turn = current_turn()
    where = "here" if os.environ.get("SDQUEUE_TEST_HERE") == str(os.getpid()) else "in a child"
    return f"{turn.turn_id} {turn.session_id} {turn.attempt} {where}" if turn else "no turn"


def make() -> LLMAgent:
    """What the process of a suspect loads by its name."""
    return LLMAgent(llm="test-model", tools=[which, which_in_a_thread])


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("SDQUEUE_TEST_HERE", str(os.getpid()))
        yield server


@pytest.fixture
async def agents(server: OpenAIServer) -> AsyncIterator[LLMAgentFactory]:
    async with LLMAgent.factory(llm="openai/test-model", tools=[which, which_in_a_thread]) as agents:
        yield agents


def calls_tools(request: Request) -> Answer:
    """Ask both tools, and repeat what they said."""
    said_last = max(n for n, message in enumerate(request.messages) if message["role"] == "user")
    results = [message["content"] for message in request.messages[said_last:] if message["role"] == "tool"]
    return Say(" and ".join(results)) if results else Calls(("c1", "which", {}), ("c2", "which_in_a_thread", {}))


@pytest.mark.parametrize(
    ("headers", "at_least"), [({"retry-after": "1"}, 1.0), ({"retry-after": "9", "retry-after-ms": "250"}, 0.25)]
)
async def test_a_server_that_wants_to_be_left_alone_for_a_while_is(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory, headers: dict[str, str], at_least: float
) -> None:
    server.script(Fail(429, "slow down", headers=headers))
    async with stand.running(agents) as member:
        began = time.monotonic()
        await stand.send("s", "hello", id="t")
        reply = await stand.expect_reply("t")
        took = time.monotonic() - began
        await member.watcher.expect_settled(1)
        (event,) = member.watcher.of("turn_retried")
    assert reply.text == "1. hello"
    assert at_least <= took < at_least + 5
    assert event["delay_s"] == pytest.approx(at_least)
    assert [r.id for r in stand.replies] == ["t:0"]
    assert len(server.requests) == 2


async def test_a_date_in_retry_after_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Exception):
        headers = {"retry-after": "Thu, 01 Jan 1970 00:01:40 -0000"}  # noqa: RUF012

    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert retry_after(Refused(), now=90) == 10
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("failure", [Fail(500), Fail(503), Cut()], ids=["500", "503", "cut"])
async def test_a_passing_failure_is_answered_by_the_retry_policy_alone(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory, failure: Answer
) -> None:
    server.script(failure, failure)
    async with stand.running(agents, retry=RetryPolicy(max_attempts=3, first_s=0.01)) as member:
        await stand.send("s", "hello", id="t")
        assert (await stand.expect_reply("t")).text == "1. hello"
        assert len(member.watcher.of("turn_retried")) == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_failure_for_good_is_a_dead_letter_without_the_key(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory, status: int
) -> None:
    server.script(Fail(status, f"Incorrect API key provided: {KEY}"))
    async with stand.running(agents) as member:
        await stand.send("s", "hello", id="t")
        (letter,) = await stand.expect_dead()
        reply = await stand.expect_reply("t", kind="error")
        assert member.watcher.of("turn_retried") == []
        told = repr([vars(letter), reply, member.watcher.of("turn_settled"), stand.bodies])
    assert (letter.reason, letter.attempts) == ("agent-failed", 1)
    assert f"{status}" in letter.error
    assert "Incorrect API key provided: ***" in letter.error
    assert KEY not in told
    assert KEY not in repr([(d.message.headers, d.message.body) for d in stand.dead])


async def test_the_calls_of_tools_are_in_the_reply(stand: Stand, server: OpenAIServer, agents: LLMAgentFactory) -> None:
    server.model = calls_tools
    async with stand.running(agents):
        await stand.send("s", "hello", id="t")
        reply = await stand.expect_reply("t")
    assert reply.text == "t s 1 here and t s 1 here"
    assert [(c.id, c.name, c.arguments) for c in reply.tool_calls] == [
        ("c1", "which", {}),
        ("c2", "which_in_a_thread", {}),
    ]
    record = await stand.record("s")
    assert [m.role for m in record.chat_ctx.items] == ["user", "assistant", "tool", "tool", "assistant"]
    assert record.chat_ctx.items[1].tool_calls == (ToolCall("c1", "which"), ToolCall("c2", "which_in_a_thread"))


async def test_tools_see_the_same_turn_in_each_attempt(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory
) -> None:
    """Given a server that fails in the round after the tools, when the turn is tried again, so are they."""
    server.script(Calls(("c1", "which", {})), Fail(503), Calls(("c9", "which", {})))
    server.model = lambda request: Say(str(request.last))
    async with stand.running(agents):
        await stand.send("s", "hello", id="t")
        reply = await stand.expect_reply("t")
    assert [r.last for r in server.requests if r.messages[-1]["role"] == "tool"] == ["t s 1 here", "t s 2 here"]
    assert reply.text == "t s 2 here"
    assert [call.id for call in reply.tool_calls] == ["c9"], "calls of the failed attempt are not in the reply"
    assert [m.role for m in (await stand.record("s")).chat_ctx.items] == ["user", "assistant", "tool", "assistant"]


async def test_tools_see_the_turn_in_the_process_of_a_suspect(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory
) -> None:
    server.model = calls_tools
    async with stand.running(agents, agent=AGENT, isolate_after=0):
        await stand.send("s", "hello", id="t")
        reply = await stand.expect_reply("t")
        assert reply.text == "t s 1 in a child and t s 1 in a child"
        server.script(Fail(429, headers={"retry-after": "0.3"}))
        began = time.monotonic()
        await stand.send("s", "again", id="u")
        assert (await stand.expect_reply("u")).text.endswith("u s 2 in a child and u s 2 in a child")
        assert time.monotonic() - began >= 0.3
    assert [c.name for c in reply.tool_calls] == ["which", "which_in_a_thread"]


async def test_a_tool_of_a_worker_without_a_queue_serves_no_turn(server: OpenAIServer, agents: LLMAgentFactory) -> None:
    from sdqueue import SessionWorker

    server.model = calls_tools
    async with SessionWorker(agent_factory=agents).acquire("s") as handle:
        assert (await handle.turn("hello")).text == "no turn and no turn"


async def test_a_streamed_turn_sends_its_pieces_with_rounds_of_tools_between(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory
) -> None:
    server.script(Calls(("c1", "which", {}), text="One moment."), Say("Here it is."))
    async with stand.running(agents):
        await stand.send("s", "hello", id="t", stream=True)
        final = await stand.expect_reply("t")
    deltas = [r.text for r in stand.replies if r.kind == "delta"]
    assert "".join(deltas) == final.text == "One moment.\n\nHere it is."
    assert [call.name for call in final.tool_calls] == ["which"]


async def test_a_turn_that_is_stopped_closes_the_response(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory
) -> None:
    server.script(Say("one two three", hold=asyncio.Event()))
    async with stand.running(agents):
        await stand.send("s", "hello", id="t", stream=True)
        await stand.expect_reply("t", kind="delta")
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("stop")
        async with asyncio.timeout(60):
            await server.requests[0].gone.wait()
        await stand.send("s", "next", id="u")
        assert (await stand.expect_reply("u")).text == "1. next", "something of the stopped turn was kept"


async def test_two_consumers_go_on_with_each_others_conversations(
    stand: Stand, server: OpenAIServer, agents: LLMAgentFactory
) -> None:
    """Given a turn with tools answered by one, when the next is answered by another, its model is told all of it."""
    server.model = calls_tools
    async with stand.running(agents):
        await stand.send("s", "hello", id="t")
        await stand.expect_reply("t")
    before: list[Any] = server.requests[-1].messages
    async with LLMAgent.factory(llm="test-model") as others, stand.running(others):
        await stand.send("s", "again", id="u")
        await stand.expect_reply("u")
    said = {"role": "assistant", "content": "t s 1 here and t s 1 here"}
    assert server.requests[-2].messages == [*before, said, {"role": "user", "content": "again"}]
