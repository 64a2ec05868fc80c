"""The example in real processes: a turn comes in, an agent answers, and the reply is shown on Chirp."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from sdqueue_producers import Request

from tests.producers.testing.chirp import SECRET, TOKEN, FakeChirp, event, install, signed

BOT = """
import sdqueue

async def answer(text, history):
    if text == "much":
        yield "word " * 1000
    else:
        yield f"You said {text!r}"
        yield f", after {len(history)} messages."

def make():
    return sdqueue.FunctionAgent(answer)
"""


@asynccontextmanager
async def _command(*words: str, env: dict[str, str], cwd: Path) -> AsyncIterator[tuple[Process, str]]:
    """A command of sdqueue's until the end of the block, and the line by which it says that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sdqueue.cli", *words, env=os.environ | env, cwd=cwd, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        line = ""
        while " ready:" not in line:
            line = (await process.stdout.readline()).decode()
            assert line, "it has ended"
        yield process, line
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _post(http: aiohttp.ClientSession, url: str, body: bytes, *, secret: str = SECRET) -> tuple[int, str]:
    request = signed(Request("POST", "/chirp/events", body=body), secret=secret)
    async with http.post(f"{url}{request.path}", data=request.body, headers=dict(request.headers)) as response:
        return response.status, await response.text()


async def test_a_turn_is_answered_on_its_platform(tmp_path: Path) -> None:
    """Given a producer and a consumer as processes, the channel installed as pip would, and all sent twice."""
    install(tmp_path)
    (tmp_path / "bot.py").write_text(BOT)
    async with asyncio.timeout(90), AsyncExitStack() as stack:
        chirp = await stack.enter_async_context(FakeChirp())
        env = {
            "PYTHONPATH": str(tmp_path),
            "SDQUEUE_BROKER_URL": "sqlite:///turns.db",
            "SDQUEUE_STORE_URL": "sqlite:///sessions.db",
            "SDQUEUE_AGENT": "bot:make",
            "SDQUEUE_PRODUCER_PORT": "0",
            "SDQUEUE_CHIRP_SECRET": SECRET,
            "SDQUEUE_CHIRP_TOKEN": TOKEN,
            "SDQUEUE_CHIRP_API_URL": chirp.url,
        }
        await stack.enter_async_context(_command("consumer", env=env, cwd=tmp_path))
        _, ready = await stack.enter_async_context(_command("producer", "--channels", "chirp", env=env, cwd=tmp_path))
        url = re.findall(r"http://\S+\d", ready)[0]
        http = await stack.enter_async_context(aiohttp.ClientSession())

        # When each message comes twice, and a stranger's and a broken one between them
        for number, text in ((1, "one"), (2, "two")):
            for _ in range(2):
                assert await _post(http, url, event(number, text)) == (200, "")
            status, why = await _post(http, url, event(9, "evil"), secret="another")
            assert (status, "signature" in why) == (401, True)
            assert (await _post(http, url, b"\xff"))[0] == 400
            await _shown(chirp, number)
        assert await _post(http, url, event(3, "much", "r2")) == (200, "")
        await _shown(chirp, 5)
        while sum(text.count("word") for text in chirp.messages.values()) < 1000:
            await asyncio.sleep(0.02)
        assert await _post(http, url, event(4, "three")) == (200, "")
        await _shown(chirp, 6)

        # Then each is answered once, in order, and what is too long for one message is several
        one, two, *much, three = chirp.messages.values()
        assert [one, two, three] == [
            f"You said {text!r}, after {count} messages." for count, text in ((0, "one"), (2, "two"), (4, "three"))
        ]
        assert [len(part) <= 2000 for part in much] == [True] * 3
        assert " ".join(part.strip() for part in much).split() == ["word"] * 1000
        rooms = {call.path.split("/")[2] for call in chirp.calls}
        assert rooms == {"r1", "r2"}
        assert (tmp_path / "sessions.db.producer").exists()


async def _shown(chirp: FakeChirp, count: int) -> None:
    """Wait until so many messages are there, and the last one is whole."""
    while len(chirp.messages) < count or not list(chirp.messages.values())[-1].endswith((".", "word", "word ")):
        await asyncio.sleep(0.02)
