"""Backlogs: those of all sessions that a consumer serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from sdqueue.brokers import Broker, Subscription
from sdqueue.consumer.backlog import BacklogKeeper
from sdqueue.consumer.failure import Refused, describe, trace_of
from sdqueue.consumer.mailbox import Mailbox, Mailboxes
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.settlement import Settlement, State
from sdqueue.consumer.settler import Settler
from sdqueue.consumer.work import Work
from sdqueue.errors import RecordError, StoreUnavailable
from sdqueue.observe import Observer
from sdqueue.sessions import TurnBacklog

LOOK_S: Final = 1.0
"""Seconds between two looks for backlogs that nobody works on."""
AFTER_FAILURE_S: Final = 60.0
"""Seconds before a backlog is looked at again that cannot be read: each time costs its partition a redelivery."""

OnFailure = Callable[[str, Subscription, str, str, Exception], None]
"""Told of a defect: queue, subscription, session id, turn id, error."""


class Backlogs:
    """Makes the keepers of backlogs, and takes those up that nobody works on.

    Parameters:
        store: has them.
        settler: settles what is put away, and what is refused.
        options: how to work.
        observer: told of a store that is away.
        on_failure: told of a defect that has ended a keeper.
    """

    def __init__(
        self,
        store: TurnBacklog,
        settler: Settler,
        options: ConsumerOptions,
        observer: Observer,
        on_failure: OnFailure,
    ) -> None:
        self.store = store
        self.observer = observer
        self.options = options
        self._settler = settler
        self._on_failure = on_failure
        self._failed: dict[str, float] = {}
        self._full = Refused("backlog-full", f"{options.backlog_size} turns of its session wait already")

    def keeper(self, box: Mailbox) -> BacklogKeeper:
        """A keeper for the session of a mailbox."""
        return BacklogKeeper(box, self)

    async def deferred(self, work: Work) -> None:
        """See :class:`~sdqueue.consumer.backlog.BacklogDesk`."""
        await self._settler.settle(work, Settlement(State.DEFERRED))

    async def refused(self, work: Work) -> bool:
        """See :class:`~sdqueue.consumer.backlog.BacklogDesk`."""
        return await self._settler.refuse(work, self._full)

    def failed(self, box: Mailbox, error: Exception) -> None:
        """See :class:`~sdqueue.consumer.backlog.BacklogDesk`."""
        self._failed[box.session_id] = time.monotonic()
        self._on_failure(box.queue, box.subscription, box.session_id, "", error)

    async def watch(
        self, mailboxes: Mailboxes, owned: Callable[[], Iterable[tuple[str, Subscription]]], broker: Broker
    ) -> None:
        """Look for backlogs whose consumer has died, or whose session is parked no more, until cancelled.

        Parameters:
            mailboxes: where their turns go.
            owned: the queues that are this consumer's, with their subscriptions.
            broker: has the partitions.
        """
        while True:
            listed = await self._listed()
            mine = dict(owned()) if listed else {}
            topology = broker.topology
            for session_id, mark in listed.items():
                queue = topology.queue_of(session_id)
                if queue in mine and session_id not in self._failed:
                    mailboxes.take_up(mine[queue], queue, session_id, mark)
            await asyncio.sleep(LOOK_S)

    async def _listed(self) -> dict[str, str]:
        now = time.monotonic()
        self._failed = {session: at for session, at in self._failed.items() if now - at < AFTER_FAILURE_S}
        try:
            return await self.store.backlogged()
        except StoreUnavailable as error:
            self.observer.backend_away(backend="store", error=str(error))
        except RecordError as error:  # backlogs that have deliveries are served all the same
            self.observer.internal_error(session_id="", turn_id="", error=describe(error), trace=trace_of(error))
        return {}
