"""Roles: what a process does on the broker, and the rights that it needs there. deploy/security gives each a user."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from uuid import uuid4

from sdqueue.brokers import Topology
from sdqueue.brokers.rabbitmq.rights import Right


class Role(StrEnum):
    """What a process is for."""

    PRODUCER = "producer"  # hands turns in, and delivers replies
    CONSUMER = "consumer"  # answers turns
    OPERATOR = "operator"  # declares, reshards, looks after dead letters
    MONITOR = "monitor"  # looks, and does nothing


def rights_of(role: Role, topology: Topology, channels: Sequence[str]) -> list[Right]:
    """The rights that a role needs, those that can be asked for.

    Parameters:
        role: which.
        topology: whose names.
        channels: of a producer, or those whose queues an operator declares.
    """
    replies = [topology.egress_queue(channel) for channel in channels]
    queues = [topology.dead, *topology.turn_queues]
    match role:
        case Role.PRODUCER:
            # Answers to questions come to queues of the asker's own.
            return [
                *(Right("write", "exchange", name) for name in (topology.turns, topology.dead)),
                Right("configure", "queue", f"{topology.namespace}.ask.{uuid4().hex}"),
                *(Right("read", "queue", name) for name in replies),
            ]
        case Role.CONSUMER:
            # The default exchange is for turns in the wrong partition, and for answers to whoever asked.
            return [
                *(Right("write", "exchange", name) for name in (topology.replies, topology.dead, "amq.default")),
                *(Right("read", "queue", name) for name in topology.turn_queues),
            ]
        case Role.OPERATOR:
            return [
                *(Right("configure", "queue", name) for name in (*queues, topology.resharding, *replies)),
                *(Right("write", "exchange", name) for name in (topology.turns, topology.dead, "amq.default")),
                *(Right("read", "queue", name) for name in queues),
            ]
    return []
