"""The local session stores in several processes at once."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import sdqueue
from sdqueue.sessions.stores import FileSessionStore, InMemorySessionStore, SQLiteSessionStore
from sdqueue.testing.records import say

WRITER = """
import asyncio, sys
from sdqueue.errors import VersionConflict
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.stores import FileSessionStore, SQLiteSessionStore
from sdqueue.testing.records import end, say

async def main(kind, where, writer):
    store = {"file": FileSessionStore, "sqlite": SQLiteSessionStore}[kind](where)
    sys.stdin.readline()
    for n in range(20):
        await store.begin("s", "t")
        while True:
            record = await store.load("s") or SessionRecord()
            say(record, f"{writer}.{n}")
            end(record, f"{writer}.{n}", "r")
            try:
                await store.save("s", record)
            except VersionConflict:
                continue
            break
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


KILLED = """
import asyncio, sys
from sdqueue.sessions.record import SessionRecord
from sdqueue.sessions.stores import FileSessionStore, SQLiteSessionStore
from sdqueue.testing.records import end, say

async def main(kind, where):
    store = {"file": FileSessionStore, "sqlite": SQLiteSessionStore}[kind](where)
    record = SessionRecord()
    while True:
        turn = f"t{record.stored.version}"
        await store.begin("s", turn)
        say(record, turn + ".a" * 2_000, turn + ".b" * 2_000)
        end(record, turn, "r" * 2_000)
        await store.save("s", record)
        print(record.version, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_processes_do_not_overwrite_each_other(tmp_path: Path, kind: str) -> None:
    """Three processes add twenty messages each to one session, without a lock.

    The interleaving that would lose one: A compares the version, B compares the version, A writes, B writes.
    """
    where = str(tmp_path / "sessions")
    writers = [await _python(WRITER, kind, where, str(n)) for n in range(3)]
    outputs = await asyncio.gather(*(writer.communicate(b"go\n") for writer in writers))
    assert [writer.returncode for writer in writers] == [0, 0, 0], outputs
    store = _open(kind, where)
    record = await store.load("s")
    assert record is not None
    texts = [message.content for message in record.chat_ctx.items]
    assert sorted(texts) == sorted(f"{writer}.{n}" for writer in range(3) for n in range(20))
    assert record.version == 60
    assert list(record.turns.outcomes) == texts
    assert await store.begin("s", "t") == 61
    await store.aclose()


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_killed_writer_leaves_a_whole_record(tmp_path: Path, kind: str) -> None:
    """A process is killed (SIGKILL) while it saves without a pause: all that it announced is there, whole."""
    where = str(tmp_path / "sessions")
    store = _open(kind, where)
    for round_ in range(3):
        await store.delete("s")
        writer = await _python(KILLED, kind, where)
        assert writer.stdout is not None
        lines = [await writer.stdout.readline() for _ in range(10 + 7 * round_)]
        assert lines[-1], "the writer ended by itself"
        writer.kill()
        rest, _ = await writer.communicate()
        announced = int((b"".join(lines) + rest[: rest.rfind(b"\n") + 1]).split()[-1])
        record = await store.load("s")
        assert record is not None
        assert announced <= record.version <= announced + 1
        assert len(record.chat_ctx.items) == 2 * record.version == 2 * len(list(record.turns))
        say(record, "and on")
        await store.save("s", record)
    await store.aclose()


def _open(kind: str, where: str) -> Any:
    if kind == "memory":
        return InMemorySessionStore()
    return FileSessionStore(where) if kind == "file" else SQLiteSessionStore(where)


async def _python(script: str, *arguments: str) -> asyncio.subprocess.Process:
    """A process of its own, with this sdqueue."""
    root = str(Path(sdqueue.__file__).parents[1])
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
