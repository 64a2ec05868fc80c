"""Failures that pass are tried again in place, from the saved state; everything else is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import Future, RetryCallState
from tenacity.wait import wait_base

from sdqueue.consumer import RetryPolicy, is_transient
from sdqueue.consumer.failure import AgentFailed, IsolatedAgentError
from sdqueue.consumer.retry import retry_after
from sdqueue.errors import (
    LockLost,
    RecordCorrupt,
    RecordError,
    RecordSealed,
    RecordTooNew,
    StoreUnavailable,
    TurnTimeout,
    VersionConflict,
    WrongKey,
)
from tests.consumer.stand import Puppet, Stand, failing


class HttpError(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status_code = status
        self.headers = headers


class NoWait(wait_base):
    """No wait; the function is told of each."""

    def __init__(self, told: Callable[[RetryCallState], object]) -> None:
        self._told = told

    def __call__(self, retry_state: RetryCallState) -> float:
        self._told(retry_state)
        return 0.0


class Failing:
    """Fails with each of these errors, then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.states: list[str] = []

    async def __call__(self, agent: Puppet) -> str:
        self.states.append(agent.plain("seen"))
        if self.errors:
            raise self.errors.pop(0)
        return agent.plain("answered")


async def test_each_attempt_starts_from_the_saved_state(stand: Stand) -> None:
    act = Failing(ConnectionError("hung up"), HttpError(503))
    async with stand.running({"try": act}) as member:
        await stand.send("s", "before")
        await stand.send("s", "try", id="t")
        await stand.send("s", "behind")
        await stand.expect_replies(3)
        retried = member.watcher.of("turn_retried")
    assert act.states == ["2. seen"] * 3
    assert stand.answers("s") == ["1. before", "2. answered", "3. behind"], "the session's order did not hold"
    assert [(e["turn_id"], e["attempt"], e["error"]) for e in retried] == [
        ("t", 1, "ConnectionError: hung up"),
        ("t", 2, "HttpError: HTTP 503"),
    ]


async def test_after_the_last_attempt_the_turn_is_dead(stand: Stand) -> None:
    act = Failing(*[HttpError(500)] * 9)
    async with stand.running({"try": act}):
        await stand.send("s", "try")
        (letter,) = await stand.expect_dead()
    assert (letter.attempts, letter.reason) == (3, "agent-failed")
    assert len(act.states) == 3


@pytest.mark.parametrize("error", [ValueError("bug"), HttpError(400), TurnTimeout("own")])
async def test_what_does_not_pass_is_not_tried_again(stand: Stand, error: Exception) -> None:
    act = Failing(error)
    async with stand.running({"try": act}):
        await stand.send("s", "try")
        (letter,) = await stand.expect_dead()
    assert letter.attempts == 1


async def test_what_the_store_failed_at_before_does_not_lengthen_the_wait_for_the_agent(stand: Stand) -> None:
    """Given a store that was away for some attempts, the agent's failures are waited for by their own number."""
    numbers: list[int] = []

    class Noting(RetryPolicy):
        def wait(self) -> wait_base:
            return NoWait(lambda state: numbers.append(state.attempt_number))

    act = Failing(HttpError(503), HttpError(503))
    async with stand.running({"try": act}, retry=Noting()) as member:
        member.faults.arm("load", *[failing(StoreUnavailable("away"))] * 3)
        await stand.send("s", "try")
        await stand.expect_replies(1)
    assert numbers == [1, 2]


async def test_other_sessions_go_on_while_one_waits_for_its_next_attempt(stand: Stand) -> None:
    act = Failing(HttpError(429, **{"retry-after": "60"}))
    async with stand.running({"try": act}, grace_s=0) as member:
        await stand.send("waits", "try")
        await member.watcher.expect("turn_retried")
        for n in range(5):
            await stand.send(f"s{n}", "x")
        await stand.expect_replies(5)
        assert "waits" not in {r.session_id for r in stand.replies}


@pytest.mark.usefixtures("clock")
async def test_retry_after_is_waited_for(stand: Stand) -> None:
    act = Failing(HttpError(429, **{"retry-after": "0.2"}))
    async with stand.running({"try": act}) as member:
        await stand.send("s", "try")
        await stand.expect_replies(1)
        (event,) = member.watcher.of("turn_retried")
    assert event["delay_s"] == 0.2


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(stand: Stand) -> None:
    act = Failing(HttpError(429, **{"retry-after": "60"}))
    async with stand.running({"try": act}):
        await stand.send("s", "try", deadline_s=30)
        (letter,) = await stand.expect_dead()
    assert (letter.attempts, letter.error) == (1, "HttpError: HTTP 429")


