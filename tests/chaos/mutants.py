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

from sdqueue.brokers.rabbitmq import RabbitMQSubscription
from sdqueue.consumer.consumer import Consumer
from sdqueue.consumer.failure import AgentFailed
from sdqueue.consumer.pipeline import TurnPipeline
from sdqueue.consumer.settlement import Settlement, State
from sdqueue.consumer.work import Work
from sdqueue.sessions.redis import scripts

MUTANT: Final = "CHAOS_MUTANT"


def ack_before_save() -> None:
    """A turn is acknowledged when it is taken, and not when it is answered."""
    run = TurnPipeline.run

    async def hasty(self: TurnPipeline, work: Work) -> Settlement:
        work.delivery.subscription.ack(work.delivery)
        return await run(self, work)

    TurnPipeline.run = hasty  # type: ignore[method-assign]


def publish_before_save() -> None:
    """The reply goes out as soon as there is one."""
    perform = TurnPipeline._perform

    async def talkative(self: TurnPipeline, work: Work, *args: Any) -> str:
        body = await perform(self, work, *args)
        await self._publisher.reply(work.delivery, body)
        return body

    TurnPipeline._perform = talkative  # type: ignore[method-assign]


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
    deliver, stop = RabbitMQSubscription._deliver, Consumer.stop

    def noting(self: RabbitMQSubscription, frame: Any, *args: Any) -> None:
        tags[self] = frame.consumer_tag
        deliver(self, frame, *args)

    def cancelling(self: Consumer) -> None:
        for subscription, tag in tags.items():
            channel = subscription._channel
            if channel is not None:
                channel.send(frames.marshal(spec.Basic.Cancel(consumer_tag=tag, nowait=True), channel.number))
        stop(self)

    RabbitMQSubscription._deliver = noting  # type: ignore[method-assign]
    Consumer.stop = cancelling  # type: ignore[method-assign]


def requeue_to_retry() -> None:
    """A turn that failed passingly is put back into its queue."""
    attempt = TurnPipeline._attempt

    async def requeueing(self: TurnPipeline, work: Work, *args: Any) -> Settlement:
        try:
            return await attempt(self, work, *args)
        except AgentFailed:
            subscription = work.delivery.subscription
            assert isinstance(subscription, RabbitMQSubscription)
            channel = subscription._channel
            if channel is not None and subscription._outstanding.pop(work.delivery.tag, ...) is None:
                nack = spec.Basic.Nack(delivery_tag=work.delivery.tag, multiple=False, requeue=True)
                channel.send(frames.marshal(nack, channel.number))
            return Settlement(State.RELEASED)

    TurnPipeline._attempt = requeueing  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    mutant.__name__: mutant
    for mutant in (ack_before_save, publish_before_save, no_version_check, cancel_not_close, requeue_to_retry)
}
