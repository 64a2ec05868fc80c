"""Lines from standard input, without stopping the event loop."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from types import TracebackType
from typing import Any, Self


class Lines:
    """Reads standard input line by line, with a prompt and line editing where it is a terminal.

    A thread waits for the input, since a terminal cannot be awaited. It is a daemon: Ctrl-C and SIGTERM must not
    wait for one more line. The terminal's state is put back, because a reading that is left behind cannot do it.
    """

    def __init__(self) -> None:
        self.terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._prompts: queue.SimpleQueue[tuple[str, asyncio.Future[str | None]]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._waiting = ""
        self._state: Any = None

    def __enter__(self) -> Self:
        if self.terminal:
            import readline  # noqa: F401 -- importing it gives input() its line editing
            import termios

            self._state = termios.tcgetattr(sys.stdin)
        threading.Thread(target=self._read, name="standard input", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._state)
            if self._waiting:
                print()

    async def next(self, prompt: str) -> str | None:
        """The next line without its end, ``None`` at the end of the input."""
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._prompts.put((prompt, answer))
        self._waiting = prompt
        line = await answer
        self._waiting = ""
        return line

    def tell(self, text: str) -> None:
        """Print a line that nobody asked for, above the prompt where one waits for input."""
        if not (self.terminal and self._waiting):
            print(text, flush=True)
            return
        import readline

        print(f"\r\033[K{text}\n{self._waiting}{readline.get_line_buffer()}", end="", flush=True)

    def _read(self) -> None:
        while True:
            prompt, answer = self._prompts.get()
            try:
                line = input(prompt) if self.terminal else sys.stdin.readline()
            except EOFError:
                line = ""
                print()
            else:
                line += "\n" if self.terminal else ""
            value = line.removesuffix("\n") if line else None
            try:
                self._loop.call_soon_threadsafe(_set, answer, value)
            except RuntimeError:
                return  # the loop was closed while this waited: nobody reads any more
            if value is None:
                return


def _set(answer: asyncio.Future[str | None], value: str | None) -> None:
    if not answer.done():
        answer.set_result(value)
