"""Membership: which consumers there are, what each of them is subscribed to, and what they are told."""

from sdqueue.consumer.membership.epoch import Epoch
from sdqueue.consumer.membership.membership import Alone, Announcement, Membership, Seen, Sighting
from sdqueue.consumer.membership.memory import MemoryMembership, MemoryPool
from sdqueue.consumer.membership.pool import Pool
from sdqueue.consumer.membership.redis import RedisMembership, RedisPool

__all__ = [
    "Alone",
    "Announcement",
    "Epoch",
    "Membership",
    "MemoryMembership",
    "MemoryPool",
    "Pool",
    "RedisMembership",
    "RedisPool",
    "Seen",
    "Sighting",
]
