"""``consumer``, ``send`` and ``chat``: consumers that answer from other processes, and how they end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket

import pytest

from tests.cli.manager import Manager
from tests.cli.place import PATIENCE_S, Place, expect_began, expect_end, expect_line

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other


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


async def test_a_streamed_answer_is_followed_by_whoever_comes_late(place: Place) -> None:
    await place.consumer("--agent", "agents:wordy")
    await place.run("send", "u", "x", "--wait", "--stream", "--id", "t1")

    assert (await place.run("follow", "u", "t1")).out == "one two three\n"
    replies = (await place.run("follow", "u", "t1", "--json")).out.splitlines()
    offset = json.loads(replies[0])["metadata"]["stream"]["offset"]
    assert (await place.run("follow", "u", "t1", "--json", "--after", offset)).out.splitlines() == replies[1:]
    missing = await place.run("follow", "u", "t2", "--timeout", "0.2")
    assert (missing.code, missing.out) == (1, "")
    assert "no stream of turn 't2'" in missing.err
    wrong = await place.run("follow", "u", "t1", "--after", "x")
    assert (wrong.code, "'x' is no offset" in wrong.err) == (1, True)


async def test_a_first_signal_waits_for_running_turns_and_a_second_does_not(place: Place, manager: Manager) -> None:
    """Given a turn that never ends, one SIGTERM waits for the grace period; two do not, and the turn is not lost."""
    consumer = await place.start(
        "consumer", "--agent", "agents:endless", "--grace-s", "600", "--name", "one", env=manager.environment()
    )
    await place.run("topology", "apply")
    await place.run("send", "u", "hello", "--id", "t1")
    await expect_began(place, consumer)

    consumer.send_signal(signal.SIGTERM)
    await manager.until("STOPPING=1")
    with pytest.raises(TimeoutError):
        await expect_end(consumer, within=0.5)
    consumer.send_signal(signal.SIGTERM)
    assert await expect_end(consumer) == 0

    await place.consumer("--name", "two")
    answer = await place.run("send", "u", "hello", "--id", "t1", "--wait")
    assert answer.out == "Message 1 of this session: hello\n"


async def test_a_broker_that_is_not_up_yet_is_waited_for(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://127.0.0.1:{taken.getsockname()[1]}"
        consumer = await place.start("consumer", "--broker-url", url, stderr=asyncio.subprocess.STDOUT)
        for _ in range(2):  # refused again and again, and it goes on
            await expect_line(consumer, "cannot connect to")
        assert consumer.returncode is None
        consumer.send_signal(signal.SIGTERM)
        assert await expect_end(consumer) == 0


@pytest.mark.parametrize(("arguments", "env"), [(["--no-apply"], {}), ([], {"SDQUEUE_APPLY": "false"})])
async def test_without_apply_a_consumer_waits_for_the_topology(
    place: Place, arguments: list[str], env: dict[str, str]
) -> None:
    consumer = await place.start("consumer", *arguments, env=env)
    assert consumer.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while b"the broker is not ready" not in (line := await consumer.stderr.readline()):
            assert line, "it has ended"
    assert (await place.run("topology", "apply")).code == 0
    await expect_line(consumer, "ready: 4 partitions")


async def test_an_option_wins_over_the_environment(place: Place) -> None:
    consumer = await place.start("consumer", "--apply", "--processes", "2", env={"SDQUEUE_APPLY": "false"})
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


async def test_every_line_is_one_write_even_without_buffering(place: Place) -> None:
    """Given two processes on one output, unbuffered as in most images, then no line is torn by the other's."""
    assert (await place.run("topology", "apply")).code == 0
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # which keeps writes apart
    with ours:
        with theirs:
            pool = await place.start(
                "consumer", "--log-level", "debug", env={"PYTHONUNBUFFERED": "1"}, stdout=theirs, stderr=theirs
            )
        answer = await place.run("send", "u", "hello", "--wait")
        assert answer.code == 0
        pool.send_signal(signal.SIGTERM)
        assert await expect_end(pool) == 0
        writes = list(iter(lambda: ours.recv(65536), b""))
    assert len(writes) >= 3
    assert [w for w in writes if not w.endswith(b"\n")] == []


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
