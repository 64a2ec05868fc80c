"""LLMAgent over real HTTP: its conversation, its streams, its rounds of tools, and what it does with errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from sdqueue import (
    LLM,
    ChatContext,
    ChatMessage,
    LLMAgent,
    LLMOptions,
    ModelAnswerError,
    ModelInterrupted,
    SessionWorker,
    StreamChunk,
    ToolCall,
    TooManyRounds,
    TurnResult,
)
from sdqueue.consumer import is_transient
from tests.agents.openai_server import Answer, Calls, Cut, Fail, Hang, OpenAIServer, Raw, Say, StreamError

SECRET = "a-key-without-any-known-form"


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def llm(server: OpenAIServer) -> AsyncIterator[LLM]:
    llm = LLM("openai/test-model", base_url=server.base_url, api_key=SECRET)
    yield llm
    await llm.aclose()


async def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


async def ask(agent: LLMAgent, text: str = "hello", *, stream: bool = False) -> TurnResult:
    """The result of a turn; a streamed one is read to its end, and must add up."""
    answer = await agent.turn(text, stream=stream)
    if isinstance(answer, TurnResult):
        return answer
    chunks = [chunk async for chunk in answer]
    assert chunks[-1].done
    assert chunks[-1].turn is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].turn.text
    return chunks[-1].turn


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# The conversation


@both
async def test_each_turn_is_told_the_prompt_and_all_that_was_said(server: OpenAIServer, llm: LLM, stream: bool) -> None:
    server.script(Say("Zweifellos, Ærlig, 日本, 👋"), Say("Bye."))
    agent = LLMAgent(llm=llm, system_prompt="Be brief.")
    assert (await ask(agent, "Grüß \N{SNOWMAN}", stream=stream)).text == "Zweifellos, Ærlig, 日本, 👋"
    agent.assist("The customer leaves.")
    await ask(agent, "bye", stream=stream)
    assert server.requests[1].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüß \N{SNOWMAN}"},
        {"role": "assistant", "content": "Zweifellos, Ærlig, 日本, 👋"},
        {"role": "system", "content": "The customer leaves."},
        {"role": "user", "content": "bye"},
    ]
    assert server.requests[1].body["model"] == "test-model"
    assert agent.chat_ctx.items[-1] == ChatMessage("assistant", "Bye.")
    assert len(agent.chat_ctx.items) == 5, "the prompt is no part of the conversation"


async def test_without_a_prompt_or_tools_none_are_sent(server: OpenAIServer, llm: LLM) -> None:
    await ask(LLMAgent(llm=llm))
    assert server.requests[0].messages == [{"role": "user", "content": "hello"}]
    assert "tools" not in server.requests[0].body


async def test_another_agent_goes_on_from_the_conversation(server: OpenAIServer, llm: LLM) -> None:
    """Given a turn with tools, when another agent loads its conversation, then the model is told all of it again."""
    server.script(Calls(("c1", "weather", {"city": "Zürich"}), text="Let me see."), Say("It rains."), Say("Yes."))
    first = LLMAgent(llm=llm, tools=[weather])
    await ask(first)
    second = LLMAgent(llm=llm, tools=[weather])
    second.load_chat_ctx(ChatContext(list(first.chat_ctx.items)))
    await ask(second, "still?")
    assert server.requests[-1].messages == [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
                }
            ],
        },
        {"role": "tool", "content": "rain in Zürich", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "still?"},
    ]


@both
async def test_parameters_are_sent_as_they_are(server: OpenAIServer, llm: LLM, stream: bool) -> None:
    options = LLMOptions(parameters={"temperature": 0.25, "max_completion_tokens": 7, "top_k": 3})
    await ask(LLMAgent(llm=llm, options=options), stream=stream)
    body = server.requests[0].body
    assert (body["temperature"], body["max_completion_tokens"], body["top_k"]) == (0.25, 7, 3)
    assert bool(body.get("stream")) is stream


# Answers of every kind


@both
@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (Say(""), "", "stop"),
        (Say(None), "", "stop"),
        (Say("cut sho", finish="length"), "cut sho", "length"),
        (Say(None, extra={"refusal": "I will not."}), "I will not.", "stop"),
        (Say("a\ud83d\n\u2028b", pieces=("a\ud83d\n", "\u2028b")), "a\ufffd\n\u2028b", "stop"),
    ],
    ids=["empty", "null", "length", "refusal", "half a character"],
)
async def test_an_answer_is_what_was_said(
    server: OpenAIServer, llm: LLM, stream: bool, answer: Answer, text: str, finish: str
) -> None:
    server.script(answer)
    agent = LLMAgent(llm=llm)
    result = await ask(agent, stream=stream)
    assert (result.text, result.metadata["llm"]["finish_reason"]) == (text, finish)
    assert agent.chat_ctx.items == [ChatMessage("user", "hello"), ChatMessage("assistant", text)]


async def test_usage_is_added_up_over_the_rounds(server: OpenAIServer, llm: LLM) -> None:
    server.script(Calls(("c1", "weather", {"city": "Oslo"})), Say("Rain."))
    result = await ask(LLMAgent(llm=llm, tools=[weather]))
    assert result.metadata["llm"]["usage"] == {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}


# Tools


@both
async def test_tools_are_described_run_and_answered(server: OpenAIServer, llm: LLM, stream: bool) -> None:
    server.script(Calls(("c1", "weather", {"city": "Tromsø"}), text="One moment."), Say("It rains."))
    agent = LLMAgent(llm=llm, tools=[weather])
    result = await ask(agent, stream=stream)
    assert result.text == "One moment.\n\nIt rains."
    assert result.tool_calls == [ToolCall("c1", "weather", {"city": "Tromsø"})]
    assert server.requests[0].body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ]
    assert agent.chat_ctx.items == [
        ChatMessage("user", "hello"),
        ChatMessage("assistant", "One moment.", (ToolCall("c1", "weather", {"city": "Tromsø"}),)),
        ChatMessage("tool", "rain in Tromsø", tool_call_id="c1"),
        ChatMessage("assistant", "It rains."),
    ]


@both
async def test_calls_of_one_round_run_at_the_same_time(server: OpenAIServer, llm: LLM, stream: bool) -> None:
    """Neither of these could end if they ran one after the other; their results keep the model's order."""
    there = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        await there.wait()
        return f"{name} was there"

    server.script(Calls(("c1", "meet", {"name": "Ada"}), ("c2", "meet", {"name": "Bo"})), Say("Good."))
    agent = LLMAgent(llm=llm, tools=[meet])
    async with asyncio.timeout(60):
        result = await ask(agent, stream=stream)
    assert [call.id for call in result.tool_calls] == ["c1", "c2"]
    assert [(m["tool_call_id"], m["content"]) for m in server.requests[1].messages if m["role"] == "tool"] == [
        ("c1", "Ada was there"),
        ("c2", "Bo was there"),
    ]


