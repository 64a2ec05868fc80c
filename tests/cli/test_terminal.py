"""``dev`` at a terminal: the prompt, what is typed, and what comes in between."""

from __future__ import annotations

import os
import signal

from tests.cli.place import Place, expect_began, expect_end
from tests.cli.terminal import Terminal, terminal_pair


async def test_dev_at_a_terminal(place: Place) -> None:
    """A prompt with the session's name, answers below it, no log lines; and the terminal is left as it was."""
    import termios

    terminal, side = terminal_pair()
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

    terminal, side = terminal_pair()
    try:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), side)
        process = await place.start("dev", "--agent", "agents:held", start_new_session=True, **streams)
        shown = Terminal(terminal)
        await shown.expect("dev> ")
        shown.type("half a li")
        await shown.expect("half a li")  # it has been read
        (place.folder / "go").write_text("")
        await shown.expect("(dev, said earlier) at last hello\r\n")
        await shown.expect("dev> half a li")
        shown.type("ne\n")
        await shown.expect("at last half a line")
        await shown.expect("dev> ")  # readline takes over the terminal here; a Ctrl-D before that may be lost with it
        shown.type("\x04")
        assert await expect_end(process) == 0
    finally:
        os.close(terminal)
        os.close(side)
