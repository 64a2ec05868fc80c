"""Whatever an agent does harms its own turn only: the session goes on with the saved state, and others run."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import pytest

from sdqueue.agents import StreamChunk, TurnResult
from tests.consumer import stand as stands
from tests.consumer.stand import Puppet, Stand


def raising(error: BaseException) -> Callable[[Puppet], Any]:
    async def act(_: Puppet) -> NoReturn:
        raise error

    return act


def giving(result: Any) -> Callable[[Puppet], Any]:
    async def act(_: Puppet) -> Any:
        return result

    return act


async def never(_: Puppet) -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


async def cancel_self(_: Puppet) -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return "not reached"


async def leave(_: Puppet) -> NoReturn:
    sys.exit(3)


async def own_cause(_: Puppet) -> NoReturn:
    error = ValueError("I am my own cause")
    raise error from error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


LOOP: list[Any] = []
LOOP.append(LOOP)


BROKEN: dict[str, tuple[Callable[[Puppet], Any], str, str]] = {
    "raises": (raising(ValueError("boom")), "agent-failed", "ValueError: boom"),
    "raises something unprintable": (raising(Unprintable()), "agent-failed", "cannot be shown"),
    "raises half a character": (raising(ValueError("\ud800")), "agent-failed", "\\ud800"),
    "raises an error that is its own cause": (own_cause, "agent-failed", "my own cause"),
    "raises megabytes": (raising(ValueError("x" * 3_000_000)), "agent-failed", "xxx"),
    "raises a stop of the iteration": (raising(StopIteration()), "agent-failed", "StopIteration"),
    "raises an exception group": (raising(ExceptionGroup("two", [ValueError()])), "agent-failed", "two"),
    "returns None": (giving(None), "bad-result", "NoneType"),
    "returns a number": (giving(5), "bad-result", "int '5'"),
    "returns an object": (giving(object()), "bad-result", "object"),
    "returns a dict without text": (giving({"reply": "x"}), "bad-result", "dict"),
    "returns a text that is none": (giving({"text": 7}), "bad-result", "dict"),
    "returns half a character": (giving("\ud800"), "bad-result", "cannot be written as JSON"),
    "returns metadata that is not JSON": (giving(TurnResult("x", metadata={"o": object()})), "bad-result", "JSON"),
    "returns metadata with half a character": (giving(TurnResult("x", metadata={"o": "\ud800"})), "bad-result", "JSON"),
    "returns metadata without end": (giving(TurnResult("x", metadata={"o": LOOP})), "bad-result", "JSON"),
    "returns metadata that is no dict": (giving({"text": "x", "metadata": 5}), "bad-result", "metadata"),
    "cancels itself": (cancel_self, "agent-failed", "cancelled its own task"),
    "raises a cancellation": (raising(asyncio.CancelledError()), "agent-failed", "cancelled its own task"),
    "exits": (leave, "agent-failed", "SystemExit"),
    "raises a keyboard interrupt": (raising(KeyboardInterrupt()), "agent-failed", "KeyboardInterrupt"),
}


@pytest.mark.parametrize(("act", "reason", "says"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "in pieces"])
async def test_a_broken_agent_harms_its_own_turn_only(
    stand: Stand, act: Callable[[Puppet], Any], reason: str, says: str, stream: bool
) -> None:
    async with stand.running({"break": act}) as member:
        await stand.send("s", "before")
        await stand.send("s", "break", id="broken", stream=stream)
        await stand.send("s", "behind")
        await stand.send("other", "hello")
        (letter,) = await stand.expect_dead()
        error = await stand.expect_reply("broken", kind="error")
        await member.watcher.expect_settled(4)
        assert member.watcher.of("internal_error") == []
    assert stand.answers("s") == ["1. before", "2. behind"], "something of the broken turn was saved"
    assert stand.answers("other") == ["1. hello"]
    assert (letter.reason, letter.turn_id, letter.session_id, letter.attempts) == (reason, "broken", "s", 1)
    assert says in letter.error
    assert len(letter.error) <= 1000
    assert letter.trace != ""
    assert (error.text, error.metadata["reason"]) == ("This message could not be answered.", reason)
    assert ("broken", "dead") in member.watcher.settled
    assert stand.begun("s") == {}


async def test_a_dead_turn_that_comes_again_gets_the_same_error_and_does_not_run(stand: Stand) -> None:
    ran: list[str] = []

    async def fail(_: Puppet) -> NoReturn:
        ran.append("x")
        raise ValueError

    async with stand.running({"fail": fail}) as member:
        for _ in range(2):
            await stand.send("s", "fail", id="again")
        assert await member.watcher.expect_settled(2) == [("again", "dead"), ("again", "duplicate")]
        await stand.expect_replies(2)
    assert ran == ["x"]
    assert stand.bodies[0] == stand.bodies[1]
    assert len(stand.dead) == 1


async def test_secrets_in_an_error_reach_neither_the_letter_nor_the_user(stand: Stand) -> None:
    act = raising(ValueError("POST https://bot:hunter2@host failed, api_key=sk-1234567890abcdef"))
    async with stand.running({"leak": act}):
        await stand.send("s", "leak", id="x")
        (letter,) = await stand.expect_dead()
        error = await stand.expect_reply("x", kind="error")
    everything = f"{stand.dead[0].message.headers}{error}"
    assert "hunter2" not in everything
    assert "1234567890" not in everything
    assert "https://bot:***@host" in letter.error


# Agents that take too long


async def test_an_agent_that_never_returns_is_stopped_at_its_deadline(stand: Stand) -> None:
    async with stand.running({"hang": never}, turn_timeout_s=60):
        await stand.send("s", "hang", id="slow", deadline_s=0.05)
        await stand.send("s", "next")
        (letter,) = await stand.expect_dead()
        error = await stand.expect_reply("slow", kind="error")
        await stand.expect_replies(2)
    assert (letter.reason, letter.attempts) == ("timeout", 1)
    assert "SDQUEUE_TURN_TIMEOUT_S" in letter.error
    assert error.text == "The answer took too long."
    assert stand.answers("s") == ["1. next"]


async def test_the_consumer_s_limit_holds_against_a_longer_deadline(stand: Stand) -> None:
    async with stand.running({"hang": never}, turn_timeout_s=0.05):
        await stand.send("s", "hang", deadline_s=3600)
        (letter,) = await stand.expect_dead()
    assert letter.reason == "timeout"


@pytest.mark.parametrize("late", ["an answer", "an error"])
async def test_what_an_agent_makes_of_its_cancellation_comes_too_late(stand: Stand, late: str) -> None:
    """Else a turn that ran out of time would be answered, or be tried again for a passing error."""

    async def act(_: Puppet) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if late == "an answer":
                return "too late"
            raise ConnectionError("aborted") from None
        return "not reached"

    async with stand.running({"hang": act}):
        await stand.send("s", "hang", deadline_s=0.05)
        await stand.send("s", "next")
        (letter,) = await stand.expect_dead()
        await stand.expect_replies(2)
    assert (letter.reason, letter.attempts) == ("timeout", 1)
    assert stand.answers("s") == ["1. next"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "in pieces"])
async def test_an_agent_that_swallows_its_cancellation_is_abandoned_and_named(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("sdqueue.consumer.answer.STOP_WITHIN_S", 0.05)
    let_go, gone = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async def stuck(_: Puppet) -> Any:
        async def pieces() -> AsyncIterator[StreamChunk]:
            yield StreamChunk("a")
            await hold()
            gone.set()
            yield StreamChunk("said long after its end", done=True)

        if stream:
            return pieces()
        await hold()
        gone.set()
        return "late"

    async with stand.running({"hang": stuck}) as member:
        await stand.send("s", "hang", id="stuck", deadline_s=0.05, stream=stream)
        await stand.send("s", "next")
        (letter,) = await stand.expect_dead()
        assert letter.reason == "timeout"
        (event,) = await member.watcher.expect("agent_stuck")
        assert event == {"session_id": "s", "turn_id": "stuck"}
        await stand.expect_reply("stuck", kind="error")
        let_go.set()
        await asyncio.wait_for(gone.wait(), stands.PATIENCE_S)
        after = await stand.send("s", "after")
        await stand.expect_reply(after)
    assert stand.answers("s") == ["1. next", "2. after"]
    assert "said long after its end" not in [r.text for r in stand.replies]


# Factories and state


@pytest.mark.parametrize(
    "error",
    [ValueError("no key"), SystemExit("no key"), asyncio.CancelledError("no key"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
async def test_a_factory_that_raises_harms_only_the_turn_that_needs_it(stand: Stand, error: BaseException) -> None:
    """Also where it raises again when the turn's end is to be remembered: that must not put it away for ever."""

    started: list[str] = []

    def factory() -> Puppet:
        started.append("x")
        if len(started) in (1, 2):  # the turn, and the remembering of its end
            raise error
        return Puppet()

    async with stand.running(factory) as member:
        await stand.send("bad", "x", id="bad")
        (letter,) = await stand.expect_dead()
        await stand.expect_reply("bad", kind="error")
        await stand.send("good", "x")
        await member.watcher.expect_settled(2)
        assert member.watcher.of("internal_error") == []
    assert (letter.reason, letter.attempts) == ("agent-failed", 0)
    assert stand.answers("good") == ["1. x"]
    assert len(stand.dead) == 1


