"""Plan: what a resharding is about, as the broker keeps it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Self

from sdqueue.brokers import Delivery, Message

PLAN_HEADER: Final = "sdqueue-resharding"
"""On the message that has the plan, at the head of the queue ``<namespace>.resharding``."""


@dataclass(frozen=True)
class Plan:
    """From where to where, and how far it is.

    Parameters:
        before, after: partitions.
        binding: all that was published under the old keys has been moved, and the new keys may be bound already.
    """

    before: int
    after: int
    binding: bool = False

    def message(self) -> Message:
        """As it is kept."""
        return Message(json.dumps(vars(self)).encode(), headers={PLAN_HEADER: 1})

    @classmethod
    def read(cls, delivery: Delivery) -> Self:
        """The plan that was kept."""
        return cls(**json.loads(delivery.message.body))


def is_plan(delivery: Delivery) -> bool:
    """Whether a message has a plan. Turns that are set aside in the same queue lose the header, where one is forged."""
    return PLAN_HEADER in delivery.message.headers
