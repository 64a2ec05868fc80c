"""What is kept of a failure, and what is said of it: everything that helps, and no secret."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdqueue.consumer.failure import (
    MAX_TRACE,
    AgentFailed,
    AgentGaveUp,
    IsolatedAgentError,
    Poisonous,
    Stopped,
    describe,
    reason_of,
    redact,
    said_of,
    trace_of,
)
from sdqueue.errors import AgentResultError, InvalidTurn, RecordTooNew, TurnTimeout
from sdqueue.messages import DeadTurn


@pytest.mark.parametrize(
    ("text", "kept", "gone"),
    [
        ("amqp://guest:s3cret@host/vh", "amqp://guest:***@host/vh", "s3cret"),
        ("redis://:p4ss@host", "redis://:***@host", "p4ss"),
        ("Authorization: Bearer abc.def-ghi123", "***", "abc.def"),
        ("sent Basic dXNlcjpwYXNzd29yZA==", "Basic ***", "dXNlcjpw"),
        ("key sk-proj-abcdef1234567890 is wrong", "sk***", "abcdef1234567890"),
        ("xoxb-1234567890-abcdef", "xoxb***", "1234567890"),
        ("ghp_abcdefghijklmnop", "ghp***", "abcdefghijkl"),
        ("AKIAABCDEFGHIJKLMNOP", "AKIA***", "ABCDEFGHIJ"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec***", "MfKQ9"),
        ("api_key=hunter2&x=1", "api_key=***&x=1", "hunter2"),
        ("{'password': 'hunter2', 'user': 'a'}", "'user': 'a'", "hunter2"),
        ('{"client_secret": "hunter2"}', "client_secret", "hunter2"),
        ("TOKEN=hunter2", "TOKEN=***", "hunter2"),
        ("refresh_token=hunter2", "refresh_token=***", "hunter2"),
        ("aws_secret_access_key: hunter2", "aws_secret_access_key: ***", "hunter2"),
        ("pwd=hunter2", "pwd=***", "hunter2"),
        ("passphrase: hunter2", "passphrase: ***", "hunter2"),
        ("AIzaSyA-1234567890abcdefghijklmnopqrstu", "AIza***", "1234567890"),
        (f"https://api.telegram.org/bot123456789:{'Ab-_' * 9}/sendMessage", "bot123456789:***/sendMessage", "Ab-_"),
        ("POST https://hooks.slack.com/services/T0/B0/XyZ: 404", "https://hooks.slack.com/***: 404", "XyZ"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nvQ==\n-----END RSA PRIVATE KEY----- end", "KEY----- end", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE", "-----BEGIN PRIVATE KEY-----***", "MIIE"),
    ],
)
def test_secrets_are_replaced(text: str, kept: str, gone: str) -> None:
    redacted = redact(text)
    assert gone not in redacted
    assert kept in redacted


@pytest.mark.parametrize(
    "text",
    [
        "HTTP 503 at https://host/path",
        "user@example.com",
        "the token was refused",
        "max_tokens=4096",
        "at 1700000000:12",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        (InvalidTurn("not-json", "body: is empty"), "not-json", "This message was not accepted: body: is empty"),
        (Poisonous("x"), "poison", "This message could not be processed."),
        (Stopped("t"), "cancelled", "Stopped."),
        (TurnTimeout("x"), "timeout", "The answer took too long."),
        (AgentResultError("x"), "bad-result", "This message could not be answered."),
        (RecordTooNew("x"), "record", "This message could not be answered."),
        (AgentGaveUp("x"), "agent-failed", "This message could not be answered."),
        (IsolatedAgentError("x", reason="bad-result", transient=False), "bad-result", "could not be answered."),
        (ValueError("internal detail"), "agent-failed", "This message could not be answered."),
    ],
)
def test_each_failure_has_a_reason_and_a_sentence(error: Exception, reason: str, said: str) -> None:
    assert reason_of(error) == reason
    assert said in said_of(error)
    assert "internal detail" not in said_of(error)


def _failing(secret: str) -> None:
    password = secret  # noqa: F841 -- a value that a trace must not show
    raise ValueError(f"in the message: {secret}")


def test_a_trace_has_frames_and_types_and_no_values() -> None:
    try:
        try:
            _failing("hunter2")
        except ValueError as error:
            raise AgentFailed(error) from error
    except AgentFailed as error:
        trace = trace_of(error)
    assert "hunter2" not in trace
    assert "password" not in trace, "a source line is shown"
    assert "test_failure.py" in trace
    assert "in _failing" in trace
    assert trace.index("ValueError") < trace.index("then") < trace.index("AgentFailed")


def test_a_trace_follows_the_context_unless_it_was_taken_away() -> None:
    def handled(*, hide: bool) -> Exception:
        try:
            try:
                raise KeyError
            except KeyError:
                if hide:
                    raise ValueError from None
                raise ValueError  # noqa: B904 -- the implicit context is what is tested
        except ValueError as error:
            return error

    assert "KeyError" in trace_of(handled(hide=False))
    assert "KeyError" not in trace_of(handled(hide=True))


def test_a_trace_of_errors_in_a_circle_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert trace_of(first) == "KeyError\nthen\nValueError"
    first.__cause__ = first
    assert trace_of(first) == "ValueError"


def test_a_trace_is_cut_at_its_old_end() -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        raise ValueError

    try:
        deeper(500)
    except ValueError as error:
        trace = trace_of(error)
    assert len(trace) == MAX_TRACE
    assert trace.endswith("ValueError")


@given(st.text(st.characters()) | st.sampled_from(["\ud800", "x" * 5000, "a:" * 3000, "://" * 2000]))
def test_whatever_an_error_says_fits_a_dead_letter(text: str) -> None:
    """Half characters among it: a letter that could not be written would keep its turn for ever."""
    described = describe(ValueError(text))
    letter = DeadTurn(reason="agent-failed", error=described, trace=trace_of(ValueError(text)))
    assert letter.headers()["sdqueue-error"] == described
    described.encode()


def test_our_own_errors_need_no_name_and_others_have_one() -> None:
    assert describe(TurnTimeout("too long")) == "too long"
    assert describe(asyncio.QueueEmpty("x")) == "QueueEmpty: x"
