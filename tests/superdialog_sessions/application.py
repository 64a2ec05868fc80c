"""An application on superdialog's own worker, for a process of its own: :func:`run`.

It says ``ready``, waits for a line, takes its turns in all
sessions at once, and writes each with its answer as a line of JSON when its block has ended. After the first turn in
each session it says ``begun`` and waits for another line, so that two such processes are sure to meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from superdialog.session import SessionWorker

from sdqueue import (
    FileLockBackend,
    FileSessionStore,
    Keyring,
    RedisLockBackend,
    RedisSessionKeys,
    RedisSessionStore,
    Sealer,
    SQLiteSessionStore,
    VersionConflict,
)
from tests.superdialog_sessions.brains import BRAINS


@dataclass(frozen=True)
class Plan:
    """What a process does.

    Parameters:
        backend: ``file``, ``sqlite``, ``redis``, or ``redis-sealed``.
        where: a directory, or the address of a Redis.
        namespace: the prefix of keys in Redis.
        name: of the process, the first word of each text.
        max_sessions: so many agents the worker keeps.
        turns: in each session.
        sessions: for each brain.
        dies_after: it kills itself when it has written so many turns, whatever its other sessions are doing.
    """

    backend: str
    where: str
    namespace: str
    name: str
    max_sessions: int
    turns: int = 12
    sessions: int = 2
    dies_after: int | None = None


def open_backends(plan: Plan) -> dict[str, Any]:
    """The one line that a user changes, and the lock that several processes need."""
    if plan.backend == "file":
        return {
            "store": FileSessionStore(f"{plan.where}/sessions"),
            "lock_backend": FileLockBackend(f"{plan.where}/locks"),
        }
    if plan.backend == "sqlite":
        return {
            "store": SQLiteSessionStore(f"{plan.where}/sessions.db"),
            "lock_backend": FileLockBackend(f"{plan.where}/locks"),
        }
    sealer = None
    if plan.backend == "redis-sealed":
        sealer = Sealer(Keyring({"k1": b"1" * 32}), RedisSessionKeys(plan.where, namespace=plan.namespace))
    return {
        "store": RedisSessionStore(plan.where, namespace=plan.namespace, sealer=sealer),
        "lock_backend": RedisLockBackend(plan.where, namespace=plan.namespace),
    }


async def take(worker: Any, session_id: str, text: str) -> tuple[str, int]:
    """Take a turn as docs/drop-in.md says, again where its agent was stale. Returns the answer and how often it was."""
    conflicts = 0
    while True:
        try:
            async with worker.acquire(session_id) as handle:
                result = await handle.turn(text)
        except VersionConflict:
            conflicts += 1
            with contextlib.suppress(VersionConflict):
                await worker.close_session(session_id)
        else:
            return result.text, conflicts


class Voice:
    """Writes down the turns of a process."""

    def __init__(self, plan: Plan) -> None:
        self._left = plan.dies_after

    def say(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        if self._left is not None:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


async def talk(worker: Any, session_id: str, plan: Plan, voice: Voice, numbers: Iterable[int]) -> None:
    """Some turns of a session."""
    for number in numbers:
        await asyncio.sleep(0.02)  # a person thinks; meanwhile the other process gets a word in
        text = f"{plan.name} {number}"
        answer, conflicts = await take(worker, session_id, text)
        voice.say({"session_id": session_id, "text": text, "answer": answer, "conflicts": conflicts})


async def main(plan: Plan) -> None:
    """Ready, wait, begin, wait, talk."""
    # Wherever the same store is used by several workers, no two of them have a session in common.
    workers = {
        name: SessionWorker(agent_factory=brain, max_sessions=plan.max_sessions, **open_backends(plan))
        for name, brain in BRAINS.items()
    }
    voice = Voice(plan)
    for word, numbers in (("ready", range(1)), ("begun", range(1, plan.turns))):
        print(word, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        async with asyncio.TaskGroup() as group:
            for name, worker in workers.items():
                for number in range(plan.sessions):
                    group.create_task(talk(worker, f"{name}-{number}", plan, voice, numbers))


def run(plan: Plan) -> None:
    """Be such a process."""
    asyncio.run(main(plan))