@pytest.mark.parametrize("made", [None, 5, object()])
async def test_a_factory_that_makes_no_agent_harms_only_the_turn_that_needs_it(stand: Stand, made: Any) -> None:
    first = [made, made]
    async with stand.running(lambda: first.pop() if first else Puppet()) as member:
        await stand.send("bad", "x", id="bad")
        (letter,) = await stand.expect_dead()
        await stand.expect_reply("bad", kind="error")
        await stand.send("good", "x")
        await member.watcher.expect_settled(2)
        assert member.watcher.of("internal_error") == []
    assert letter.reason == "agent-failed"
    assert stand.answers("good") == ["1. x"]


@pytest.mark.parametrize(
    ("dumped", "reason", "says"),
    [
        (ValueError("cannot dump"), "agent-failed", "cannot dump"),
        (SystemExit(), "agent-failed", "SystemExit"),
        (object(), "record", "JSON"),
        (float("nan"), "record", "JSON"),
    ],
    ids=["raises", "exits", "object", "nan"],
)
async def test_a_state_that_cannot_be_saved_fails_the_turn_and_leaves_the_saved_one(
    stand: Stand, dumped: Any, reason: str, says: str
) -> None:
    class Dumper(Puppet):
        def dump_state(self) -> Any:
            broken = any(m.content == "break" for m in self.chat_ctx.items)
            if broken and isinstance(dumped, BaseException):
                raise dumped
            return dumped if broken else {"fine": True}

        def load_state(self, state: Any) -> None:
            assert state == {"fine": True}

    async with stand.running(Dumper) as member:
        for text in ("one", "break", "two"):
            await stand.send("s", text, id=text)
        await stand.send("other", "hello")
        (letter,) = await stand.expect_dead()
        await member.watcher.expect_settled(4)
        await stand.expect_replies(4)
    assert stand.answers("s") == ["1. one", "2. two"]
    assert stand.answers("other") == ["1. hello"]
    assert (letter.turn_id, letter.reason) == ("break", reason)
    assert says in letter.error


