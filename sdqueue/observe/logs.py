"""Logging: structlog set up once by the commands, and an observer that writes the events."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Final, Literal, TextIO

import structlog

from sdqueue.messages import DeadTurn
from sdqueue.observe.observer import Observer


def configure_logging(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Set up the log of this process.

    Parameters:
        level: debug, info, warning or error.
        form: ``text`` for people, ``json`` for machines.
        stream: where lines go; default: standard error.
    """
    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_Bridge()], force=True)
    # They log each failed attempt with a traceback; the supervisor of the connections says the same in one line.
    for library in ("aiormq", "aio_pika"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


class _Bridge(logging.Handler):
    """Gives what libraries log the same form as everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name)


REPEAT_S: Final = 5.0


class LogObserver(Observer):
    """Writes what an operator wants to read; a turn that ends well only at debug level. Never texts or records."""

    def __init__(self, consumer: str) -> None:
        self._log: Any = structlog.get_logger().bind(consumer=consumer)
        self._said: dict[str, tuple[float, int]] = {}
        """When it was last said of a queue or a backend that it is away, and how often it was not said since."""

    def turn_settled(
        self, *, state: str, session_id: str, turn_id: str, seconds: float, letter: DeadTurn | None, by: str | None
    ) -> None:
        """One line a turn: debug, and for a dead one a warning with the error and where it was raised."""
        event = {"session": session_id, "turn": turn_id, "seconds": round(seconds, 3)}
        if letter is not None:
            self._log.warning("turn dead", reason=letter.reason, error=letter.error, trace=letter.trace, **event)
        elif by is not None:
            self._log.debug(f"turn {state}", by=by, **event)
        else:
            self._log.debug(f"turn {state}", **event)

    def turn_retried(self, *, session_id: str, turn_id: str, attempt: int, delay_s: float, error: str) -> None:
        """A warning."""
        self._log.warning(
            "turn retried", session=session_id, turn=turn_id, attempt=attempt, delay_s=round(delay_s, 2), error=error
        )

    def turn_suspected(self, *, session_id: str, turn_id: str, begun: int) -> None:
        """A warning."""
        self._log.warning(
            "turn runs alone: its process died with it before", session=session_id, turn=turn_id, begun=begun
        )

    def agent_stuck(self, *, session_id: str, turn_id: str) -> None:
        """An error: something in the agent swallows cancellations."""
        self._log.error("agent ignores its cancellation and was abandoned", session=session_id, turn=turn_id)

    def history_unshortened(self, *, session_id: str, turn_id: str, error: str) -> None:
        """A warning."""
        self._log.warning(
            "history not shortened, trying again with the next turn", session=session_id, turn=turn_id, error=error
        )

    def queue_taken(self, *, queue: str) -> None:
        """Debug."""
        self._log.debug("queue taken", queue=queue)

    def queue_lost(self, *, queue: str, reason: str) -> None:
        """A warning, at most every five seconds: a connection takes all its queues with it."""
        self._repeated("queue", "queue lost, trying again", queue=queue, reason=reason)

    def queue_released(self, *, queue: str, reason: str) -> None:
        """Debug."""
        self._log.debug("queue released", queue=queue, reason=reason)

    def partitions_assigned(self, *, owned: int, standby: int, members: int) -> None:
        """One line for each change of the pool; debug where it has no other member."""
        tell = self._log.info if members > 1 else self._log.debug
        tell("partitions assigned", owned=owned, standby=standby, members=members)

    def repartitioned(self, *, partitions: int) -> None:
        """One line."""
        self._log.info("the number of partitions was changed", partitions=partitions)

    def backend_away(self, *, backend: str, error: str) -> None:
        """A warning, at most every five seconds: an outage is met by every turn that runs."""
        effect = "partitions stay as they are" if backend == "membership" else "turns wait"
        self._repeated(backend, f"backend away, {effect}", backend=backend, error=error)

    def _repeated(self, key: str, event: str, **fields: str) -> None:
        last, left_out = self._said.get(key, (-REPEAT_S, 0))
        now = time.monotonic()
        if now - last < REPEAT_S:
            self._said[key] = (last, left_out + 1)
            return
        self._said[key] = (now, 0)
        self._log.warning(event, **fields, not_shown_since=left_out)

    def loop_blocked(self, *, seconds: float, task: str, stack: str) -> None:
        """An error with the stack."""
        self._log.error("event loop blocked", seconds=round(seconds, 1), task=task, stack=stack)

    def delivery_stalled(self, *, queue: str, session_id: str, turn_id: str, seconds: float, held_by: str) -> None:
        """A warning: the broker takes the whole channel away when its consumer timeout is over."""
        self._log.warning(
            "delivery not settled",
            queue=queue,
            session=session_id,
            turn=turn_id,
            seconds=round(seconds),
            held_by=held_by,
        )

    def queue_stalled(self, *, queue: str, depth: int, seconds: float, lost: bool) -> None:
        """A warning."""
        why = "nobody receives it, subscribing anew" if lost else "another consumer has it and takes nothing"
        self._log.warning("queue stalled", queue=queue, depth=depth, seconds=round(seconds), held_by=why)

    def internal_error(self, *, session_id: str, turn_id: str, error: str, trace: str) -> None:
        """An error with the trace."""
        self._log.error(
            "unexpected error, the partition is taken again", session=session_id, turn=turn_id, error=error, trace=trace
        )
