"""The tests' own server of the OpenAI API, seen by the openai package: what it is told to do, a client sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest

from tests.agents.openai_server import Calls, Cut, Fail, OpenAIServer, Say


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def client(server: OpenAIServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client:
        yield client


HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "héllo"}]


async def test_it_answers_by_its_script_and_then_by_its_model(server: OpenAIServer, client: openai.AsyncOpenAI) -> None:
    server.script(Calls(("c1", "weather", {"city": "Zürich"})))
    called = await client.chat.completions.create(model="test-model", messages=HELLO)
    (call,) = called.choices[0].message.tool_calls or [None]
    assert call is not None
    assert call.type == "function"
    assert (call.id, call.function.name, call.function.arguments) == ("c1", "weather", '{"city": "Zürich"}')
    said = await client.chat.completions.create(model="test-model", messages=HELLO)
    assert said.choices[0].message.content == "1. héllo"
    assert [request.messages for request in server.requests] == [HELLO, HELLO]
    assert server.connections == 1


async def test_it_streams_words_and_fragments_of_calls(server: OpenAIServer, client: openai.AsyncOpenAI) -> None:
    server.script(Say("one two"), Calls(("c1", "a", {"x": 1}), ("c2", "b", {"y": "long enough"})))
    pieces = []
    async for chunk in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
        pieces.append(chunk.choices[0].delta.content)
    assert pieces == ["", "one ", "two", None]
    arguments = ["", ""]
    async for chunk in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            arguments[call.index] += call.function.arguments or ""
    assert arguments == ['{"x": 1}', '{"y": "long enough"}']


async def test_it_fails_and_cuts_and_sees_who_goes_away(server: OpenAIServer, client: openai.AsyncOpenAI) -> None:
    server.script(Fail(429, headers={"retry-after": "3"}), Cut(), Say("a b c", hold=asyncio.Event()))
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert refused.value.response.headers["Retry-After"] == "3"
    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(model="m", messages=HELLO)
    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
    async with stream:
        await anext(stream)
    async with asyncio.timeout(60):
        await server.requests[-1].gone.wait()