@both
@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("c1", "wether", {"city": "Oslo"}), "Error: there is no tool 'wether'; there are: weather"),
        (("c1", "weather", '{"city": "Os'), "Error: the arguments are no JSON: "),
        (("c1", "weather", '["Oslo"]'), "Error: the arguments are no JSON object; got '[\"Oslo\"]'"),
        (("c1", "weather", '{"city": NaN}'), "Error: the arguments are no JSON: "),
        (("c1", "weather", ""), "Error: wrong arguments: city: Field required"),
        (("c1", "weather", {"town": "Oslo"}), "Error: wrong arguments: city: Field required; town: Extra inputs"),
    ],
    ids=["unknown", "malformed", "no object", "nan", "none", "others"],
)
async def test_what_is_wrong_with_a_call_is_told_to_the_model(
    server: OpenAIServer, llm: LLM, stream: bool, call: tuple[str, str, Any], told: str
) -> None:
    server.script(Calls(call), Say("I see."))
    result = await ask(LLMAgent(llm=llm, tools=[weather]), stream=stream)
    assert result.text == "I see."
    said, answered = server.requests[1].messages[-2:]
    assert answered["content"].startswith(told)
    assert isinstance(json.loads(said["tool_calls"][0]["function"]["arguments"]), dict), "servers refuse what is none"


async def test_a_model_that_goes_on_asking_for_tools_is_stopped(server: OpenAIServer, llm: LLM) -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    server.model = lambda request: Calls((f"c{len(request.messages)}", "count", {}))
    agent = LLMAgent(llm=llm, tools=[count], options=LLMOptions(max_rounds=3))
    with pytest.raises(
        TooManyRounds, match=r"each of 3 rounds of one turn, at last for .*count; .*max_rounds"
    ) as caught:
        await ask(agent)
    assert (len(server.requests), calls) == (3, 3)
    assert agent.chat_ctx.items == []
    assert not is_transient(caught.value)


async def test_calls_without_ids_get_some(server: OpenAIServer, llm: LLM) -> None:
    server.script(Calls(("", "weather", {"city": "A"}), ("", "weather", {"city": "B"})), Say("Good."))
    result = await ask(LLMAgent(llm=llm, tools=[weather]))
    ids = [call.id for call in result.tool_calls]
    assert all(ids)
    assert len(set(ids)) == 2
    assert [m["tool_call_id"] for m in server.requests[1].messages if m["role"] == "tool"] == ids


