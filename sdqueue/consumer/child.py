"""Child: a process of the consumer that runs agents and may die, seen from the consumer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Self

from sdqueue.consumer.frames import read_frame, write_frame

LAST_WORDS_S: Final = 1.0
"""The end of a process and the end of what it says come by different ways; the later of them is waited for so long."""

LEAVE_S: Final = 1.0
"""What a child that is let go may take for what its modules do at exit."""


class ChildEnded(Exception):
    """The child has ended instead of answering.

    Parameters:
        code: its exit code, negative for a signal; ``None``: it was killed because it took too long.
    """

    def __init__(self, code: int | None) -> None:
        super().__init__(end_of(code))
        self.code = code


class ChildNotStarted(Exception):
    """There is no child: it could not be made, or could not load the agent. The message says why."""


def end_of(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "killed, for it took too long"
    if code >= 0:
        return f"exit code {code}"
    known = -code in set(signal.Signals)  # most of those for real time have no name
    return f"signal {signal.Signals(-code).name if known else -code}"


class Child:
    """A process that has loaded the agent and takes turns, one at a time. See :mod:`sdqueue.consumer.isolated`.

    They talk over a socket of their own: an agent prints what it likes and may read standard input. It ends when the
    consumer does, however that ends, for then the socket is at its end.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = process.pid
        self.used = False
        """Whether it has been given a turn."""
        self._reader = reader
        self._writer = writer
        self._exit = asyncio.create_task(process.wait(), name=f"child {process.pid}")

    @classmethod
    async def start(cls, agent: str, *, timeout: float) -> Self:
        """Start a process and wait until it has loaded the agent.

        Parameters:
            agent: its name for :func:`~sdqueue.agents.load_agents`.
            timeout: seconds.

        Raises:
            ChildNotStarted: it could not.
        """
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                reader, writer = await asyncio.open_connection(sock=ours)
                try:
                    # In a group of its own: Ctrl-C in a terminal is for the consumer, and must not look like the
                    # turn's doing.
                    process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "sdqueue.consumer.isolated", str(theirs.fileno()), agent),
                        stdin=asyncio.subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
                except BaseException:
                    writer.close()
                    raise
        except OSError as error:
            raise ChildNotStarted(f"{type(error).__name__}: {error}") from error
        child = cls(process, reader, writer)
        try:
            said = await child._expect(read_frame(reader), timeout)
        except ChildEnded as ended:
            raise ChildNotStarted(str(ended)) from ended
        if "error" in said:
            await child.close()
            raise ChildNotStarted(said["error"])
        return child

    @property
    def living(self) -> bool:
        """Whether its end has not been seen."""
        return not self._exit.done()

    async def ask(
        self, request: str, *, timeout: float, on_said: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Give it a turn and wait for the answer. It has ended after anything but an answer, a cancellation included.

        Parameters:
            request: JSON.
            timeout: seconds.
            on_said: takes the pieces of a streamed answer.

        Raises:
            ChildEnded: it died, or was killed after that time.
        """
        self.used = True
        return await self._expect(self._exchange(request, on_said), timeout)

    async def close(self) -> None:
        """Let it go. It ends by itself, with all that its modules do at exit, or else is made to."""
        self._writer.close()
        await asyncio.wait({self._exit}, timeout=LEAVE_S)
        await self.kill()

    async def kill(self) -> None:
        """End it, and what it has started, and wait until it is gone."""
        self._writer.close()
        if self.living:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await asyncio.wait({self._exit})

    async def _exchange(self, request: str, on_said: Callable[[str], None] | None) -> dict[str, Any] | None:
        with suppress(OSError):  # that it is gone shows better in what comes back
            await write_frame(self._writer, request)
        while True:
            words = await read_frame(self._reader)
            if words is None or "said" not in words:
                return words
            if on_said is not None:
                on_said(words["said"])

    async def _expect(self, words: Coroutine[Any, Any, dict[str, Any] | None], timeout: float) -> dict[str, Any]:
        saying = asyncio.create_task(words)
        answer = code = None
        try:
            # Its end is watched besides the socket's: processes that it forked may hold that open.
            await asyncio.wait({saying, self._exit}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not self.living:
                await asyncio.wait({saying}, timeout=LAST_WORDS_S)
            if saying.done():
                answer = saying.result()
                if answer is None:
                    await asyncio.wait({self._exit}, timeout=LAST_WORDS_S)
        finally:
            if answer is None:
                code = None if self.living else self._exit.result()
                saying.cancel()
                await self.kill()
        if answer is None:
            raise ChildEnded(code)
        return answer
