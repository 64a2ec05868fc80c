"""Lives: a producer that is begun again whenever it dies, each life with an end of its own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from tests.chaos.journal import events
from tests.nursery import NURSERY
from tests.producers.table.platforms.platform import Platform, pause
from tests.producers.table.wounded import Life, Wound, live

READY_S: Final = 60.0
LIFE_S: Final = 45.0
"""Seconds after which a life is ended in which nothing has come to the point that was to end it."""

STOP_S: Final = 45.0
RANDOM_S: Final = (0.0, 1.5)
"""Seconds for which a life lasts that ends at random."""

RANDOM: Final = "random"


@dataclass(frozen=True)
class Target:
    """An end: the point, or ``random``, and the platform whose messages or replies come to it."""

    platform: str
    point: str


@dataclass(frozen=True)
class Ends:
    """All ends that are to be met.

    Parameters:
        targets: in any order; one that was not met in a life comes again.
        passes: the least and most often that a point is passed in a life before it is the end of it.
    """

    targets: list[Target]
    passes: tuple[int, int]


class Lives:
    """One producer after the other, until all targets were met; the last one lives on.

    Parameters:
        folder: for the log and the journal.
        environ: of the processes.
        channels: that they serve.
        platforms: whose sessions tell to what a point belongs.
        ends: of the lives.
        chance: everything random.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        channels: str,
        platforms: list[Platform],
        ends: Ends,
        chance: random.Random,
    ) -> None:
        self.log = folder / "producer.log"
        self.journal = folder / "strikes"
        self.journal.mkdir(parents=True, exist_ok=True)
        self.strikes: Counter[Target] = Counter()
        self.strange: list[str] = []
        self.over = asyncio.Event()
        """All targets were met."""
        self._environ = environ
        self._arguments = ("producer", "--channels", channels, "--name", "producer")
        self._sessions = {platform.name: platform.sessions for platform in platforms}
        self._targets = list(ends.targets)
        self._passes = ends.passes
        self._chance = chance
        self._process: BaseProcess | None = None

    async def run(self) -> None:
        """Begin again and again, until cancelled; then the process that lives is told to stop."""
        try:
            while True:
                target = self._targets.pop(0) if self._targets else None
                if target is None:
                    self.over.set()
                await self._live(target)
        finally:
            await self._stop()

    async def _live(self, target: Target | None) -> None:
        log_at = self.log.stat().st_size if self.log.exists() else 0
        process = self._process = NURSERY.Process(
            target=live, args=(Life(self._environ, self._arguments, self.log, self.journal, self._wound(target)),)
        )
        await asyncio.to_thread(process.start)
        died = asyncio.create_task(self._died(process))
        try:
            if target is None:
                await died
            elif target.point == RANDOM:
                await self._ready(process, log_at)
                await asyncio.wait({died}, timeout=self._chance.uniform(*RANDOM_S))
                process.kill()
                await died
                self.strikes[target] += 1
                return
            else:
                await asyncio.wait({died}, timeout=LIFE_S)
                if not died.done():
                    process.kill()
                    await died
                if any(event["pid"] == process.pid for event in events(self.journal)):
                    self.strikes[target] += 1
                    return
                self._targets.append(target)
        finally:
            died.cancel()
        if process.exitcode != -9:
            self.strange.append(f"a producer ended with {process.exitcode}: {self._tail()}")
            await pause(1.0)

    def _wound(self, target: Target | None) -> Wound:
        if target is None or target.point == RANDOM:
            return Wound()
        passes, late = self._chance.randint(*self._passes), bool(self.strikes[target] % 2)
        return Wound(target.point, target.platform, self._sessions[target.platform], passes, late)

    async def _died(self, process: BaseProcess) -> None:
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(process.sentinel, event.set)
        try:
            await event.wait()
        finally:
            loop.remove_reader(process.sentinel)
        process.join()

    async def _ready(self, process: BaseProcess, log_at: int) -> None:
        until = time.monotonic() + READY_S
        while b" ready: " not in self.log.read_bytes()[log_at:] if self.log.exists() else True:
            if process.exitcode is not None or time.monotonic() > until:
                return
            await pause(0.02)

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.exitcode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._died(process)
        except TimeoutError:
            process.kill()
            await self._died(process)
        if process.exitcode != 0:
            self.strange.append(f"the last producer ended with {process.exitcode} after SIGTERM: {self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def told(self) -> list[dict[str, Any]]:
        """The lines of the log that are JSON; what is none and no plain word of the command line is ``text``."""
        lines: list[dict[str, Any]] = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                told = None
            lines.append(told if isinstance(told, dict) else {"text": line})
        return lines


def base_environ() -> dict[str, str]:
    """The environment of a process, without settings of sdqueue or of other tests."""
    root = Path(__file__).parents[3]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SDQUEUE_", "CHAOS_"))}
    return kept | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "producers")])}