@pytest.mark.parametrize("ids", [("c1", "c2"), ("", "")], ids=["other ids", "no ids"])
async def test_calls_that_a_server_sends_whole_under_one_index_are_several(
    server: OpenAIServer, llm: LLM, ids: tuple[str, str]
) -> None:
    calls = [
        {
            "index": 0,
            "id": ids[n - 1],
            "type": "function",
            "function": {"name": "weather", "arguments": f'{{"city":"{n}"}}'},
        }
        for n in (1, 2)
    ]
    lines = [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]} for call in calls] + [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": None},
    ]
    body = "".join(f"data: {json.dumps({'id': 'x', **line})}\n\n" for line in lines) + "data: [DONE]\n\n"
    server.script(Raw(body.encode(), "text/event-stream"), Say("Good."))
    result = await ask(LLMAgent(llm=llm, tools=[weather]), stream=True)
    assert [c.arguments for c in result.tool_calls] == [{"city": "1"}, {"city": "2"}]
    assert len({c.id for c in result.tool_calls}) == 2


@both
async def test_half_characters_of_a_model_or_a_tool_spoil_no_turn(server: OpenAIServer, llm: LLM, stream: bool) -> None:
    """They can be neither sent back to the server nor saved."""

    def half() -> str:
        return "half a \ud83d"

    def broken() -> str:
        raise ValueError("\ud800")

    server.script(
        Calls(("c\ud83d", "half", "{}"), ("c2", "broken", "{}"), ("c3", "\ud83d", '{"\ud83d": 1}')), Say("Good.")
    )
    agent = LLMAgent(llm=llm, tools=[half, broken])
    assert (await ask(agent, stream=stream)).text == "Good."
    said = [m.content for m in agent.chat_ctx.items if m.role == "tool"]
    assert said[:2] == ["half a \ufffd", "Error: ValueError: \ufffd"]
    assert repr(agent.chat_ctx.items).encode()


# Streams


async def test_pieces_come_while_the_model_still_speaks(server: OpenAIServer, llm: LLM) -> None:
    """Given a model that waits after its first word, when a stream is read, then that word is there."""
    hold = asyncio.Event()
    server.script(Say("one two three", hold=hold))
    answer = await LLMAgent(llm=llm).turn("hello", stream=True)
    assert not isinstance(answer, TurnResult)
    assert await anext(answer) == StreamChunk("one ")
    hold.set()
    rest = [chunk async for chunk in answer]
    assert [chunk.text for chunk in rest] == ["two ", "three", ""]
    assert rest[-1].turn is not None
    assert rest[-1].turn.text == "one two three"


async def test_a_cancelled_stream_closes_the_response_and_keeps_nothing(server: OpenAIServer, llm: LLM) -> None:
    server.script(Say("one two three", hold=asyncio.Event()))
    agent = LLMAgent(llm=llm)
    heard = asyncio.Event()

    async def listen() -> None:
        answer = await agent.turn("hello", stream=True)
        assert not isinstance(answer, TurnResult)
        async for _ in answer:
            heard.set()

    listening = asyncio.create_task(listen())
    await heard.wait()
    listening.cancel()
    await asyncio.wait({listening})
    assert listening.cancelled()
    async with asyncio.timeout(60):
        await server.requests[0].gone.wait()
    assert agent.chat_ctx.items == []


async def test_a_cancelled_request_is_given_up(server: OpenAIServer, llm: LLM) -> None:
    server.script(Hang())
    agent = LLMAgent(llm=llm)
    asking = asyncio.create_task(ask(agent))
    (request,) = await server.expect_requests(1)
    asking.cancel()
    await asyncio.wait({asking})
    async with asyncio.timeout(60):
        await request.gone.wait()
    assert agent.chat_ctx.items == []


async def test_a_listener_who_turns_away_leaves_what_was_said_and_done(server: OpenAIServer, llm: LLM) -> None:
    """A barge-in: the tools have run, and the next turn must know it, and know what the user heard."""
    server.script(Calls(("c1", "weather", {"city": "Oslo"})), Say("It rains a lot.", hold=asyncio.Event()), Say("Ok."))
    worker = SessionWorker(agent_factory=lambda: LLMAgent(llm=llm, tools=[weather]))
    async with worker.acquire("s") as handle:
        async for chunk in await handle.turn("hello", stream=True):
            assert chunk.text == "It "
            break
    async with asyncio.timeout(60):
        await server.requests[1].gone.wait()
    async with worker.acquire("s") as handle:
        await handle.turn("stop")
    assert [(m["role"], m["content"]) for m in server.requests[2].messages] == [
        ("user", "hello"),
        ("assistant", None),
        ("tool", "rain in Oslo"),
        ("assistant", "It "),
        ("user", "stop"),
    ]


