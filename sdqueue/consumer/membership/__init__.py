"""Membership: which consumers there are, and what each of them is subscribed to."""

from sdqueue.consumer.membership.membership import Alone, Announcement, Membership, Seen, Sighting
from sdqueue.consumer.membership.memory import MemoryMembership, MemoryPool
from sdqueue.consumer.membership.redis import RedisMembership

__all__ = [
    "Alone",
    "Announcement",
    "Membership",
    "MemoryMembership",
    "MemoryPool",
    "RedisMembership",
    "Seen",
    "Sighting",
]