@pytest.mark.usefixtures("clock")
async def test_the_deadline_is_for_all_attempts_and_the_waits_between_them(stand: Stand) -> None:
    act = Failing(*[HttpError(429, **{"retry-after": "0.1"})] * 20)
    async with stand.running({"try": act}, retry=RetryPolicy(max_attempts=20, first_s=0.001)):
        await stand.send("s", "try", deadline_s=0.35)
        (letter,) = await stand.expect_dead()
    assert letter.attempts == 4


# Backends that are away


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("point", ["load", "begin", "save"])
async def test_a_store_that_is_away_is_no_failed_attempt(stand: Stand, point: str) -> None:
    """Longer than the agent's own time, and more often than it may fail. Nothing is acknowledged meanwhile."""
    act = Failing(*[HttpError(500)] * 2)
    async with stand.running({"try": act}, turn_timeout_s=0.5) as member:
        member.faults.arm(point, *[failing(StoreUnavailable("away")) for _ in range(3)])
        frozen = member.faults.freeze(point)
        await stand.send("s", "try", id="t")
        await frozen.expect_reached()
        assert member.watcher.settled == []
        frozen.go_on.set()
        assert (await stand.expect_reply("t")).text == "1. answered"
        await member.watcher.expect_settled(1)
        away = member.watcher.of("backend_away")
    assert len(away) >= 3
    assert {event["backend"] for event in away} == {"store"}
    assert stand.dead == []
    assert (await stand.record("s")).seq == 1
    assert stand.begun("s") == {}


@pytest.mark.parametrize("error", [RecordTooNew, RecordSealed, WrongKey])
async def test_a_record_that_another_process_can_read_waits_for_it(stand: Stand, error: type[RecordError]) -> None:
    """In the middle of an upgrade, or of a change of keys, nothing is condemned."""
    async with stand.running() as member:
        member.faults.arm("load", *[failing(error("schema 2, this release reads up to 1"))] * 3)
        await stand.send("s", "hello", id="t")
        assert (await stand.expect_reply("t")).text == "1. hello"
        away = member.watcher.of("backend_away")
    assert len(away) == 3
    assert "schema 2" in away[0]["error"]
    assert stand.dead == []


@pytest.mark.usefixtures("clock")
async def test_waiting_for_the_session_is_not_on_the_agent_s_time(stand: Stand) -> None:
    """Given somebody who holds the session for longer than the turn may take."""
    async with stand.running(turn_timeout_s=0.05) as member:
        async with stand.locks.acquire("s"):
            await stand.send("s", "x", id="t")
            await member.watcher.expect("turn_received")
            await asyncio.sleep(0.1)
        assert (await stand.expect_reply("t")).text == "1. x"


@pytest.mark.parametrize("lost", [LockLost("expired"), VersionConflict("s", expected=0, found=1)])
async def test_a_session_that_was_lost_at_the_save_is_taken_up_again(stand: Stand, lost: Exception) -> None:
    act = Failing()
    async with stand.running({"try": act}) as member:
        member.faults.arm("save", failing(lost))
        await stand.send("s", "try", id="t")
        assert (await stand.expect_reply("t")).text == "1. answered"
        assert await member.watcher.expect_settled(1) == [("t", "completed")]
    assert act.states == ["1. seen"] * 2


@pytest.mark.usefixtures("clock")
async def test_attempts_that_could_not_be_saved_are_neither_counted_nor_on_the_agent_s_time(stand: Stand) -> None:
    """Given three attempts of 0.2 s each that succeed and cannot be saved, and then as many failures as are allowed."""
    tries: list[int] = []

    async def act(agent: Puppet) -> str:
        tries.append(1)
        if len(tries) <= 3:
            await asyncio.sleep(0.2)
        elif len(tries) <= 5:
            raise HttpError(500)
        return agent.plain("answered")

    async with stand.running({"try": act}, turn_timeout_s=0.5) as member:
        member.faults.arm("save", *[failing(StoreUnavailable("away"))] * 3)
        await stand.send("s", "try", id="t")
        assert (await stand.expect_reply("t")).text == "1. answered"
    assert len(tries) == 6
    assert stand.dead == []


