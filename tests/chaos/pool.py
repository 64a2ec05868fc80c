"""The pool: consumer processes under test, started by the command line and ended by their ids."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos import agent
from tests.chaos.journal import FOLDER, events
from tests.servers.process import ended, launch, reap

ROOT: Final = Path(__file__).parents[2]

READY_S: Final = 60.0
STOP_S: Final = 45.0

UNEXPECTED: Final = ("Traceback", "Task exception was never retrieved", "Exception ignored")
"""How lines of a log begin that Python writes when something went wrong by itself."""


class Member:
    """One consumer process.

    Parameters:
        name: of the consumer, unique in the pool.
        process: which is tied to this one: it does not outlive it.
        log: what it writes.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.paused = False
        self.killed = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended; a paused one has not."""
        return self.process.poll() is None

    @property
    def consumes(self) -> bool:
        """Whether it has said that it does."""
        return " ready: " in self.log.read_text(errors="replace")

    async def ready(self) -> None:
        """Wait until it has said that it consumes.

        Raises:
            RuntimeError: it has ended instead, or does not come up; the message has the end of its log.
        """
        deadline = asyncio.get_running_loop().time() + READY_S
        while not self.consumes:
            if not self.alive or asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"consumer {self.name} is not ready:\n{self.tail()}")
            await asyncio.sleep(0.05)

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        reap(self.process)

    def pause(self) -> None:
        """SIGSTOP: its connections stay, and it knows nothing of the time that passes."""
        if self.alive:
            self.paused = True
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        if self.alive:
            self.process.send_signal(signal.SIGCONT)

    async def dead(self, within_s: float) -> bool:
        """Whether it ends within so many seconds, by itself."""
        return await ended(self.process, within_s)

    async def stopped(self, within_s: float) -> bool:
        """Whether the kernel shows it as stopped within so many seconds: by itself, see the act ``doze``."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.alive and asyncio.get_running_loop().time() < deadline:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] == "T":
                return True
            await asyncio.sleep(0.02)
        return False

    async def stop(self) -> int | None:
        """SIGTERM, and its exit code; ``None`` where it does not end within its grace period and is killed."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        self.resume()
        stopped = await ended(self.process, STOP_S)
        code = self.process.poll()
        reap(self.process)
        return code if stopped else None


class Pool:
    """All consumers of a scenario.

    Parameters:
        folder: for logs and journals.
        environment: the settings of the consumers.
        module: what is run, with the command line of ``sdqueue``.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], module: str = "sdqueue.cli") -> None:
        self.journal = folder / "journal"
        self.journal.mkdir(parents=True, exist_ok=True)
        self.members: list[Member] = []
        self.ended_badly: list[str] = []
        self._folder = folder
        self._module = module
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SDQUEUE_", "CHAOS_"))}
        self._environment = kept | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "producers")]),
            "SDQUEUE_AGENT": agent.NAME,
            FOLDER: str(self.journal),
            **environment,
        }

    @property
    def alive(self) -> list[Member]:
        """Those that have not ended and are not paused."""
        return [m for m in self.members if m.alive and not m.paused]

    async def start(
        self,
        count: int = 1,
        environment: Mapping[str, str] | None = None,
        *,
        module: str | None = None,
        ready: bool = True,
    ) -> list[Member]:
        """Start consumers and wait until they consume.

        Parameters:
            count: how many.
            environment: settings of these only.
            module: what is run; default: that of the pool.
            ready: whether to wait.
        """
        started = []
        for _ in range(count):
            name = f"c{len(self.members) + 1}"
            log = self._folder / f"{name}.log"
            command = [sys.executable, "-m", module or self._module, "consumer", "--name", name]
            started.append(Member(name, launch(command, log, self._environment | dict(environment or {})), log))
            self.members.append(started[-1])
        if ready:
            await asyncio.gather(*(member.ready() for member in started))
        return started

    async def stop(self, members: list[Member]) -> None:
        """Stop some in order, and note those that do not end well."""
        for member, code in zip(members, await asyncio.gather(*(m.stop() for m in members)), strict=True):
            if code != 0 and not member.killed:
                self.ended_badly.append(f"{member.name} ended with {code} after SIGTERM:\n{member.tail()}")

    async def keep(self, count: int) -> None:
        """Keep so many alive until cancelled, as a supervisor would. A paused one is none that works."""
        while True:
            missing = count - len(self.alive)
            if missing > 0:
                await self.start(missing, ready=False)  # it may meet its end before it is
            await asyncio.sleep(0.1)

    async def event(self, after: float, *, within_s: float, **fields: Any) -> dict[str, Any] | None:
        """The first event in the journals after a time that has these fields; ``None`` where there is none in time."""
        deadline = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < deadline:
            for event in events(self.journal):
                if event["mono"] > after and all(event[name] == value for name, value in fields.items()):
                    return event
            await asyncio.sleep(0.05)
        return None

    def defects(self) -> list[str]:
        """What consumers say of themselves that nobody expected, and how those ended that were told to."""
        found = list(self.ended_badly)
        for member in self.members:
            lines = member.log.read_text(errors="replace").splitlines()
            found += [
                f"{member.name}: {line}" for line in lines if line.startswith(UNEXPECTED) or "unexpected error" in line
            ]
        return found

    def close(self) -> None:
        """Kill all that are left."""
        for member in self.members:
            member.kill()
