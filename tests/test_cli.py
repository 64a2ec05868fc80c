"""The command line, as people and scripts use it: real processes, their output and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

AGENTS = """
import asyncio, os, pathlib
from sdqueue.agents import MemoAgent

async def broken(text, history):
    raise ValueError("no idea")

async def endless(text, history):
    pathlib.Path("began").write_text(text)
    await asyncio.Event().wait()

async def deadly(text, history):
    if text == "die" and not pathlib.Path("died").exists():
        pathlib.Path("died").write_text("")
        os.kill(os.getpid(), 9)
    return f"survived {text}"

async def wordy(text, history):
    for word in ("one ", "two ", "three"):
        yield word

async def slow(text, history):
    await asyncio.sleep(0.5)
    return f"slowly {text}"

class NoAgent:
    pass
"""


@dataclass
class Result:
    code: int
    out: str
    err: str


class Place:
    """A folder with agents in it, in which commands run; what is started is ended with the test."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        (folder / "agents.py").write_text(AGENTS)

    def environment(self, given: dict[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")}
        return {**kept, "SDQUEUE_PARTITIONS": "4", "COLUMNS": "120", "NO_COLOR": "1", **given}

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        environment = self.environment(options.pop("env", {}))
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE) | options
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sdqueue.cli", *arguments, env=environment, cwd=self.folder, **streams
        )
        self._stack.push_async_callback(end, process)
        return process

    async def run(self, *arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
        process = await self.start(*arguments, env=env or {})
        async with asyncio.timeout(40):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())

    async def consumer(self, *arguments: str) -> asyncio.subprocess.Process:
        """A consumer that is ready."""
        process = await self.start("consumer", *arguments)
        await expect_line(process, "ready: 4 partitions")
        return process


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


