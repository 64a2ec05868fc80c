"""Processes that are fresh but need not import anything: each is forked from one that has imported what tests need.

A process of its own costs the seconds that the libraries of agents take to be imported. What it has seen when it begins
is the same, for the one that all are forked from runs nothing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

NURSERY: Final = multiprocessing.get_context("forkserver")
NURSERY.set_forkserver_preload(
    [
        "tests.agents.superdialog.relay",
        "tests.agents.superdialog.shop",
        "tests.agents.brains.process",
        "tests.superdialog_sessions.application",
        "tests.producers.table.wounded",
    ]
)
"""There is one such server in a process, and it takes this list when it starts: so all tests share it. What is not
installed is passed over."""


class Forked:
    """A process and its streams."""

    def __init__(self, process: BaseProcess, stdin: Connection, stdout: asyncio.StreamReader) -> None:
        self._process = process
        self._stdin = stdin
        self.stdout = stdout
        """What it prints, and at last the traceback of what it has raised."""

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        os.write(self._stdin.fileno(), f"{line}\n".encode())

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        await asyncio.to_thread(self._process.join)
        code = self._process.exitcode
        assert code is not None
        return code


@asynccontextmanager
async def forked(target: Callable[..., None], *args: Any, environ: Mapping[str, str]) -> AsyncIterator[Forked]:
    """Run a function in a process of its own, which is killed at the end of the block.

    Parameters:
        target: a function of a module, by whose name it is found there.
        args: its arguments, pickled.
        environ: its environment.
    """
    stdin, ours = NURSERY.Pipe(duplex=False)
    theirs, stdout = NURSERY.Pipe(duplex=False)
    process = NURSERY.Process(target=_run, args=(target, args, dict(environ), stdin, stdout))
    process.start()
    stdin.close()
    stdout.close()
    reader = asyncio.StreamReader()
    file = os.fdopen(os.dup(theirs.fileno()), "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    started = Forked(process, ours, reader)
    try:
        yield started
    finally:
        started.kill()
        await started.wait()
        process.close()
        transport.close()
        for end in (ours, theirs):
            end.close()


def _run(
    target: Callable[..., None], args: tuple[Any, ...], environ: Mapping[str, str], stdin: Connection, out: Connection
) -> None:
    warnings.simplefilter("error")
    os.environ.clear()
    os.environ.update(environ)
    for end, number in ((stdin, 0), (out, 1)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        target(*args)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        raise