async def test_a_save_of_unknown_fate_is_looked_up_and_not_repeated(stand: Stand) -> None:
    """Given a store that saves and then cannot say so."""
    act = Failing()
    async with stand.running({"try": act}) as member:
        member.faults.arm("saved", failing(StoreUnavailable("the answer was lost")))
        await stand.send("s", "try", id="t")
        assert (await stand.expect_reply("t")).text == "1. answered"
        assert await member.watcher.expect_settled(1) == [("t", "duplicate")]
    assert act.states == ["1. seen"]


async def test_a_session_that_cannot_be_read_is_dead_and_says_so(stand: Stand) -> None:
    async with stand.running() as member:
        member.faults.arm(
            "load", failing(RecordCorrupt("bits are missing")), failing(RecordCorrupt("bits are missing"))
        )
        await stand.send("s", "x", id="t")
        await stand.send("other", "x")
        (letter,) = await stand.expect_dead()
        await stand.expect_reply("t", kind="error")
        await stand.expect_replies(2)
    assert (letter.reason, letter.error, letter.attempts) == ("record", "bits are missing", 0)


async def test_a_store_that_is_away_while_a_failed_turn_is_given_back_hides_nothing(stand: Stand) -> None:
    """The interleaving: the agent fails for good, and the store cannot take the beginning back."""
    act = Failing(ValueError("boom"))
    async with stand.running({"try": act}) as member:
        member.faults.arm("rewind", failing(StoreUnavailable("away")))
        await stand.send("s", "try")
        (letter,) = await stand.expect_dead()
        await member.watcher.expect_settled(1)
    assert (letter.error, len(act.states)) == ("ValueError: boom", 1)


# The policy


def _state(attempt: int, error: BaseException | None = None) -> RetryCallState:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]  # not looked at
    state.attempt_number = attempt
    if error is not None:
        state.outcome = Future.construct(attempt, error, has_exception=True)
    return state


@given(
    attempt=st.integers(1, 200),
    first=st.floats(0.001, 10),
    longest=st.floats(0.001, 100),
    asked=st.none() | st.floats(0, 1000),
)
def test_a_wait_is_jittered_bounded_and_never_shorter_than_asked(
    attempt: int, first: float, longest: float, asked: float | None
) -> None:
    wait = RetryPolicy(first_s=first, longest_s=longest).wait()
    seconds = wait(_state(attempt, AgentFailed(ValueError(), asked)))
    assert (asked or 0) <= seconds
    assert 0 <= seconds <= max(min(longest, first * 2 ** (attempt - 1)), asked or 0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (HttpError(429), True),
        (HttpError(500), True),
        (HttpError(599), True),
        (HttpError(404), False),
        (HttpError(600), False),
        (ValueError(), False),
        (TurnTimeout(), False),
        (type("APIConnectionError", (Exception,), {})(), True),
        (type("ConnectError", (type("TransportError", (Exception,), {}),), {})(), True),
        (type("Wrapped", (ConnectionError,), {"status": 403})(), False),
        (type("Flag", (Exception,), {"status": True})(), False),
        (IsolatedAgentError("x", transient=True), True),
        (IsolatedAgentError("x", transient=False), False),
    ],
    ids=lambda value: f"{type(value).__name__} {value}" if isinstance(value, BaseException) else str(value),
)
def test_what_is_passing(error: BaseException, expected: bool) -> None:
    assert is_transient(error) is expected


def test_the_status_may_be_the_response_s() -> None:
    error = ValueError()
    error.response = HttpError(502)  # type: ignore[attr-defined]  # as httpx and requests have it
    assert is_transient(error)


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (b"7", 7.0),
        (3, 3.0),
        ("-5", 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("9" * 400, None),
        ([1], None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: Any, seconds: float | None) -> None:
    error = ValueError()
    error.headers = {"Retry-After": value}  # type: ignore[attr-defined]  # as clients have it
    assert retry_after(error, now=NOW) == seconds


@given(st.text() | st.binary() | st.floats() | st.integers())
def test_no_retry_after_raises(value: Any) -> None:
    error = ValueError()
    error.headers = {"retry-after": value}  # type: ignore[attr-defined]  # as clients have it
    seconds = retry_after(error, now=NOW)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize("headers", [None, [], "retry-after: 5", {}])
def test_without_the_header_nothing_is_asked(headers: Any) -> None:
    error = ValueError()
    error.headers = headers  # type: ignore[attr-defined]  # anything may be there
    assert retry_after(error, now=NOW) is None
