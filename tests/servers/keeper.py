"""A process that keeps one server for a test run: ``python -m tests.servers.keeper KIND FOLDER``.

It outlives the process that asked for the server, because under pytest-xdist that is a worker, which may end before
the others; it ends with the run, even when that is killed. It returns to the shell when the server answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

from tests.servers.kinds import KINDS, Kind
from tests.servers.provide import NoServer, provide

WATCH_S: Final = 0.25


def held(path: Path) -> bool:
    """Whether a live process holds the lock on this file. The kernel releases a dead one's, so nothing can be stale."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def keep(kind: Kind, folder: Path) -> None:
    """Provide the server, write down how to reach it, and keep it until a signal or the end of the run."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    serving = asyncio.create_task(_serve(kind, folder))
    while not serving.done() and not over.is_set() and held(folder / "run.lock"):
        await asyncio.wait([serving], timeout=WATCH_S)
    serving.cancel()
    await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()


async def _serve(kind: Kind, folder: Path) -> None:
    try:
        async with provide(kind, os.environ, folder / f"{kind.marker}-data") as server:
            _write(folder / f"{kind.marker}.json", json.dumps(dataclasses.asdict(server)))
            await asyncio.Event().wait()
    except (NoServer, ValueError) as error:
        _write(folder / f"{kind.marker}.json", json.dumps({"missing": f"{error}"}))


def _write(path: Path, text: str) -> None:
    """Whole or not at all: others read it as soon as it exists."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(path)


def main(marker: str, folder: Path) -> int:
    """Fork the keeper, and return when it has written what came of it."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os.read(ready, 1)  # returns when the child closes its end, or dies
        return 0
    os.close(ready)
    os.setsid()
    with (folder / f"{marker}.keeper").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        asyncio.run(_until_over(marker, folder, tell))
    if not held(folder / "run.lock") and not any(held(path) for path in folder.glob("*.keeper")):
        shutil.rmtree(folder, ignore_errors=True)  # the run was killed and could not do it
    return 0


async def _until_over(marker: str, folder: Path, tell: int) -> None:
    keeping = asyncio.create_task(keep(KINDS[marker], folder))
    state = folder / f"{marker}.json"
    while not keeping.done() and not state.exists():
        await asyncio.wait([keeping], timeout=0.05)
    os.close(tell)
    await keeping


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
