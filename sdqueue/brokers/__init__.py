"""Brokers: how turns and replies travel. One protocol, :class:`Broker`, and those that come with sdqueue."""

from sdqueue.brokers.broker import (
    Broker,
    Delivery,
    Message,
    OnDelivery,
    QueueState,
    Subscription,
    egress_queue,
    queue_exists,
)
from sdqueue.brokers.memory import MemoryBroker, MemoryServer
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.brokers.sqlite import SQLiteBroker
from sdqueue.brokers.topology import Topology

__all__ = [
    "Broker",
    "Delivery",
    "MemoryBroker",
    "MemoryServer",
    "Message",
    "OnDelivery",
    "QueueState",
    "RabbitMQBroker",
    "SQLiteBroker",
    "Subscription",
    "Topology",
    "egress_queue",
    "queue_exists",
]
