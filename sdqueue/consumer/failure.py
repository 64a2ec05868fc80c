"""Failures of a turn: what is kept of them for the operator, and what is said to the user."""

from __future__ import annotations

import re
import traceback
from typing import Final

from sdqueue.errors import (
    AgentError,
    AgentResultError,
    InvalidTurn,
    RecordError,
    SdqueueError,
    TurnTimeout,
    UnknownRoute,
)

MAX_TRACE: Final = 8 * 1024
"""Characters of a traceback that are kept: message headers must fit one AMQP frame (128 KiB by default)."""

MAX_ERROR: Final = 1000

_SECRETS: Final = (
    (re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"\b(sk|xox[abeprs]|gh[pousr]|AKIA|AIza|whsec)[-_]?[\w-]{8,}"), r"\1***"),
    # Where the address itself is the secret: Telegram's API has the bot's token in it, Slack's hooks are nothing else.
    (re.compile(r"(?<!\d)(\d{6,}):[\w-]{30,}"), r"\1:***"),
    (re.compile(r"(//hooks\.slack\.com/)[\w/-]+"), r"\1***"),
    (re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?s:.*?)(?=-----END|\Z)"), r"\1***"),
    (
        re.compile(
            r"(?i)((?:(?:api|access|private)[-_]?key|token(?!s)|secret|passw(?:or)?d|passphrase|\bpwd|authorization)[\w-]*)"
            r"(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&}]+"
        ),
        r"\1\2***",
    ),
)

_SAID: Final = {
    "timeout": "The answer took too long.",
    "poison": "This message could not be processed.",
    "cancelled": "Stopped.",
    "interrupted": "Interrupted by a newer message.",
    "busy": "Another message is being answered. Please send this one again later.",
    "backlog-full": "Too many messages are waiting. Please send this one again later.",
}


class AgentFailed(Exception):
    """An agent's exception, told apart from those of the store, the lock and the broker.

    Parameters:
        cause: what the agent raised.
        retry_after_s: what a server asked to wait.
    """

    def __init__(self, cause: BaseException, retry_after_s: float | None = None) -> None:
        super().__init__(_text(cause))
        self.cause = cause
        self.retry_after_s = retry_after_s


class Poisonous(SdqueueError):
    """The turn ended the process that ran it."""


class IsolatedAgentError(AgentError):
    """The agent raised this in a process of its own.

    Parameters:
        description: what it raised.
        reason: the slug of that.
        transient: whether trying again may help.
        trace: where it was raised there, as :func:`trace_of` has it.
    """

    def __init__(self, description: str, *, reason: str = "agent-failed", transient: bool, trace: str = "") -> None:
        super().__init__(description)
        self.reason = reason
        self.transient = transient
        self.trace = trace


class Stopped(SdqueueError):
    """A later turn stopped this one.

    Parameters:
        by: its id.
        reason: ``cancelled`` or ``interrupted``.
    """

    def __init__(self, by: str, reason: str = "cancelled") -> None:
        super().__init__(f"stopped by turn {by!r}")
        self.by = by
        self.reason = reason


class Refused(SdqueueError):
    """A turn was not let in: its session is ``busy``, or its ``backlog-full``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class AgentGaveUp(SdqueueError):
    """The agent ended its own task: it called ``sys.exit`` or cancelled itself."""


def reason_of(error: BaseException) -> str:
    """The slug of a failure, for filters and metrics."""
    match error:
        case InvalidTurn() | IsolatedAgentError() | Stopped() | Refused():
            return error.reason
        case Poisonous():
            return "poison"
        case TurnTimeout():
            return "timeout"
        case AgentResultError():
            return "bad-result"
        case RecordError():
            return "record"
        case UnknownRoute():
            return "no-route"
        case _:
            return "agent-failed"


def said_of(error: BaseException) -> str:
    """What the user is told: a sender's own mistake in full, anything inside us only in general."""
    if isinstance(error, InvalidTurn):
        return f"This message was not accepted: {error.detail}"
    return _SAID.get(reason_of(error), "This message could not be answered.")


def redact(text: str) -> str:
    """A text with what looks like a secret (passwords in URLs, bearer tokens, keys) replaced by ``***``."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def describe(error: BaseException) -> str:
    """An error for the operator: its type and what it says, as valid Unicode, whatever an agent put into it."""
    name = "" if isinstance(error, SdqueueError) else f"{type(error).__name__}: "
    # Cut first: the patterns need not search the megabytes that an error may quote.
    text = redact(f"{name}{_text(error)}"[: 2 * MAX_ERROR])[:MAX_ERROR]
    return text.encode("utf-8", "backslashreplace").decode()


def trace_of(error: BaseException) -> str:
    """The frames of an error and of its causes, oldest first. No source lines, no values: they may hold secrets."""
    if isinstance(error, IsolatedAgentError) and error.trace:
        return error.trace  # our own frames around it say nothing
    parts: list[str] = []
    told: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in told:
        told.add(id(cause))  # an error may be its own cause: `raise error from error`
        frames = traceback.walk_tb(cause.__traceback__)
        lines = [f"  {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames]
        parts.append("\n".join([*lines, type(cause).__qualname__]))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\nthen\n".join(reversed(parts))[-MAX_TRACE:]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 -- __str__ is the agent's code too
        return f"(its message cannot be shown: __str__ raised {type(broken).__name__})"
