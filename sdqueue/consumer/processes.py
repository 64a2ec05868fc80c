"""Several consumer processes under one supervisor, which replaces those that die."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

STABLE_S: Final = 30.0
"""A process that lived so long starts over with the shortest wait when it dies."""

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0


async def supervise(
    command: Sequence[str],
    *,
    processes: int,
    on_exit: Callable[[int, int, float], None] = lambda *_: None,
    on_stop: Callable[[], None] = lambda: None,
) -> int:
    """Run a command in several processes until told to stop.

    A process that ends by itself is started again after a wait that doubles from half a second to thirty, and begins
    anew after thirty seconds of life. SIGTERM and SIGINT are passed on to all, a second one too; then this returns
    when all have ended.

    Each process has a pipe as its standard input, which ends when this process does, however it ends: one that was
    killed cannot tell its children, and they need not outlive it.

    Parameters:
        command: program and arguments.
        processes: how many.
        on_exit: told of each end that was not asked for: process id, exit code (negative: the signal), wait in
            seconds.
        on_stop: called when it is told to stop, each time.

    Returns:
        0, or the first exit code other than 0 among the processes that were stopped.
    """
    stopping = asyncio.Event()
    living: set[asyncio.subprocess.Process] = set()

    def pass_on(number: int) -> None:
        on_stop()
        stopping.set()
        for process in living:
            if process.returncode is None:
                process.send_signal(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, pass_on, number)
    try:
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(_keep(command, stopping, living, on_exit)) for _ in range(processes)]
        return next((k.result() for k in keepers if k.result()), 0)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _keep(
    command: Sequence[str],
    stopping: asyncio.Event,
    living: set[asyncio.subprocess.Process],
    on_exit: Callable[[int, int, float], None],
) -> int:
    wait_s = FIRST_WAIT_S
    while True:
        started = time.monotonic()
        # A group of its own: Ctrl-C in a terminal reaches the supervisor only, which passes it on once.
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, start_new_session=True)
        living.add(process)
        if stopping.is_set():
            process.terminate()
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            # The supervisor itself is cancelled, or could not start another process: nobody else would end this one.
            if process.returncode is None:
                process.terminate()
                await process.wait()
            raise
        finally:
            living.discard(process)
        if stopping.is_set():
            return code
        if time.monotonic() - started > STABLE_S:
            wait_s = FIRST_WAIT_S
        on_exit(process.pid, code, wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await stopping.wait()
        except TimeoutError:
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        else:
            return 0