async def expect_line(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        async for line in process.stdout:
            if words in line.decode():
                return line.decode().strip()
    assert process.stderr is not None
    raise AssertionError(f"{words!r} was never printed; standard error: {(await process.stderr.read()).decode()}")


async def expect_end(process: asyncio.subprocess.Process, within: float = 20) -> int:
    async with asyncio.timeout(within):
        return await process.wait()


async def expect_began(place: Place, process: asyncio.subprocess.Process) -> None:
    """Wait until the endless agent has begun a turn; it tells nobody but the file system."""
    async with asyncio.timeout(30):
        while not (place.folder / "began").exists():
            if process.returncode is not None:
                assert process.stderr is not None
                raise AssertionError(f"the process ended: {(await process.stderr.read()).decode()}")
            await asyncio.sleep(0.02)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


# Help, versions and errors


async def test_help_shows_commands_examples_and_exit_codes(place: Place) -> None:
    shown = await place.run("--help")
    assert shown.code == 0
    for words in ("consumer", "dev", "chat", "send", "topology", "doctor", "settings", "Exit codes: 0 done"):
        assert words in shown.out
    shown = await place.run("consumer", "--help")
    for words in ("Examples", "--broker-url", "--lock-ttl-s", "--double-texting", "SIGTERM"):
        assert words in shown.out


async def test_version(place: Place) -> None:
    assert re.fullmatch(r"sdqueue \d+\.\d+\.\d+\S*\n", (await place.run("--version")).out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command"),
        (["send", "a"], 2, "Missing argument"),
        (["send", "a", "x", "--partitions", "many"], 2, "--partitions"),
        (["send", "a", "x", "--partitions", "0"], 2, "SDQUEUE_PARTITIONS (argument)"),
        (["send", "", "x"], 2, "session_id"),
        (["send", "a", "x", "--kind", "shout"], 2, "kind"),
        (["send", "a", "x", "--metadata", "[1]"], 2, "metadata: must be a JSON object"),
        (["send", "a", "x"], 1, "topology apply"),
        (["send", "a", "x", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["chat", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["consumer", "--broker-url", "memory://"], 2, "no other process can reach"),
        (["consumer", "--agent", "agents:nobody"], 2, "has no 'nobody'"),
        (["consumer", "--agent", "agents:nobody", "--processes", "2"], 2, "has no 'nobody'"),
        (["consumer", "--processes", "2", "--name", "x"], 2, "cannot name 2 processes"),
        (["consumer", "--processes", "2", "--metrics-port", "9"], 2, "cannot share"),
        (["topology", "show"], 1, "topology apply"),
        (["topology", "schema", "nonsense"], 2, "no schema 'nonsense'"),
        (["dev", "--data", "agents.py/x"], 2, "cannot be made"),
    ],
)
async def test_mistakes_are_one_message_and_an_exit_code(
    place: Place, arguments: list[str], code: int, message: str
) -> None:
    result = await place.run(*arguments)
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.code == code


async def test_a_broker_that_is_away_is_an_error_after_the_time_given(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        result = await place.run("send", "a", "x", "--timeout", "0.5", env={"SDQUEUE_BROKER_URL": url})
    assert result.code == 1
    assert "secret" not in result.err
    assert "Traceback" not in result.err


# The pool


async def test_a_pool_answers_send_and_chat(place: Place) -> None:
    consumer = await place.consumer("--name", "one")

    sent = await place.run("send", "u", "my name is Ada", "--id", "t1")
    assert (sent.code, sent.out) == (0, "t1\n")
    asked = await place.run("send", "u", "-", "--wait", stdin="what is my name?\n")
    assert (asked.code, asked.out) == (0, "Your name is Ada.\n")
    as_json = json.loads((await place.run("send", "u", "hi", "--wait", "--json", "--metadata", '{"k": 1}')).out)
    assert (as_json["text"], as_json["seq"]) == ("Message 3 of this session: hi", 3)
    assert as_json["metadata"] == {"k": 1, "consumer": "one"}
    again = await place.run("send", "u", "my name is Ada", "--id", "t1", "--wait")
    assert again.out == "I will remember that your name is Ada.\n"

    said = "what is my name?\n/session v\nwhat is my name?\n\n//slash\n/session\n/state\n/reset\n/quit\nnever said\n"
    chat = await place.run("chat", "u", stdin=said)
    assert (chat.code, chat.err) == (0, "")
    lines = chat.out.splitlines()
    assert lines[:4] == [
        "Your name is Ada.",
        "You have not told me your name.",
        "Message 2 of this session: /slash",
        "v",
    ]
    assert "never said" not in chat.out
    state = json.loads(chat.out[chat.out.index("{") : chat.out.rindex("}") + 1])
    assert state["session_id"] == "v"
    assert state["agent_state"] == {"facts": {}, "heard": 2}
    assert [m["content"] for m in state["chat_ctx"] if m["role"] == "user"] == ["what is my name?", "/slash"]
    assert state["turns"][0]["replies"][0]["text"] == "You have not told me your name."

    consumer.send_signal(signal.SIGTERM)
    assert await expect_end(consumer) == 0


async def test_a_failed_turn_is_an_exit_code(place: Place) -> None:
    await place.consumer("--agent", "agents:broken")

    failed = await place.run("send", "u", "x", "--wait", "--id", "t1")
    assert failed.code == 1
    assert failed.out == ""
    assert "'t1' of session 'u' failed" in failed.err
    as_json = await place.run("send", "u", "x", "--wait", "--json")
    assert (as_json.code, json.loads(as_json.out)["kind"]) == (1, "error")
    chat = await place.run("chat", "u", stdin="x\n/nonsense\n")
    assert chat.code == 1
    assert "failed" in chat.err
    assert "no command /nonsense" in chat.err


async def test_a_streamed_answer_is_printed_whole(place: Place) -> None:
    await place.consumer("--agent", "agents:wordy")

    assert (await place.run("send", "u", "x", "--wait", "--stream")).out == "one two three\n"
    replies = (await place.run("send", "u", "x", "--wait", "--stream", "--json")).out.splitlines()
    kinds = [json.loads(reply)["kind"] for reply in replies]
    assert kinds == ["delta"] * (len(kinds) - 1) + ["final"]
    assert "".join(json.loads(r)["text"] for r in replies[:-1]) == json.loads(replies[-1])["text"] == "one two three"


async def test_options_win_over_the_environment(place: Place) -> None:
    settings = await place.run(
        "settings", "--json", "--namespace", "mine", "--broker-url", "amqp://u:secret@h",
        env={"SDQUEUE_NAMESPACE": "theirs", "SDQUEUE_PREFETCH": "7"},
    )  # fmt: skip
    shown = json.loads(settings.out)
    assert (shown["namespace"]["value"], shown["namespace"]["source"]) == ("mine", "argument")
    assert (shown["prefetch"]["value"], shown["prefetch"]["source"]) == (7, "environment")
    assert shown["broker_url"]["value"] == "amqp://u:***@h"
    table = await place.run("settings", "--broker-url", "amqp://u:secret@h")
    assert "SDQUEUE_DOUBLE_TEXTING" in table.out
    assert "secret" not in table.out


async def test_a_first_signal_waits_for_running_turns_and_a_second_does_not(place: Place) -> None:
    """Given a turn that never ends, one SIGTERM waits for the grace period; two do not, and the turn is not lost."""
    consumer = await place.consumer("--agent", "agents:endless", "--grace-s", "600", "--name", "one")
    await place.run("send", "u", "hello", "--id", "t1")
    await expect_began(place, consumer)

    consumer.send_signal(signal.SIGTERM)
    with pytest.raises(TimeoutError):
        await expect_end(consumer, within=0.5)
    consumer.send_signal(signal.SIGTERM)
    assert await expect_end(consumer, within=10) == 0

    await place.consumer("--name", "two")
    answer = await place.run("send", "u", "hello", "--id", "t1", "--wait")
    assert answer.out == "Message 1 of this session: hello\n"


async def test_a_broker_that_is_not_up_yet_is_waited_for(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://127.0.0.1:{taken.getsockname()[1]}"
        consumer = await place.start("consumer", "--broker-url", url, stderr=asyncio.subprocess.STDOUT)
        await asyncio.sleep(1.5)  # refused all the time, and it goes on
        assert consumer.returncode is None
        consumer.send_signal(signal.SIGTERM)
        assert await expect_end(consumer) == 0


async def test_without_apply_a_consumer_waits_for_the_topology(place: Place) -> None:
    consumer = await place.start("consumer", "--no-apply")
    assert consumer.stderr is not None
    async with asyncio.timeout(20):
        assert b"not ready" in await consumer.stderr.readline()
    assert (await place.run("topology", "apply")).code == 0
    await expect_line(consumer, "ready: 4 partitions")


async def test_a_process_that_dies_is_replaced(place: Place) -> None:
    """Given two processes, when a turn kills its own, then another answers it, and there are two again."""
    pool = await place.start("consumer", "--processes", "2", "--agent", "agents:deadly", start_new_session=True)
    await expect_line(pool, "ready")
    await expect_line(pool, "ready")

    answer = await place.run("send", "u", "die", "--wait")
    assert answer.out == "survived die\n"
    await expect_line(pool, "ready")

    pool.send_signal(signal.SIGTERM)
    assert pool.stderr is not None
    assert "consumer died" in (await pool.stderr.read()).decode()
    assert await expect_end(pool) == 0


async def test_the_same_on_rabbitmq_and_redis(place: Place, amqp_url: str, redis_url: str, namespace: str) -> None:
    """Two URLs are all that changes; the client needs only the first."""
    broker = ("--broker-url", amqp_url, "--namespace", namespace)
    consumer = await place.consumer(*broker, "--store-url", redis_url)
    assert (await place.run("send", "u", "my name is Ada", *broker)).code == 0
    assert (await place.run("send", "u", "what is my name?", "--wait", *broker)).out == "Your name is Ada.\n"
    chat = await place.run("chat", "u", *broker, "--store-url", redis_url, stdin="/state\n")
    assert json.loads(chat.out)["agent_state"]["facts"] == {"name": "Ada"}
    consumer.send_signal(signal.SIGINT)
    assert await expect_end(consumer) == 0


# Topology and doctor


async def test_topology_is_applied_and_shown(place: Place) -> None:
    missing = json.loads((await place.run("topology", "show", "--json")).out)
    assert (missing["complete"], missing["queues"]["sdqueue.turns.0000"]) == (False, None)

    applied = await place.run("topology", "apply")
    assert (applied.code, applied.out) == (
        0,
        "sdqueue: 4 partitions are declared on sqlite:///.sdqueue/broker.db\n",
    )
    assert (await place.run("topology", "apply")).code == 0
    await place.run("send", "a", "x")  # partition 3 of 4
    shown = json.loads((await place.run("topology", "show", "--json")).out)
    assert (shown["complete"], shown["queues"]["sdqueue.turns.0003"]) == (True, 1)
    table = await place.run("topology", "show")
    assert re.search(r"sdqueue\.turns\.0003 +1 *\n", table.out)
    assert "4 partitions, 3 of them empty" in table.out

    other = await place.run("topology", "apply", "--partitions", "8")
    assert other.code == 1
    assert "4 partitions" in other.err


async def test_doctor_finds_everything_in_order_and_leaves_nothing_behind(place: Place) -> None:
    await place.run("topology", "apply")
    healthy = await place.run("doctor", "--json")
    report = json.loads(healthy.out)
    assert (healthy.code, report["ok"]) == (0, True)
    assert [check["name"] for check in report["checks"]] == [
        "settings", "versions", "clock", "broker", "topology", "permissions", "store", "lock", "agent",
    ]  # fmt: skip
    assert list((place.folder / ".sdqueue" / "sessions.db.locks").glob("*")) == []


async def test_doctor_says_what_to_do_about_each_failure(place: Place) -> None:
    (place.folder / "sessions.db").mkdir()
    sick = await place.run("doctor", "--store-url", "sqlite:///sessions.db", "--agent", "agents:NoAgent")
    assert sick.code == 1
    assert "Traceback" not in sick.err
    failed = re.findall(r"^FAIL  (\w+)", sick.out, re.MULTILINE)
    assert failed == ["topology", "store", "agent"]
    assert "-> run `sdqueue topology apply`" in sick.out
    assert "SDQUEUE_STORE_URL; now sqlite:///sessions.db" in sick.out
    assert "builds a NoAgent without turn, chat_ctx, load_chat_ctx" in sick.out

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://u:secret@127.0.0.1:{taken.getsockname()[1]}"
        away = await place.run("doctor", "--broker-url", url, "--timeout", "0.5", "--agent", "no.such:thing")
    assert away.code == 1
    assert re.findall(r"^FAIL  (\w+)", away.out, re.MULTILINE) == ["broker", "agent"]
    assert "secret" not in away.out + away.err


async def test_doctor_looks_at_real_servers(place: Place, amqp_url: str, redis_url: str, namespace: str) -> None:
    servers = ("--broker-url", amqp_url, "--namespace", namespace)
    assert (await place.run("topology", "apply", *servers)).code == 0
    healthy = await place.run("doctor", *servers, "--store-url", redis_url)
    assert healthy.code == 0, healthy.out
    assert "RabbitMQ" in healthy.out
    assert re.search(r"ok +redis +Redis \d+\.\d+\.\d+, clock", healthy.out)
    other = await place.run("doctor", *servers, "--store-url", redis_url, "--partitions", "5")
    assert other.code == 1
    assert re.findall(r"^FAIL  (\w+)", other.out, re.MULTILINE) == ["topology"]


# dev


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
    assert await expect_end(process, within=15) == code
    assert "hello" in (await place.run("dev", "--agent", "agents:wordy", stdin="/state\nx\n/state\n")).out


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
    assert re.fullmatch(r"error: turn '\w+' of session 'dev' failed: .*\n", result.err)
    assert "agent-failed" in (place.folder / ".sdqueue" / "dev.log").read_text()


def _terminal() -> tuple[int, int]:
    """Both ends of a pseudo-terminal."""
    try:
        return os.openpty()
    except OSError as error:
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
