"""``sdqueue consumer --processes``: the supervisor and its children, as processes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path


async def test_children_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    """SIGKILL leaves it no time to tell them. Their output ends only when the last of them has."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")}
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sdqueue.cli", "consumer", "--processes", "2",
        stdout=asyncio.subprocess.PIPE, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert supervisor.stdout is not None
    async with asyncio.timeout(100):
        ready = [(await supervisor.stdout.readline()).decode() for _ in range(2)]
        assert all("ready" in line for line in ready), ready

        supervisor.kill()

        rest = (await supervisor.stdout.read()).decode()
        await supervisor.wait()
    assert rest.count("stopped") == 2
