"""The consumer: from partitions to settled turns."""

from sdqueue.consumer.consumer import Consumer
from sdqueue.consumer.membership import Alone, Membership, MemoryMembership, MemoryPool, RedisMembership
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.retry import RetryPolicy, is_transient

__all__ = [
    "Alone",
    "Consumer",
    "ConsumerOptions",
    "Membership",
    "MemoryMembership",
    "MemoryPool",
    "RedisMembership",
    "RetryPolicy",
    "is_transient",
]
