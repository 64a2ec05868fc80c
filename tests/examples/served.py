"""Examples as their readers run them: in processes of their own, over real HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def started(*command: str, until: str, env: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python module that runs, once it has printed what says that it is ready; it is ended with the block."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")} | dict(env)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, cwd=EXAMPLES, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    reading = asyncio.create_task(_read_until(process, until))
    try:
        async with asyncio.timeout(40):
            await reading
        # Whatever it says from now on, it must not stop because nobody reads it.
        reading = asyncio.create_task(_read(process))
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading


async def _read_until(process: asyncio.subprocess.Process, words: str) -> None:
    assert process.stdout is not None
    said = []
    async for line in process.stdout:
        said.append(line.decode())
        if re.search(words, said[-1]):
            return
    raise AssertionError(f"{words!r} was never printed, but:\n{''.join(said)}")


async def _read(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async for _ in process.stdout:
        pass


@asynccontextmanager
async def application(name: str, env: Mapping[str, str]) -> AsyncIterator[str]:
    """An ASGI application under uvicorn; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with started("uvicorn", name, "--port", str(port), until="Uvicorn running", env=env):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def consumer(*options: str, env: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A consumer that is ready."""
    async with started("sdqueue.cli", "consumer", *options, until=" ready: ", env=env) as process:
        yield process
