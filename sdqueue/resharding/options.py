"""ReshardOptions and ReshardReport: how a resharding works, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass

from sdqueue.messages import MAX_TEXT_BYTES


@dataclass(frozen=True)
class ReshardOptions:
    """How a resharding works.

    Parameters:
        prefetch: unacknowledged turns a partition. That of the consumers: with another one, RabbitMQ may mix up what
            returns to a queue.
        max_text_bytes: longest text of a turn, in bytes of UTF-8; the consumers' limit.
        patience_s: how long consumers may take to let go of the queues, and a queue to hand out what is in it.
        at_most: so many turns may wait in the queues at the beginning, since all of them go to the store.
    """

    prefetch: int = 200
    max_text_bytes: int = MAX_TEXT_BYTES
    patience_s: float = 60.0
    at_most: int = 100_000


@dataclass(frozen=True)
class ReshardReport:
    """What a resharding has done.

    Parameters:
        before, after: partitions.
        kept: turns that were put into the backlogs of their sessions, from where consumers take them first.
        passed_on: messages that were put into the queues instead: replays, refused turns, what is no turn.
        held_s: seconds from the first consumer that let go to the word that all may go on.
        resumed: an earlier one had been interrupted and was brought to its end.
    """

    before: int
    after: int
    kept: int = 0
    passed_on: int = 0
    held_s: float = 0.0
    resumed: bool = False
