"""Mutants: producers with one well-known mistake each, which the table must show.

They patch what is inside the producer; a name that has gone fails loudly, and the mutant is to be written anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from sdqueue_producers.egress.lane import Lane
from sdqueue_producers.egress.patience import Released
from sdqueue_producers.egress.record import Page
from sdqueue_producers.ingress.publisher import Publisher

from sdqueue.client import Client

MUTANT: Final = "TABLE_MUTANT"
"""The environment variable that chooses one."""

HASTE_S: Final = 2.0
"""How long after its answer a hasty producer has done what it has promised."""


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put another function in the place of one. It must exist: what does not bite would go unnoticed."""
    setattr(owner, name, make(getattr(owner, name)))


def answer_first() -> None:
    """The platform is answered before the broker has confirmed, as frameworks for bots do."""
    running: set[asyncio.Task[None]] = set()

    def hasty(publish: Any) -> Any:
        async def publish_later(self: Any, channel: Any, receipt: Any, place: Any, headers: Any, until: float) -> None:
            async def later() -> None:
                await asyncio.sleep(HASTE_S)
                await publish(self, channel, receipt, place, headers, until + HASTE_S)

            task = asyncio.create_task(later())
            running.add(task)
            task.add_done_callback(running.discard)

        return publish_later

    patch(Publisher, "publish", hasty)


def ack_first() -> None:
    """A reply is acknowledged when it is taken, and not when it is shown."""

    def hasty(_: Any) -> Any:
        async def deliver(self: Any, entry: Any) -> None:
            entry.delivery.subscription.ack(entry.delivery)
            try:
                await self._handle(entry, entry.job)
            except Released:
                return

        return deliver

    patch(Lane, "_handle", lambda handle: handle)
    patch(Lane, "_deliver", hasty)


def forget_begun() -> None:
    """Nobody writes down that a reply is being sent, so that its successor takes it for unsent."""

    def forgetful(save: Any) -> Any:
        async def save_the_rest(self: Any, **changes: Any) -> None:
            changes.pop("begun", None)
            if changes:
                await save(self, **changes)

        return save_the_rest

    patch(Page, "save", forgetful)


def new_ids() -> None:
    """Each request makes a turn with an id of its own, whatever the platform calls the message."""

    def fresh(publish: Any) -> Any:
        async def publish_anew(self: Any, turn: Any, **options: Any) -> str:
            id_ = f"{turn.id}-{uuid4().hex}"
            name: str = await publish(self, turn.model_copy(update={"id": id_}), **options)
            return name

        return publish_anew

    def knowing_none(_: Any) -> Any:
        async def unknown(self: Any, channel: Any, receipt: Any) -> Any:
            return list(receipt.turns)

        return unknown

    patch(Client, "publish", fresh)
    patch(Publisher, "_unknown", knowing_none)


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    mutant.__name__: mutant for mutant in (answer_first, ack_first, forget_begun, new_ids)
}
"""By name."""
