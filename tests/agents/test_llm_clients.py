"""The clients of LLMAgent: who shares them, who closes them, and what is refused when they are made."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from sdqueue import LLM, ConfigurationError, LLMAgent, LLMOptions, SessionWorker
from tests.agents.openai_server import Answer, Fail, OpenAIServer, Request, Say
from tests.agents.test_llm import ask, weather


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def llm(server: OpenAIServer) -> AsyncIterator[LLM]:
    llm = LLM("openai/test-model", base_url=server.base_url, api_key="test-key")
    yield llm
    await llm.aclose()


async def test_agents_of_a_factory_share_one_connection(server: OpenAIServer) -> None:
    async with LLMAgent.factory(llm="test-model", base_url=server.base_url, api_key="k", tools=[weather]) as make:
        for n in range(5):
            assert (await ask(make(), f"turn {n}", stream=bool(n % 2))).text == f"1. turn {n}"
    assert server.connections == 1
    with pytest.raises((RuntimeError, openai.APIConnectionError)):  # as releases of the package tell it
        await ask(make())


async def test_agents_that_are_made_one_by_one_share_a_client_while_there_are_any(server: OpenAIServer) -> None:
    """A client takes 30 ms to make, and has connections of its own: not one for each of a thousand sessions."""
    agents = [LLMAgent(llm="test-model", base_url=server.base_url, api_key="k") for _ in range(5)]
    for agent in agents:
        await ask(agent)
    assert server.connections == 1
    other = LLMAgent(llm="test-model", base_url=server.base_url, api_key="of another customer")
    await ask(other)
    assert server.connections == 2
    for llm in (agents[0].llm, other.llm):
        await llm.aclose()
    after = LLMAgent(llm="test-model", base_url=server.base_url, api_key="k")
    await ask(after)
    await after.llm.aclose()


def test_a_client_ends_with_the_last_agent_that_uses_it() -> None:
    async def make() -> list[weakref.ref[LLM]]:
        agents = [LLMAgent(llm=name, base_url="http://127.0.0.1:1", api_key="k") for name in ("m", "m", "n")]
        return [weakref.ref(agent.llm) for agent in agents]

    first, second, third = asyncio.run(make())
    gc.collect()
    assert first is second
    assert (first(), third()) == (None, None)


async def test_a_model_that_was_given_is_not_closed(server: OpenAIServer, llm: LLM) -> None:
    async with LLMAgent.factory(llm=llm) as make:
        await ask(make())
    assert (await ask(LLMAgent(llm=llm))).text == "1. hello"


async def test_a_client_of_ones_own_is_used_without_its_retries_and_not_closed(server: OpenAIServer) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="mine", max_retries=5) as client:
        llm = LLM("openai/test-model", client=client)
        server.script(Fail(500))
        with pytest.raises(openai.InternalServerError):
            await ask(LLMAgent(llm=llm))
        await llm.aclose()
        assert (await ask(LLMAgent(llm=llm))).text == "1. hello"
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer mine"] * 2


async def test_the_environment_is_read_when_an_agent_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a base URL may have any path, with or without a slash at its end."""
    async with OpenAIServer(prefix="/proxy/team-7/v1") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/")
        monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
        llm = LLM("test-model")
        assert (await ask(LLMAgent(llm=llm))).text == "1. hello"
        await llm.aclose()
        assert server.requests[0].path == "/proxy/team-7/v1/chat/completions"
        assert server.requests[0].headers["authorization"] == "Bearer from-the-environment"


def test_only_one_prefix_is_taken_off_a_models_name() -> None:
    names = ["gpt-4o", "openai/gpt-4o", "openai/openai/gpt-4o", "meta-llama/llama"]
    assert [LLM(name, base_url="http://127.0.0.1:1", api_key="k").model for name in names] == [
        "gpt-4o",
        "gpt-4o",
        "openai/gpt-4o",
        "meta-llama/llama",
    ]


@pytest.mark.parametrize("key", ["sk-from-a-file\n", "sk-from-a-letter\u2026", "sk\x00"])
def test_a_key_that_no_header_can_have_is_refused_at_once_and_not_shown(key: str) -> None:
    """Otherwise every turn is tried four times, and dies of a connection error."""
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY") as caught:
        LLM("test-model", api_key=key)
    assert key[:5] not in str(caught.value)


def test_a_missing_key_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"without a key: .*Set OPENAI_API_KEY"):
        LLMAgent(llm="openai/gpt-4o-mini")


def client_of_ones_own() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://127.0.0.1:1", api_key="k")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LLM("openai/"), "the model is 'openai/'; give its name"),
        (lambda: LLM("m", client=client_of_ones_own(), api_key="k"), "either a client or base_url and api_key"),
        (lambda: LLMAgent(llm=client_of_ones_own()), r"llm is a AsyncOpenAI; give .* LLM\(name, client=…\)"),
        (lambda: LLMAgent(llm=LLM("m", client=client_of_ones_own()), api_key="k"), "belong to an LLM"),
        (lambda: LLMOptions(max_rounds=0), "max_rounds is 0; give a number above 0"),
        (lambda: LLMOptions(parameters={"model": "x", "stream": True}), "the parameters model, stream are set by the"),
    ],
)
def test_what_cannot_work_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def model_of_many(request: Request) -> Answer:
    return Say(f"{request.messages[0]['content']}: {len(request.messages)}")


async def test_many_sessions_at_once_do_not_mix(server: OpenAIServer, llm: LLM) -> None:
    server.model = model_of_many
    worker = SessionWorker(agent_factory=LLMAgent.factory(llm=llm))

    async def talk(name: str) -> list[str]:
        said = []
        for _ in range(3):
            async with worker.acquire(name) as handle:
                said.append((await handle.turn(name)).text)
        return said

    names = [f"user-{n}" for n in range(20)]
    assert await asyncio.gather(*map(talk, names)) == [[f"{n}: 1", f"{n}: 3", f"{n}: 5"] for n in names]
    assert server.connections <= len(names)


def test_sdqueue_itself_does_not_import_openai() -> None:
    """It takes most of a second, and is an extra."""
    code = "import sys, sdqueue.cli; sdqueue.LLMOptions(); print('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
