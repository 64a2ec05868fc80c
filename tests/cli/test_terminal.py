"""``dev`` at a terminal: the prompt, what is typed, and what comes in between."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.cli.place import Place, expect_began, expect_end


def _terminal() -> tuple[int, int]:
    """Both ends of a pseudo-terminal."""
    try:
        return os.openpty()
    except OSError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"this machine has no pseudo-terminals (is /dev/pts mounted?): {error}")


async def test_dev_at_a_terminal(place: Place) -> None:
    """A prompt with the session's name, answers below it, no log lines; and the terminal is left as it was."""
    import termios

    terminal, side = _terminal()
    before = termios.tcgetattr(side)
    try:
        process = await place.start("dev", stdin=side, stdout=side, stderr=side, start_new_session=True)
        shown = Terminal(terminal)
        await shown.expect("dev> ")
        shown.type("my name is Ada\n")
        await shown.expect("I will remember that your name is Ada.")
        shown.type("/session bob\n")
        await shown.expect("bob> ")
        shown.type("/help\n")
        await shown.expect("/state")
        shown.type("/session \x01\n")
        await shown.expect("bob> ")
        process.send_signal(signal.SIGINT)
        assert await expect_end(process) == 130
        assert termios.tcgetattr(side) == before
        assert "level" not in shown.text
    finally:
        os.close(terminal)
        os.close(side)


async def test_a_late_reply_at_a_terminal_leaves_the_prompt_and_what_was_typed(place: Place) -> None:
    killed = await place.start("dev", "--agent", "agents:endless")
    assert killed.stdin is not None
    killed.stdin.write(b"hello\n")
    await expect_began(place, killed)
    killed.kill()
    await killed.wait()

    terminal, side = _terminal()
    try:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), side)
        process = await place.start("dev", "--agent", "agents:slow", start_new_session=True, **streams)
        shown = Terminal(terminal)
        await shown.expect("dev> ")
        shown.type("half a li")
        await shown.expect("(dev, said earlier) slowly hello\r\n")
        await shown.expect("dev> half a li")
        shown.type("ne\n")
        await shown.expect("slowly half a line")
        await shown.expect("dev> ")  # readline takes over the terminal here; a Ctrl-D before that may be lost with it
        shown.type("\x04")
        assert await expect_end(process) == 0
    finally:
        os.close(terminal)
        os.close(side)


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
            async with asyncio.timeout(20):
                while (at := self.text.find(words, self._seen)) < 0:
                    await readable.wait()
                    readable.clear()
                    self.text += os.read(self._fd, 4096).decode(errors="replace")
            self._seen = at + len(words)
        except TimeoutError:
            raise AssertionError(f"{words!r} was not shown; shown was {self.text!r}") from None
        finally:
            loop.remove_reader(self._fd)
