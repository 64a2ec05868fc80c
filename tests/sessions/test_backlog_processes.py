"""Backlogs that several processes use at once, and one whose process is killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

import pytest

from sdqueue.sessions import TurnBacklog
from sdqueue.testing.backlogs import waiting
from tests.sessions import backlog_process

KINDS = ["file", "sqlite", "redis"]

Where = Callable[[str], str]


@pytest.fixture
def where(tmp_path: Path, namespace: str, request: pytest.FixtureRequest) -> Where:
    """What names the store of a kind to a process."""

    def name(kind: str) -> str:
        if kind == "redis":
            return f"{request.getfixturevalue('redis_url')} {namespace}"
        return str(tmp_path / "sessions")

    return name


@pytest.mark.parametrize("kind", KINDS)
async def test_what_processes_append_is_worked_off_in_order(where: Where, kind: str) -> None:
    """Two processes append pairs of turns to one session while two others work them off, each what it finds.

    Nothing is lost, and at the end a turn that waits is listed. Each saw the turns of a process in their order; as
    two work them off without a lock, a turn may be seen by both.
    """
    parts = [("drain", kind, where(kind))] * 2 + [("append", kind, where(kind), f"w{n}") for n in range(2)]
    first, second, *writers = await asyncio.gather(*(start(*part) for part in parts))
    outputs = await asyncio.gather(*(writer.communicate(b"go\n") for writer in writers))
    assert [output for output, _ in outputs] == [b"True\n"] * 2
    seen = []
    for drain in (first, second):
        output, _ = await drain.communicate(b"stop\n")
        assert drain.returncode == 0
        seen.append(output.decode().split())
    async with backlog_process.opened(kind, where(kind)) as store:
        left = await waiting(store, "s")
        assert not left or set(await store.backlogged()) == {"s"}
    sent = {f"w{writer}.{n}{half}" for writer in range(2) for n in range(20) for half in "ab"}
    assert {*seen[0], *seen[1], *left} == sent
    for turns in [*seen, left]:
        for writer in range(2):
            mine = [turn for turn in turns if turn.startswith(f"w{writer}.")]
            assert mine == sorted(mine, key=_number), turns


def _number(turn: str) -> tuple[int, str]:
    return int(turn.partition(".")[2][:-1]), turn[-1]


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_killed_process_announced_waits(where: Where, kind: str) -> None:
    """A process is killed (SIGKILL) while it appends without a pause: all that it announced is there, in order."""
    for round_ in range(3):
        writer = await start("announce", kind, where(kind), f"r{round_}")
        assert writer.stdout is not None
        lines = [await writer.stdout.readline() for _ in range(8 + 5 * round_)]
        assert lines[-1], "the writer ended by itself"
        writer.kill()
        rest, _ = await writer.communicate()
        announced = (b"".join(lines) + rest[: rest.rfind(b"\n") + 1]).decode().split()
        async with backlog_process.opened(kind, where(kind)) as store:
            found = await store.deferred("s", count=100_000)
            mine = [turn for turn in found if turn.turn_id.startswith(f"r{round_}.")]
            assert [turn.turn_id for turn in mine][: len(announced)] == announced
            assert len(mine) <= len(announced) + 3
            assert {len(turn.body) for turn in mine} == {backlog_process.SIZE}
            assert "s" in await store.backlogged()
            await check_it_goes_on(store)


async def check_it_goes_on(store: TurnBacklog) -> None:
    """What the killed one left does not keep others from appending and taking out."""
    before = await waiting(store, "s")
    turn = backlog_process.turn("after")
    assert all(await store.defer("s", [turn], limit=100_000))
    assert await waiting(store, "s") == [*before, "after"]
    await store.undefer("s", ["after", *before[:2]])
    assert await waiting(store, "s") == before[2:]


async def start(*words: str) -> Process:
    """A process of its own that is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.sessions.backlog_process", *words, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process
