"""``sdqueue`` with a weak spot: ``python -m tests.chaos.wounded consumer …``.

    CHAOS_WOUND=saved:20        die by SIGKILL when a turn has come to this point for the twentieth time
    CHAOS_WOUND=asleep:20       stop by SIGSTOP just before the twentieth save is sent, when nothing can hold it back
    CHAOS_MUTANT=ack_before_save    have this defect, see ``mutants``

The points are those between which a crash can fall: ``acquired``, ``answered``, ``saved``, ``published`` (but not
confirmed), ``confirmed``, ``acked``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, Final

from sdqueue.brokers.broker import Delivery, Message
from sdqueue.brokers.rabbitmq import RabbitMQBroker, RabbitMQSubscription
from sdqueue.cli import main
from sdqueue.sessions.redis import lease
from sdqueue.sessions.stores.redis import RedisSessionStore
from tests.chaos.mutants import MUTANT, MUTANTS, WOUND, patch

POINTS: Final = ("acquired", "answered", "saved", "published", "confirmed", "acked")
"""In the order in which a turn passes them."""

ON_ITS_WAY_S: Final = 0.02
"""What was written to a socket so long ago has left the process."""


class Wound:
    """Counts how often a point is passed, and strikes at the chosen time."""

    def __init__(self, given: str) -> None:
        self.point, _, number = given.partition(":")
        self._left = int(number or 1)

    def strikes(self, point: str) -> bool:
        """Whether this is the time."""
        if point != self.point:
            return False
        self._left -= 1
        return self._left == 0

    def touch(self, point: str) -> None:
        """Die here if this is the time."""
        if self.strikes(point):
            die()


def die() -> None:
    """As by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def wound(given: str) -> None:
    """Patch the classes that take the steps of a turn."""
    at = Wound(given)
    if at.point not in (*POINTS, "asleep"):
        raise SystemExit(f"{WOUND} is {given!r}; the points are {', '.join(POINTS)} and asleep")

    def entering(enter: Any) -> Any:
        async def __aenter__(self: Any) -> Any:
            entered = await enter(self)
            at.touch("acquired")
            return entered

        return __aenter__

    def saving(save: Any) -> Any:
        async def wounded_save(self: Any, *args: Any) -> None:
            at.touch("answered")
            await save(self, *args)
            at.touch("saved")

        return wounded_save

    def committing(commit: Any) -> Any:
        async def wounded_commit(self: Any, *args: Any) -> Any:
            if at.strikes("asleep"):
                os.kill(os.getpid(), signal.SIGSTOP)
            return await commit(self, *args)

        return wounded_commit

    def publishing(publish: Any) -> Any:
        async def wounded_publish(self: Any, exchange: str, key: str, message: Message, **options: Any) -> None:
            if at.strikes("published"):
                asyncio.get_running_loop().call_later(ON_ITS_WAY_S, die)
                await asyncio.gather(publish(self, exchange, key, message, **options), asyncio.Event().wait())
            await publish(self, exchange, key, message, **options)
            at.touch("confirmed")

        return wounded_publish

    def acking(ack: Any) -> Any:
        def wounded_ack(self: Any, delivery: Delivery) -> None:
            ack(self, delivery)
            if at.strikes("acked"):
                asyncio.get_running_loop().call_later(ON_ITS_WAY_S, die)

        return wounded_ack

    patch(lease._Lease, "__aenter__", entering)
    patch(lease._Lease, "save", saving)
    patch(lease._Lease, "_commit", committing)
    # Where the locks are in another Redis, the store is asked by itself.
    patch(RedisSessionStore, "save", lambda save: saving(committing(save)))
    patch(RabbitMQBroker, "publish", publishing)
    patch(RabbitMQSubscription, "ack", acking)


if __name__ == "__main__":
    if os.environ.get(MUTANT):
        MUTANTS[os.environ[MUTANT]]()
    if os.environ.get(WOUND):
        wound(os.environ[WOUND])
    main()
