"""ConsumerOptions: how a consumer works, apart from where."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sdqueue.consumer.retry import RetryPolicy
from sdqueue.messages import MAX_TEXT_BYTES
from sdqueue.sessions import Retention

if TYPE_CHECKING:
    from sdqueue.settings import Settings


def default_name() -> str:
    """Host and process: unique among the consumers of a pool."""
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True)
class ConsumerOptions:
    """How a consumer works.

    Parameters:
        name: who it is, in logs, replies (``metadata.consumer``) and dead letters.
        agent: the name of its agent, ``package.module:factory``, by which a process of its own can load it for a
            suspect turn; empty for the built-in agent, ``None`` where it cannot be named.
        concurrency: turns running at once.
        prefetch: unacknowledged turns a partition.
        turn_timeout_s: seconds that an agent may take for a turn, all attempts together.
        grace_s: seconds that running turns get at a shutdown.
        max_text_bytes: longest text of a turn, in bytes of UTF-8.
        retry: which failures are passing, and how often and when they are tried again.
        retention: what sessions remember of past turns.
        isolate_after: a turn begun so often without an end is run alone in a process of its own.
    """

    name: str = field(default_factory=default_name)
    agent: str | None = None
    concurrency: int = 512
    prefetch: int = 200
    turn_timeout_s: float = 120.0
    grace_s: float = 30.0
    max_text_bytes: int = MAX_TEXT_BYTES
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    retention: Retention = field(default_factory=Retention)
    isolate_after: int = 2

    @classmethod
    def from_settings(cls, settings: Settings, *, name: str | None = None) -> Self:
        """The options that the settings ask for."""
        return cls(
            name=name or default_name(),
            agent=settings.agent,
            concurrency=settings.concurrency,
            prefetch=settings.prefetch,
            turn_timeout_s=settings.turn_timeout_s,
            grace_s=settings.grace_s,
            max_text_bytes=settings.max_text_bytes,
            retry=RetryPolicy(max_attempts=settings.max_attempts),
            retention=Retention(settings.kept_replies, settings.kept_ids_s),
        )
