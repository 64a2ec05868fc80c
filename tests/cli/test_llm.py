"""``--agent openai/MODEL``: a language model behind the commands; and the example of docs/tools.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.agents.openai_server import Answer, Calls, Fail, OpenAIServer, Request, Say, read_request
from tests.cli.place import PATIENCE_S, Place, end, expect_line

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other

DOCS = Path(__file__).parents[2] / "docs"

KEY = "a-key-without-any-known-form"


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


def environment(server: OpenAIServer, **more: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY, **more}


async def test_a_model_answers_send_on_real_servers(
    place: Place, server: OpenAIServer, amqp_url: str, redis_url: str, namespace: str
) -> None:
    """Given a pool that knows the model by its settings alone, when another consumer takes over, the conversation
    goes on; and the key is in nothing that is printed."""
    servers = {"SDQUEUE_BROKER_URL": amqp_url, "SDQUEUE_STORE_URL": redis_url, "SDQUEUE_NAMESPACE": namespace}
    env = environment(server, **servers, SDQUEUE_AGENT="openai/test-model", SDQUEUE_SYSTEM_PROMPT="Be brief.\nBe kind.")
    first = await place.start("consumer", "--log-level", "debug", env=env)
    assert "agent openai/test-model" in await expect_line(first, " ready: ")
    asked = await place.run("send", "u", "Grüße", "--wait", env=servers)
    assert (asked.code, asked.out) == (0, "2. Grüße\n")
    server.script(Fail(401, f"Incorrect API key provided: {KEY}"))
    refused = await place.run("send", "u", "again", "--wait", env=servers)
    assert refused.code == 1
    first.terminate()
    said = b"".join(await first.communicate()).decode()
    assert first.returncode == 0
    assert "Incorrect API key provided: ***" in said
    letters = await place.run("dead", "list", "--json", env=servers)
    assert "Incorrect API key provided: ***" in letters.out
    assert KEY not in said + letters.out + refused.out + refused.err

    second = await place.start("consumer", env=env)
    await expect_line(second, " ready: ")
    asked = await place.run("send", "u", "and now?", "--wait", "--stream", env=servers)
    assert asked.out.strip() == "4. and now?"
    assert server.requests[-1].messages == [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "Grüße"},
        {"role": "assistant", "content": "2. Grüße"},
        {"role": "user", "content": "and now?"},
    ]
    assert server.requests[-1].body["stream"] is True


async def test_the_prompt_may_be_an_option_and_reaches_the_processes_of_a_pool(
    place: Place, server: OpenAIServer
) -> None:
    options = ("--agent", "openai/test-model", "--system-prompt", "Be brief.", "--processes", "2")
    consumer = await place.start("consumer", *options, env=environment(server))
    await expect_line(consumer, " ready: ")
    assert (await place.run("send", "u", "hello", "--wait")).out == "2. hello\n"
    assert server.requests[0].messages[0] == {"role": "system", "content": "Be brief."}


async def test_dev_chats_with_a_model(place: Place, server: OpenAIServer) -> None:
    dev = await place.run("dev", "--agent", "openai/test-model", stdin="hello\nyou\n", env=environment(server))
    assert (dev.code, dev.out, dev.err) == (0, "1. hello\n3. you\n", "")


async def test_doctor_says_which_model_is_asked_and_what_is_missing(place: Place, server: OpenAIServer) -> None:
    await place.run("topology", "apply")
    healthy = await place.run("doctor", "--agent", "openai/test-model", env=environment(server))
    assert healthy.code == 0, healthy.out
    assert re.search(rf"builds a LLMAgent that asks test-model at {re.escape(server.base_url)}", healthy.out)
    sick = await place.run("doctor", "--agent", "openai/test-model", env={"OPENAI_API_KEY": ""})
    assert sick.code == 1
    assert "FAIL  agent" in sick.out
    assert "Set OPENAI_API_KEY" in sick.out
    assert server.requests == []


async def test_a_missing_key_or_package_ends_the_command_at_once(place: Place) -> None:
    for command in ("consumer", "dev"):
        keyless = await place.run(command, "--agent", "openai/test-model", env={"OPENAI_API_KEY": ""})
        assert keyless.code == 2, keyless
        assert "agent 'openai/test-model': the model cannot be reached without a key" in keyless.err
        assert "Traceback" not in keyless.err
    (place.folder / "openai.py").write_text("raise ImportError('No module named openai')\n")
    without = await place.run("consumer", "--agent", "openai/m", env={"PYTHONPATH": str(place.folder)})
    assert without.code == 2
    assert "pip install 'sdqueue[openai]'" in " ".join(without.err.split())
    nameless = await place.run("consumer", "--agent", "openai/")
    assert nameless.code == 2
    assert "or openai/MODEL" in nameless.err


class Bank:
    """Takes payments over HTTP, each key once. On the first it kills a process before it answers."""

    def __init__(self) -> None:
        self.kill: int | None = None
        self.keys: list[str] = []
        self.charged: dict[str, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        assert request is not None
        key = request.headers["idempotency-key"]
        self.keys.append(key)
        self.charged.setdefault(key, request.body["cents"])
        if self.kill is not None:
            os.kill(self.kill, signal.SIGKILL)
            self.kill = None
        body = json.dumps({"paid": self.charged[key]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()


def cashier(request: Request) -> Answer:
    """Pay, under another id of the call each time, and say what came of it."""
    if request.messages[-1]["role"] == "tool":
        return Say(request.last)
    return Calls((f"call-{id(request)}-{len(request.headers)}", "pay", {"invoice": "INV-7", "cents": 1999}))


async def test_the_example_of_the_docs_pays_once_though_its_process_is_killed(
    place: Place, server: OpenAIServer
) -> None:
    """Given a consumer that is killed after the payment and before the turn was saved, when another one runs the turn
    again, then the payment has the same key."""
    example = re.search(r"```python\n# shop\.py\n(.*?)```", (DOCS / "tools.md").read_text(), re.DOTALL)
    assert example is not None
    (place.folder / "shop.py").write_text(example[1])
    server.model = cashier
    bank = Bank()
    listening = await asyncio.start_server(bank.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/payments"
    env = environment(server, PAYMENTS_URL=url, no_proxy="127.0.0.1")
    async with listening:
        first = await place.start("consumer", "--agent", "shop:make", env=env)
        await expect_line(first, " ready: ")
        bank.kill = first.pid
        sending = await place.start("send", "u", "I agree.", "--wait", "--id", "t1", "--json")
        assert await first.wait() == -signal.SIGKILL
        second = await place.start("consumer", "--agent", "shop:make", env=env)
        out, err = await asyncio.wait_for(sending.communicate(), PATIENCE_S)
        assert sending.returncode == 0, err
        await end(second)
    reply = json.loads(out)
    assert json.loads(reply["text"]) == {"paid": 1999}
    assert [call["arguments"] for call in reply["tool_calls"]] == [{"invoice": "INV-7", "cents": 1999}]
    assert bank.keys == ["t1:pay:INV-7"] * 2
    assert bank.charged == {"t1:pay:INV-7": 1999}
