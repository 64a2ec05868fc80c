"""A pseudo-terminal, as a person would sit at it."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.cli.place import PATIENCE_S


def terminal_pair() -> tuple[int, int]:
    """Both ends of a pseudo-terminal."""
    try:
        return os.openpty()
    except OSError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"this machine has no pseudo-terminals (is /dev/pts mounted?): {error}")


class Terminal:
    """The master end of a terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen = 0
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    async def expect(self, words: str) -> None:
        """Wait until this is shown, after what was expected before."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, readable.set)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (at := self.text.find(words, self._seen)) < 0:
                    await readable.wait()
                    readable.clear()
                    self.text += os.read(self._fd, 4096).decode(errors="replace")
            self._seen = at + len(words)
        except TimeoutError:
            raise AssertionError(f"{words!r} was not shown; shown was {self.text!r}") from None
        finally:
            loop.remove_reader(self._fd)
