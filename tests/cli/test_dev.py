"""``dev``: a broker, a consumer and a chat in one process, with its input from a pipe."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.cli.place import Place, expect_began, expect_end, expect_line

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other


async def test_dev_answers_what_is_piped_and_remembers_it_after_a_restart(place: Place) -> None:
    first = await place.run("dev", stdin="my name is Ada\n/session bob\nwhat is my name?\nmy name is Bob\n")
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [
        "I will remember that your name is Ada.",
        "You have not told me your name.",
        "I will remember that your name is Bob.",
    ]

    second = await place.run("dev", stdin="what is my name?\n/reset\nwhat is my name?\n")
    lines = second.out.splitlines()
    assert (second.code, lines[0], lines[-1]) == (0, "Your name is Ada.", "You have not told me your name.")
    bob = await place.run("dev", "--session", "bob", stdin="what is my name?\n/state")
    assert bob.out.startswith("Your name is Bob.\n")
    assert json.loads(bob.out.partition("\n")[2])["seq"] == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_dev_ends_soon_though_a_turn_is_running(place: Place, number: signal.Signals, code: int) -> None:
    process = await place.start("dev", "--agent", "agents:endless")
    assert process.stdin is not None
    process.stdin.write(b"hello\n")
    await expect_began(place, process)
    process.send_signal(number)
    assert await expect_end(process) == code
    assert "hello" in (await place.run("dev", "--agent", "agents:wordy", stdin="/state\nx\n/state\n")).out


async def test_a_thread_that_an_agent_has_left_running_is_not_waited_for(place: Place) -> None:
    """As a connection of aiosqlite has one until somebody closes it."""
    (place.folder / "threads.py").write_text(
        "import threading\n"
        "async def answer(text, history):\n"
        "    threading.Thread(target=threading.Event().wait, name='of the agent').start()\n"
        "    return 'started'\n"
    )
    ended = await place.run("dev", "--agent", "threads:answer", stdin="hello\n")
    assert (ended.code, ended.out) == (0, "started\n")
    assert "not waiting any longer for the threads that the agent has left: of the agent" in ended.err


async def test_dev_takes_an_own_agent_and_folder(place: Place) -> None:
    env = {"SDQUEUE_BROKER_URL": "amqp://nowhere.invalid", "SDQUEUE_STORE_URL": "redis://nowhere.invalid"}
    result = await place.run("dev", "--data", "here", "--agent", "agents:wordy", stdin="x\n", env=env)
    assert (result.code, result.out) == (0, "one two three\n")
    assert {"broker.db", "sessions.db", "dev.log"} <= {path.name for path in (place.folder / "here").iterdir()}
    assert not (place.folder / ".sdqueue").exists()


async def test_dev_answers_after_a_restart_what_was_waiting_when_it_was_killed(place: Place) -> None:
    """Given a turn in the middle of which the process is killed, when it starts again, then its reply is shown."""
    killed = await place.start("dev", "--agent", "agents:endless")
    assert killed.stdin is not None
    killed.stdin.write(b"my name is Ada\n")
    await expect_began(place, killed)
    killed.kill()
    await killed.wait()

    again = await place.start("dev")
    line = await expect_line(again, "said earlier")
    assert line == "(dev, said earlier) I will remember that your name is Ada."
    assert again.stdin is not None
    again.stdin.write(b"what is my name?\n")
    await expect_line(again, "Your name is Ada.")
    again.stdin.close()
    assert await expect_end(again) == 0

    assert "said earlier" not in (await place.run("dev", stdin="hello\n")).out


async def test_dev_logs_to_its_file_and_reports_a_failed_turn(place: Place) -> None:
    result = await place.run("dev", "--agent", "agents:broken", stdin="x\n")
    assert result.code == 1
    assert result.out == ""
    reported, *cause = result.err.splitlines()
    assert re.fullmatch(r"error: turn '\w+' of session 'dev' failed: .*", reported)
    assert cause[0] == "agent-failed: ValueError: no idea"
    assert re.search(r"agents\.py:\d+ in broken", "\n".join(cause)), "its author sees where it was raised"
    assert "agent-failed" in (place.folder / ".sdqueue" / "dev.log").read_text()
