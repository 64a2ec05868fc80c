"""A folder in which the tests run commands as people and scripts do, and what they expect of the processes."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 90.0
"""Seconds that a test waits for what must come: a process alone takes 5 s to begin on a machine that has much to do."""

AGENTS = """
import asyncio, os, pathlib
from sdqueue.agents import MemoAgent

async def broken(text, history):
    raise ValueError("no idea")

async def endless(text, history):
    pathlib.Path("began").write_text(text)
    await asyncio.Event().wait()

async def deadly(text, history):
    if text == "die" and not pathlib.Path("died").exists():
        pathlib.Path("died").write_text("")
        os.kill(os.getpid(), 9)
    return f"survived {text}"

async def wordy(text, history):
    for word in ("one ", "two ", "three"):
        yield word

async def gated(text, history):
    yield f"{len(history)} before, "
    pathlib.Path("began").write_text(text)
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)
    yield text

async def slow(text, history):
    await asyncio.sleep(0.5)
    return f"slowly {text}"

async def held(text, history):
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)
    return f"at last {text}"

class NoAgent:
    pass
"""


@dataclass
class Result:
    code: int
    out: str
    err: str


class Place:
    """A folder with agents in it, in which commands run; what is started is ended with the test."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        (folder / "agents.py").write_text(AGENTS)

    def environment(self, given: dict[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")}
        return {**kept, "SDQUEUE_PARTITIONS": "4", "COLUMNS": "120", "NO_COLOR": "1", **given}

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        environment = self.environment(options.pop("env", {}))
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE) | options
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sdqueue.cli", *arguments, env=environment, cwd=self.folder, **streams
        )
        self._stack.push_async_callback(end, process)
        return process

    async def run(self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
        process = await self.start(*arguments, env=env or {})
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())

    async def consumer(self, *arguments: str) -> asyncio.subprocess.Process:
        """A consumer that is ready."""
        process = await self.start("consumer", *arguments)
        await expect_line(process, " ready: ")
        return process


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


async def expect_line(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        async for line in process.stdout:
            if words in line.decode():
                return line.decode().strip()
    assert process.stderr is not None
    raise AssertionError(f"{words!r} was never printed; standard error: {(await process.stderr.read()).decode()}")


async def expect_end(process: asyncio.subprocess.Process, within: float = PATIENCE_S) -> int:
    async with asyncio.timeout(within):
        return await process.wait()


async def expect_began(place: Place, process: asyncio.subprocess.Process) -> None:
    """Wait until the endless agent has begun a turn; it tells nobody but the file system."""
    async with asyncio.timeout(PATIENCE_S):
        while not (place.folder / "began").exists():
            if process.returncode is not None:
                assert process.stderr is not None
                raise AssertionError(f"the process ended: {(await process.stderr.read()).decode()}")
            await asyncio.sleep(0.02)
