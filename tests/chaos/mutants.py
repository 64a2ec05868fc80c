"""Mutants: consumers with one defect each, which the checker must see.

Each function here puts a well-known mistake into this process, see ``wounded``. They patch what is inside the consumer;
a name that has gone fails loudly, and the mutant is to be written anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from aiormq import spec
from pamqp import frame as frames

from sdqueue.brokers.broker import Delivery
from sdqueue.brokers.rabbitmq import RabbitMQSubscription
from sdqueue.consumer.consumer import Consumer
from sdqueue.consumer.failure import AgentFailed
from sdqueue.consumer.pipeline import TurnPipeline
from sdqueue.consumer.settlement import Settlement, State
from sdqueue.consumer.work import Work
from sdqueue.sessions.redis import scripts

MUTANT: Final = "CHAOS_MUTANT"
WOUND: Final = "CHAOS_WOUND"


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put another function in the place of one. It must exist: what does not bite would go unnoticed."""
    setattr(owner, name, make(getattr(owner, name)))


def ack_before_save() -> None:
    """A turn is acknowledged when it is taken, and not when it is answered."""

    def hasty(run: Any) -> Any:
        async def hasty_run(self: TurnPipeline, work: Work) -> Settlement:
            work.delivery.subscription.ack(work.delivery)
            settlement: Settlement = await run(self, work)
            return settlement

        return hasty_run

    patch(TurnPipeline, "run", hasty)


def publish_before_save() -> None:
    """Replies go out as soon as there are some."""

    def talkative(perform: Any) -> Any:
        async def talkative_perform(self: TurnPipeline, work: Work, *args: Any) -> list[str]:
            bodies: list[str] = await perform(self, work, *args)
            for body in bodies:
                await self._publisher.reply(work.delivery, body)
            return bodies

        return talkative_perform

    patch(TurnPipeline, "_perform", talkative)


def no_version_check() -> None:
    """A save does not look at what is stored."""
    check = "if found ~= expected then return found end"
    for script in (scripts.SAVE, scripts.COMMIT):
        assert check in script.text
        script.text = script.text.replace(check, "")
        script.sha = hashlib.sha1(script.text.encode(), usedforsecurity=False).hexdigest()


def cancel_not_close() -> None:
    """At a stop consumers are cancelled by ``basic.cancel``, and channels closed only when their turns have ended."""
    tags: dict[RabbitMQSubscription, str] = {}

    def noting(deliver: Any) -> Any:
        def noting_deliver(self: RabbitMQSubscription, frame: spec.Basic.Deliver, *args: Any) -> None:
            tags[self] = frame.consumer_tag or ""
            deliver(self, frame, *args)

        return noting_deliver

    def cancelling(stop: Any) -> Any:
        def cancelling_stop(self: Consumer) -> None:
            for subscription, tag in tags.items():
                channel = subscription._channel
                if channel is not None:
                    channel.send(frames.marshal(spec.Basic.Cancel(consumer_tag=tag, nowait=True), channel.number))
            stop(self)

        return cancelling_stop

    patch(RabbitMQSubscription, "_deliver", noting)
    patch(Consumer, "stop", cancelling)


def requeue_to_retry() -> None:
    """A turn that failed passingly is put back into its queue."""

    def requeueing(attempt: Any) -> Any:
        async def requeueing_attempt(self: TurnPipeline, work: Work, *args: Any) -> Settlement:
            try:
                settlement: Settlement = await attempt(self, work, *args)
            except AgentFailed:
                _requeue(work.delivery)
                return Settlement(State.RELEASED)
            return settlement

        return requeueing_attempt

    patch(TurnPipeline, "_attempt", requeueing)


def _requeue(delivery: Delivery) -> None:
    subscription = delivery.subscription
    assert isinstance(subscription, RabbitMQSubscription)
    channel = subscription._channel
    if channel is not None and delivery.tag in subscription._outstanding:
        del subscription._outstanding[delivery.tag]
        nack = spec.Basic.Nack(delivery_tag=delivery.tag, multiple=False, requeue=True)
        channel.send(frames.marshal(nack, channel.number))


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    mutant.__name__: mutant
    for mutant in (ack_before_save, publish_before_save, no_version_check, cancel_not_close, requeue_to_retry)
}
