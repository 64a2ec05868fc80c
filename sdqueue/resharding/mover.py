"""Mover: brings turns out of the queues into the backlogs of their sessions, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from sdqueue.brokers import Broker, Delivery, Topology
from sdqueue.consumer.backlog import put_away
from sdqueue.consumer.work import Work
from sdqueue.messages import partition_of
from sdqueue.resharding.options import ReshardOptions
from sdqueue.resharding.plan import PLAN_HEADER
from sdqueue.sessions import TurnBacklog

Answer = TypeVar("Answer")

NO_LIMIT: Final = 1_000_000_000
"""Turns are refused when they arrive; these were accepted long ago."""

SIDE_BY_SIDE: Final = 64
"""Sessions that the store is asked for at a time."""


@dataclass
class Moved:
    """Counts what was moved."""

    kept: int = 0
    passed_on: int = 0


class Mover:
    """Decides what becomes of each message.

    A session's backlog comes before all that is delivered to it, so a turn in there keeps its place whatever queue
    later ones go to. What cannot wait there goes to the queue in which a consumer deals with it: a replay, which a
    parked session waits for, a turn that was refused before, and what is no turn.

    Parameters:
        broker: entered by the caller.
        backlog: of the store.
        options: how to work.
        before, after: the old and the new partitions.
    """

    def __init__(
        self, broker: Broker, backlog: TurnBacklog, options: ReshardOptions, before: Topology, after: Topology
    ) -> None:
        self.moved = Moved()
        self._broker = broker
        self._backlog = backlog
        self._max_text_bytes = options.max_text_bytes
        self._before = before
        self._after = after
        self._places = asyncio.Semaphore(SIDE_BY_SIDE)

    async def take_from_partition(self, deliveries: list[Delivery]) -> None:
        """Move what is at home in its partition, and set the rest aside.

        The rest is what producers with an older number have published, and consumers have not forwarded yet. Others
        of the same sessions, which they have forwarded, may stand in their right partition, and are older.
        """
        at_home, aside = [], []
        for work in self._read(deliveries):
            home = self._before.queue_of(work.session_id)
            if _may_wait(work) and work.delivery.queue == home:
                at_home.append(work)
            else:
                aside.append(work)
        aside += await self._keep(at_home)
        await self._publish(map(_without_plan, aside), lambda _: self._before.resharding)

    async def take(self, deliveries: list[Delivery]) -> None:
        """Move what comes after all that the partitions had."""
        works = list(self._read(deliveries))
        rest = [work for work in works if not _may_wait(work)]
        rest += await self._keep([work for work in works if _may_wait(work)])
        await self._publish(rest, self._place)
        self.moved.passed_on += len(rest)

    def _read(self, deliveries: Iterable[Delivery]) -> Iterable[Work]:
        return (Work.read(delivery, max_text_bytes=self._max_text_bytes) for delivery in deliveries)

    async def _keep(self, works: Sequence[Work]) -> list[Work]:
        """Append turns to the backlogs of their sessions; returns those that were refused before."""

        async def keep(session_id: str, its: list[Work]) -> list[Work]:
            async with self._places:
                kept = await put_away(self._backlog.defer, session_id, its, limit=NO_LIMIT)
            return [work for work, is_in in zip(its, kept, strict=True) if not is_in]

        refused = [
            work
            for left in await side_by_side(keep(session_id, its) for session_id, its in _by_session(works).items())
            for work in left
        ]
        self.moved.kept += len(works) - len(refused)
        return refused

    async def _publish(self, works: Iterable[Work], place: Callable[[Work], str]) -> None:
        """Put messages into queues, those of a session one after the other: a refused one stops those behind it."""

        async def publish(its: list[Work]) -> None:
            for work in its:
                await self._broker.publish("", place(work), work.delivery.message)

        await side_by_side(publish(its) for its in _by_session(works).values())

    def _place(self, work: Work) -> str:
        partition = partition_of(work.session_id, self._after.partitions) if work.turn else 0
        return self._after.partition_queue(partition)


async def side_by_side(calls: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """The answers of all calls, in order. The first that fails ends the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _by_session(works: Iterable[Work]) -> dict[str, list[Work]]:
    sessions: dict[str, list[Work]] = {}
    for work in works:
        sessions.setdefault(work.session_id, []).append(work)
    return sessions


def _without_plan(work: Work) -> Work:
    message = work.delivery.message
    if PLAN_HEADER not in message.headers:
        return work
    headers = {name: value for name, value in message.headers.items() if name != PLAN_HEADER}
    return replace(work, delivery=replace(work.delivery, message=replace(message, headers=headers)))


def _may_wait(work: Work) -> bool:
    return work.turn is not None and not work.replay
