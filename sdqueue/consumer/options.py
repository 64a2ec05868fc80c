"""ConsumerOptions: how a consumer works, apart from where."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sdqueue.channels import DoubleTexting, OnDead, PerChannel
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
        agent: the name of its agent, ``package.module:factory``, or routes to several, by which a process of its own
            can load it for a suspect turn; empty for the built-in agent, ``None`` where it cannot be named.
        concurrency: turns running at once.
        prefetch: unacknowledged turns a partition.
        turn_timeout_s: seconds that an agent may take for a turn, all attempts together.
        grace_s: seconds that running turns get at a shutdown.
        max_text_bytes: longest text of a turn, in bytes of UTF-8.
        retry: which failures are passing, and how often and when they are tried again.
        retention: what sessions remember of past turns.
        isolate_after: a turn begun so often without an end is run alone in a process of its own.
        double_texting: what becomes of a turn that arrives while another one of its session runs.
        on_dead: what a dead turn does to its session.
        mailbox_size: turns of one session that wait in memory; further ones wait in the session's backlog in the
            store, where the store has one.
        backlog_size: turns that wait there; further ones are refused.
        consumer_timeout_s: how long the broker lets a delivery be unacknowledged before it takes the channel away.
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
    double_texting: PerChannel[DoubleTexting] = field(default_factory=lambda: PerChannel(DoubleTexting.ENQUEUE))
    on_dead: PerChannel[OnDead] = field(default_factory=lambda: PerChannel(OnDead.SKIP))
    mailbox_size: int = 64
    backlog_size: int = 10_000
    consumer_timeout_s: float = 1800.0

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
            double_texting=PerChannel.parse(settings.double_texting, DoubleTexting.ENQUEUE),
            on_dead=PerChannel.parse(settings.on_dead, OnDead.SKIP),
            mailbox_size=settings.mailbox_size,
            backlog_size=settings.backlog_size,
            consumer_timeout_s=settings.consumer_timeout_s,
        )
