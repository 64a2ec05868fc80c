"""A rolling upgrade under load, and back: consumers of two releases side by side on one RabbitMQ and one Redis.

``python -m tests.deploy.upgrade OLD NEW`` takes the ``sdqueue`` commands of two releases, each in a venv of its own::

    git worktree add /tmp/old <commit> && python3 -m venv /tmp/old/.venv && /tmp/old/.venv/bin/pip install /tmp/old
    .venv/bin/python -m tests.deploy.upgrade /tmp/old/.venv/bin/sdqueue .venv/bin/sdqueue

While turns are sent, the consumers of the old release are replaced by those of the new one, one after the other as a
Deployment does it (a new one is ready before an old one is told to go), and then the other way round. It prints what
was lost, doubled or out of order, and fails unless that is nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.chaos.pool import Member
from tests.deploy.judging import Verdict, judge
from tests.servers.kinds import RABBITMQ, REDIS
from tests.servers.process import launch
from tests.servers.rabbitmq import LocalRabbitMQ
from tests.servers.redis import LocalRedis

TOP: Final = Path(__file__).parents[2]
AGENT: Final = TOP / "tests" / "deploy" / "agent"


class Pool:
    """Consumers of whatever release, one at a time.

    Parameters:
        folder: for their logs.
        environment: the settings of all.
        kill: whether consumers go by SIGKILL instead of SIGTERM.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, kill: bool) -> None:
        self.members: list[Member] = []
        self.problems: list[str] = []
        self._folder = folder
        self._kill = kill
        self._environment = environment
        self._started = 0

    async def add(self, command: str) -> None:
        """Start one, and return when it takes turns."""
        self._started += 1
        name = f"c{self._started}"
        log = self._folder / f"{name}.log"
        self.members.append(Member(name, launch([command, "consumer", "--name", name], log, self._environment), log))
        await self.members[-1].ready()

    async def drop(self) -> None:
        """End the one that has been here longest."""
        member = self.members.pop(0)
        if self._kill:
            member.kill()
        elif (code := await member.stop()) != 0:
            self.problems.append(f"{member.name} ended with {code} after SIGTERM:\n{member.tail()}")
        lines = member.log.read_text(errors="replace").splitlines()
        self.problems += [f"{member.name}: {line}" for line in lines if "Traceback" in line or "unexpected" in line]

    async def replace(self, command: str) -> None:
        """Put one of this release in the place of each."""
        for _ in range(len(self.members)):
            await self.add(command)
            await self.drop()


async def play(old: str, new: str, arguments: argparse.Namespace, folder: Path) -> tuple[Verdict, list[str]]:
    """Upgrade and go back under load; what came of it, and what went wrong besides."""
    rabbitmq = LocalRabbitMQ(folder / "rabbitmq", RABBITMQ.release(os.environ).system(os.environ))
    redis = LocalRedis(folder / "redis", REDIS.release(os.environ).system(os.environ))
    try:
        await rabbitmq.start()
        await redis.start()
        print(f"{await rabbitmq.version()}, {await redis.version()}", flush=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SDQUEUE_")}
        settings = {"SDQUEUE_BROKER_URL": rabbitmq.url, "SDQUEUE_STORE_URL": redis.url}
        pool = Pool(
            folder, kept | settings | {"SDQUEUE_AGENT": "listing:answer", "PYTHONPATH": str(AGENT)}, kill=arguments.kill
        )
        for _ in range(arguments.consumers):
            await pool.add(old)
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.deploy.load", "--sessions", str(arguments.sessions),
            "--rate", str(arguments.rate), cwd=TOP, env=kept | settings, limit=1 << 26,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert load.stdin
        assert load.stdout
        reading = asyncio.create_task(load.stdout.read())
        for command in (new, old):
            await asyncio.sleep(arguments.between)  # both releases alone for a while, and the same turns under both
            await pool.replace(command)
            print(f"all {arguments.consumers} consumers are of {command}", flush=True)
        load.stdin.close()
        evidence = json.loads((await reading).decode().splitlines()[-1])
        for _ in range(arguments.consumers):
            await pool.drop()
        return judge(evidence), pool.problems
    finally:
        redis.close()
        rabbitmq.close()


async def main() -> int:
    """Play it and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="the sdqueue command of the older release")
    parser.add_argument("new", help="the sdqueue command of the newer release")
    parser.add_argument("--consumers", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--rate", type=float, default=40.0, help="turns a second, all sessions together")
    parser.add_argument("--between", type=float, default=8.0, help="seconds with consumers of one release only")
    parser.add_argument("--kill", action="store_true", help="end consumers by SIGKILL")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdqueue-upgrade-") as folder:
        verdict, problems = await play(
            os.path.abspath(arguments.old), os.path.abspath(arguments.new), arguments, Path(folder)
        )
    print(
        f"{verdict.turns} turns of {verdict.sessions} sessions: {verdict.lost} lost, {verdict.doubled} doubled, "
        f"{verdict.disordered} out of order, {verdict.failed} failed, {verdict.repeats} replies repeated"
    )
    print(*verdict.details[:20], *problems, sep="\n")
    return 0 if verdict.clean and not problems and verdict.turns else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
