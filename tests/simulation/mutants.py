"""Mutants: defects put into the consumer on purpose, each of which the simulation must find."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from sdqueue.consumer.consumer import Consumer
from sdqueue.consumer.mailbox import Mailboxes
from sdqueue.consumer.pipeline import TurnPipeline
from sdqueue.consumer.reader import QueueReader
from sdqueue.consumer.settlement import State
from sdqueue.consumer.settler import Settler
from sdqueue.sessions import InMemorySessionStore, SessionHandle


@contextmanager
def ack_before_save() -> Iterator[None]:
    """A delivery is acknowledged when its turn begins."""
    work_on = Consumer._work

    async def mutant(self: Consumer, work: Any) -> None:
        work.delivery.subscription.ack(work.delivery)
        await work_on(self, work)

    with patch.object(Consumer, "_work", mutant):
        yield


@contextmanager
def publish_before_save() -> Iterator[None]:
    """A reply goes out before the state that it was made from is kept."""
    perform = TurnPipeline._perform

    async def mutant(self: TurnPipeline, work: Any, handle: Any) -> list[str]:
        bodies = await perform(self, work, handle)
        for body in bodies:
            await self._publisher.reply(work.delivery, body)
        return bodies

    with patch.object(TurnPipeline, "_perform", mutant):
        yield


@contextmanager
def no_version_check() -> Iterator[None]:
    """A save overwrites whatever is there; only the lock is left to keep writers apart."""
    save = InMemorySessionStore.save

    async def mutant(self: InMemorySessionStore, session_id: str, record: Any) -> None:
        kept = self._kept.get(session_id)
        if kept is not None and kept.stored.revision != record.stored.revision:
            record.stored = replace(kept.stored, items=0)
        await save(self, session_id, record)

    with patch.object(InMemorySessionStore, "save", mutant):
        yield


@contextmanager
def no_duplicate_check() -> Iterator[None]:
    """A turn that was answered before runs again."""
    with patch.object(SessionHandle, "recall", lambda self, turn_id: None):
        yield


@contextmanager
def no_giving_up() -> Iterator[None]:
    """A turn that was left unsettled does not end its generation, so the next one of its session goes on."""
    with patch.object(QueueReader, "give_up", lambda self, subscription: None):
        yield


@contextmanager
def overlapping_turns() -> Iterator[None]:
    """Turns of a session need not wait in its mailbox; only the lock is left to keep them in order."""
    put, numbers = Mailboxes.put, itertools.count()

    def mutant(self: Mailboxes, work: Any) -> None:
        work.lane = f"{work.session_id}\0{next(numbers)}"  # a mailbox of its own
        put(self, work)

    with patch.object(Mailboxes, "put", mutant):
        yield


@contextmanager
def backlog_overtaken() -> Iterator[None]:
    """A turn does not look whether others of its session wait in the backlog, or for a dead one."""
    early_end = TurnPipeline._early_end

    async def mutant(self: TurnPipeline, work: Any, handle: Any) -> Any:
        end = await early_end(self, work, handle)
        return None if end is not None and end.state is State.DEFERRED else end

    with patch.object(TurnPipeline, "_early_end", mutant):
        yield


@contextmanager
def released_is_acknowledged() -> Iterator[None]:
    """What a consumer gives up when it stops is acknowledged."""
    settle = Settler.settle

    async def mutant(self: Settler, work: Any, settlement: Any) -> None:
        await settle(self, work, settlement)
        if settlement.state is State.RELEASED:
            work.delivery.subscription.ack(work.delivery)

    with patch.object(Settler, "settle", mutant):
        yield


MUTANTS: tuple[tuple[Callable[[], AbstractContextManager[None]], str], ...] = (
    (ack_before_save, "has no final or error reply"),
    (publish_before_save, r"reply .* has \d contents"),
    (no_version_check, "took effect"),
    (no_duplicate_check, r"reply .* has \d contents"),
    (no_giving_up, "answered in the order|1 unacknowledged"),
    (overlapping_turns, "answered in the order"),
    (backlog_overtaken, "answered in the order"),
    (released_is_acknowledged, "has no final or error reply"),
)
"""Each with what the checker must say of it: a mutant that merely breaks down shows nothing."""