async def test_a_stream_that_fails_while_it_is_closed_does_not_hide_what_the_turn_failed_of(stand: Stand) -> None:
    """Given chunks that are none: the runner fails, and then the generator's own clean-up does."""

    async def broken(_: Puppet) -> AsyncIterator[Any]:
        async def pieces() -> AsyncIterator[Any]:
            try:
                yield "a string is no chunk"
            finally:
                raise RuntimeError("failed while closing")

        return pieces()

    async with stand.running({"break": broken}):
        await stand.send("s", "break", stream=True)
        (letter,) = await stand.expect_dead()
    assert "AttributeError" in letter.error


async def test_an_agent_that_blocks_the_loop_is_named(stand: Stand) -> None:
    """While it sleeps nothing else runs, but the log says which turn it is, while it lasts.

    A machine that stands still for a moment blocks the loop too; what is told of that is not looked at.
    """
    seen: list[dict[str, Any]] = []
    said = threading.Event()

    async def block(_: Puppet) -> str:
        deadline = time.monotonic() + stands.PATIENCE_S
        while not said.is_set() and time.monotonic() < deadline:
            time.sleep(0.02)
        return "slept"

    member = stand.member({"block": block})

    def loop_blocked(**event: Any) -> None:
        if "in block" in event["stack"]:
            seen.append(event)
            said.set()

    member.watcher.elsewhere["loop_blocked"] = loop_blocked
    async with stand.started(member):
        await stand.send("s", "block", id="sleeper")
        assert (await stand.expect_reply("sleeper")).text == "slept"
    assert seen[0]["task"] == "turn sleeper of session s"
    assert seen[0]["seconds"] >= 1
