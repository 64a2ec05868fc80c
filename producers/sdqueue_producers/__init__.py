"""Producers: services that connect chat platforms to both ends of the queue."""

from sdqueue_producers.channel import BaseChannel, Bucket, Caps, Channel
from sdqueue_producers.errors import Ambiguous, DeliveryError, Permanent, RetryAfter
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent, Stream
from sdqueue_producers.registry import ChannelContext, ChannelFactory, make_channel, parse_channels
from sdqueue_producers.request import Answer, Receipt, Request, Submit, refusal
from sdqueue_producers.settings import ChannelSettings
from sdqueue_producers.state import (
    MemoryState,
    Parked,
    ProducerState,
    RedisState,
    SQLiteState,
    open_state,
    opened_state,
)

__all__ = [
    "Address",
    "Ambiguous",
    "Answer",
    "BaseChannel",
    "Bucket",
    "Caps",
    "Channel",
    "ChannelContext",
    "ChannelFactory",
    "ChannelSettings",
    "DeliveryError",
    "MemoryState",
    "Outgoing",
    "Parked",
    "Permanent",
    "ProducerObserver",
    "ProducerState",
    "Receipt",
    "RedisState",
    "Ref",
    "Request",
    "RetryAfter",
    "SQLiteState",
    "Sent",
    "Stream",
    "Submit",
    "make_channel",
    "open_state",
    "opened_state",
    "parse_channels",
    "refusal",
]
