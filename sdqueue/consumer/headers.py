"""The headers of a message that is sent on, so that they leave room for ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sdqueue.messages import REPLAY_HEADER, REPLAY_OF_HEADER

MAX_OWN_HEADERS: Final = 96 * 1024
"""Headers must fit one frame (128 KiB by default), and a letter's have up to some 20 KiB."""

READ_HEADERS: Final = frozenset({"traceparent", "tracestate", REPLAY_HEADER, REPLAY_OF_HEADER})

HOPS_HEADER: Final = "sdqueue-hops"
"""Counts forwardings, so that two consumers that disagree about the partitions do not play ball for ever."""


def kept(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message's own headers, where they leave room for ours in one frame; else those of them that sdqueue reads.

    Without this, a message that only just fitted when it came could never be put away, nor anything behind it run.
    """
    if _size(headers) <= MAX_OWN_HEADERS:
        return headers
    return {name: value for name, value in headers.items() if name in READ_HEADERS and _size(value) <= 1024}


def hops(headers: Mapping[str, Any]) -> int:
    """How often a message was forwarded between partitions."""
    number = headers.get(HOPS_HEADER, 0)
    return number if isinstance(number, int) else 0


def _size(value: Any) -> int:
    """Bytes of a header value in AMQP, or a few more."""
    match value:
        case str():
            return 5 + len(value.encode("utf-8", "replace"))
        case Mapping():
            return 5 + sum(1 + len(name.encode("utf-8", "replace")) + _size(item) for name, item in value.items())
        case list() | tuple():
            return 5 + sum(map(_size, value))
    return 9
