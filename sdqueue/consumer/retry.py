"""RetryPolicy: which failures of an agent are passing, and when to try again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from tenacity import RetryCallState, wait_random_exponential
from tenacity.wait import wait_base

from sdqueue.consumer.failure import AgentFailed, IsolatedAgentError
from sdqueue.errors import TurnTimeout

_TRANSPORT_ERRORS: Final = frozenset(
    {"TransportError", "ClientConnectionError", "APIConnectionError", "ServiceUnavailableError", "RateLimitError"}
)
"""Connection errors of httpx, aiohttp, openai and litellm, which do not descend from ConnectionError. Known by name,
so that none of these libraries need be installed."""


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: timeouts, connection errors, HTTP 429 and 5xx.

    The status is looked for where the HTTP clients keep it: ``status_code`` or ``status`` of the error or of its
    ``response``. A turn's own deadline is final.
    """
    if isinstance(error, TurnTimeout):
        return False
    if isinstance(error, IsolatedAgentError):
        return error.transient
    status = _status(error)
    if status is not None:
        return status == 429 or 500 <= status <= 599
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    return any(kind.__name__ in _TRANSPORT_ERRORS for kind in type(error).__mro__)


def retry_after(error: BaseException, *, now: float) -> float | None:
    """The seconds that a server asked to wait, ``None`` where it did not.

    It does by the header ``Retry-After`` (RFC 9110), or to the millisecond by ``retry-after-ms``, as OpenAI's do.

    Parameters:
        error: what the agent raised.
        now: seconds since 1970, for servers that name a date.
    """
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None)
    if not hasattr(headers, "get"):
        return None
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after") or headers.get("Retry-After")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is None:
        try:
            date = parsedate_to_datetime(str(value))
            # Without a zone it is UTC, whatever the zone of this machine is.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed turn is tried again, in place: the session waits, others go on.

    Parameters:
        max_attempts: starts of the agent, the first included.
        first_s, longest_s: the wait before attempt n is random between 0 and ``first_s * 2**(n-1)`` seconds (full
            jitter), at most ``longest_s``. A server's ``Retry-After`` is waited for instead where it is longer.
        transient: which errors are worth another attempt.
    """

    max_attempts: int = 4
    first_s: float = 0.5
    longest_s: float = 30.0
    transient: Callable[[BaseException], bool] = is_transient

    def wait(self) -> wait_base:
        """The waiting as tenacity wants it."""
        return _WaitPolitely(wait_random_exponential(multiplier=self.first_s, max=self.longest_s))


class _WaitPolitely(wait_base):
    def __init__(self, fallback: wait_base) -> None:
        self._fallback = fallback

    def __call__(self, retry_state: RetryCallState) -> float:
        chosen = float(self._fallback(retry_state))
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, AgentFailed):
            return max(chosen, error.retry_after_s or 0.0)
        return chosen


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (ValueError, TypeError):
        return None
    return number if math.isfinite(number) else None


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status: Any = getattr(holder, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return status
    return None
