"""ProducerLogs: the events as lines of the log. Never texts, secrets or addresses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from sdqueue_producers.observer import ProducerObserver

REPEAT_S: Final = 5.0
"""Seconds in which the same outage is said once, though every turn meets it."""


class ProducerLogs(ProducerObserver):
    """Writes what an operator wants to read; what goes well only at debug level.

    Parameters:
        producer: who it is.
    """

    def __init__(self, producer: str) -> None:
        self._log: Any = structlog.get_logger().bind(producer=producer)
        self._said: dict[str, tuple[float, int]] = {}

    def request_answered(self, *, channel: str, status: int, reason: str, seconds: float) -> None:
        """Debug; a refusal is one line, at most every five seconds a channel and reason: anybody may cause it."""
        fields = {"channel": channel, "status": status, "reason": reason, "seconds": round(seconds, 3)}
        if 400 <= status < 500 and reason:
            self._repeated(f"refused {channel} {reason}", "request refused", tell=self._log.info, **fields)
        else:
            self._log.debug("request answered", **fields)

    def turn_published(self, *, channel: str, session_id: str, turn_id: str) -> None:
        """Debug."""
        self._log.debug("turn published", channel=channel, session=session_id, turn=turn_id)

    def turn_repeated(self, *, channel: str, turn_id: str) -> None:
        """Debug."""
        self._log.debug("turn repeated, not published", channel=channel, turn=turn_id)

    def turn_unconfirmed(self, *, channel: str, turn_id: str, error: str) -> None:
        """A warning, at most every five seconds a channel."""
        self._repeated(f"unconfirmed {channel}", "turn not confirmed", channel=channel, turn=turn_id, error=error)

    def listener_failed(self, *, channel: str, error: str, again_in_s: float) -> None:
        """A warning."""
        self._log.warning("listener failed", channel=channel, error=error, again_in_s=round(again_in_s, 1))

    def typing_failed(self, *, channel: str, error: str) -> None:
        """Debug."""
        self._log.debug("typing indicator not shown", channel=channel, error=error)

    def queue_taken(self, *, channel: str) -> None:
        """One line."""
        self._log.info("replies come here", channel=channel)

    def queue_lost(self, *, channel: str, reason: str) -> None:
        """A warning, at most every five seconds a channel."""
        self._repeated(f"queue {channel}", "queue of replies lost, trying again", channel=channel, reason=reason)

    def reply_delivered(self, *, channel: str, session_id: str, reply_id: str, seconds: float) -> None:
        """Debug."""
        self._log.debug(
            "reply delivered", channel=channel, session=session_id, reply=reply_id, seconds=round(seconds, 3)
        )

    def reply_repeated(self, *, channel: str, reply_id: str) -> None:
        """Debug."""
        self._log.debug("reply repeated, dropped", channel=channel, reply=reply_id)

    def reply_retried(self, *, channel: str, reply_id: str, attempts: int, wait_s: float, error: str) -> None:
        """A warning."""
        self._log.warning(
            "reply retried", channel=channel, reply=reply_id, attempts=attempts, wait_s=round(wait_s, 2), error=error
        )

    def reply_ambiguous(self, *, channel: str, reply_id: str, outcome: str) -> None:
        """A warning where it may be seen twice, or not at all."""
        tell = self._log.warning if outcome in ("resent", "dropped") else self._log.info
        tell("delivery had an unknown outcome", channel=channel, reply=reply_id, outcome=outcome)

    def reply_dead(self, *, channel: str, reply_id: str, reason: str, error: str) -> None:
        """A warning."""
        self._log.warning("reply dead", channel=channel, reply=reply_id, reason=reason, error=error)

    def channel_defect(self, *, channel: str, error: str, trace: str) -> None:
        """An error with the trace."""
        self._log.error("defect of a channel", channel=channel, error=error, trace=trace)

    def backend_away(self, *, backend: str, error: str) -> None:
        """A warning, at most every five seconds."""
        self._repeated(f"backend {backend}", "backend away", backend=backend, error=error)

    def _repeated(self, key: str, event: str, tell: Callable[..., None] | None = None, **fields: Any) -> None:
        last, left_out = self._said.get(key, (-REPEAT_S, 0))
        now = time.monotonic()
        if now - last < REPEAT_S:
            self._said[key] = (last, left_out + 1)
            return
        self._said[key] = (now, 0)
        (tell or self._log.warning)(event, **fields, not_shown_since=left_out)