# Errors


@both
@pytest.mark.parametrize(
    ("answer", "kind", "transient"),
    [
        (Fail(400), openai.BadRequestError, False),
        (Fail(401), openai.AuthenticationError, False),
        (Fail(404), openai.NotFoundError, False),
        (Fail(429), openai.RateLimitError, True),
        (Fail(500), openai.InternalServerError, True),
        (Fail(503), openai.InternalServerError, True),
        (Cut(), openai.APIConnectionError, True),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, type) else value.__name__,
)
async def test_a_failure_leaves_the_conversation_and_is_passing_or_not(
    server: OpenAIServer, llm: LLM, stream: bool, answer: Answer, kind: type[Exception], transient: bool
) -> None:
    server.script(Calls(("c1", "weather", {"city": "Oslo"})), answer)
    agent = LLMAgent(llm=llm, tools=[weather])
    agent.load_chat_ctx(before := ChatContext([ChatMessage("user", "before"), ChatMessage("assistant", "yes")]))
    with pytest.raises(kind) as caught:
        await ask(agent, stream=stream)
    assert is_transient(caught.value) is transient
    assert len(server.requests) == 2, "the openai package has tried again by itself"
    assert agent.chat_ctx.items == before.items
    assert len(agent.chat_ctx.items) == 2


@pytest.mark.parametrize(
    ("body", "content_type", "transient"),
    [
        (b"<html>a gateway</html>", "text/html", False),
        (b'{"error": {"message": "busy", "code": 429}}', "application/json", True),
        (b'{"choices": []}', "application/json", False),
        (b'{"choi', "application/json", False),
    ],
)
async def test_what_is_no_answer_is_an_error(
    server: OpenAIServer, llm: LLM, body: bytes, content_type: str, transient: bool
) -> None:
    server.script(Raw(body, content_type))
    agent = LLMAgent(llm=llm)
    with pytest.raises(ModelAnswerError, match="the model's server") as caught:
        await ask(agent)
    assert is_transient(caught.value) is transient
    assert agent.chat_ctx.items == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Cut(("half ", "an ")), Exception),
        (Say("half an", finish=None), ModelInterrupted),
        (Raw(b"<html>a gateway</html>", "text/html"), ModelInterrupted),
        (StreamError(("half ",), {"message": "overloaded", "type": "server_error", "code": None}), ModelAnswerError),
        (StreamError((), {"message": "slow down", "code": 429}), ModelAnswerError),
    ],
    ids=["cut", "no end", "no stream", "error", "error with a status"],
)
async def test_a_stream_that_breaks_off_is_a_passing_failure(
    server: OpenAIServer, llm: LLM, answer: Answer, kind: type[Exception]
) -> None:
    server.script(answer)
    agent = LLMAgent(llm=llm)
    with pytest.raises(kind) as caught:
        await ask(agent, stream=True)
    assert is_transient(caught.value), caught.value
    assert agent.chat_ctx.items == []


@both
async def test_a_server_that_says_nothing_is_given_up(server: OpenAIServer, llm: LLM, stream: bool) -> None:
    server.script(Hang())
    with pytest.raises(openai.APITimeoutError) as caught:
        await ask(LLMAgent(llm=llm, options=LLMOptions(request_timeout_s=0.1)), stream=stream)
    assert is_transient(caught.value)


@pytest.mark.parametrize(
    ("answer", "stream"),
    [
        (Fail(401, f"Incorrect API key provided: {SECRET}."), False),
        (Fail(401, f"Incorrect API key provided: {SECRET}."), True),
        (Raw(json.dumps({"error": {"message": f"no {SECRET}", "code": 401}}).encode()), False),
        (Raw(json.dumps(f"what is {SECRET}?").encode()), False),
        (StreamError((), {"message": f"bad {SECRET}", "code": 401}), True),
    ],
    ids=["whole", "streamed", "body", "no answer", "stream"],
)
async def test_the_key_is_in_no_error(server: OpenAIServer, llm: LLM, answer: Answer, stream: bool) -> None:
    server.script(answer)
    with pytest.raises((openai.AuthenticationError, ModelAnswerError)) as caught:
        await ask(LLMAgent(llm=llm), stream=stream)
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert "***" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value!r} {getattr(caught.value, 'body', '')}"
