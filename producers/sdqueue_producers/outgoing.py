"""Outgoing and Sent: a message on its way to a platform, and one that is there; Stream: one that grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import JsonValue

from sdqueue.messages import OutboundReply

Address = Any
"""Where a reply goes, in the channel's own words: JSON that was put into the turn. It holds ids, never a token."""

Ref = JsonValue
"""What a platform calls a message of ours, such as its timestamp, so that it can be edited."""


@dataclass(frozen=True)
class Outgoing:
    """A message to be shown: a reply, or a part of a long one.

    Parameters:
        reply: the whole reply.
        text: what this message shows.
        part: counts the messages of a reply from 0.
        parts: how many there are.
        again: it was tried before, and may be there already; of interest where the receiver recognises ``key``.
    """

    reply: OutboundReply
    text: str
    part: int = 0
    parts: int = 1
    again: bool = False

    @property
    def key(self) -> str:
        """Names the message for good: the reply's id, with the part where there are several."""
        return self.reply.id if self.parts == 1 else f"{self.reply.id}/{self.part}"


@dataclass(frozen=True)
class Sent:
    """A message is on the platform.

    Parameters:
        ref: what the platform calls it; ``None`` where it cannot be edited.
    """

    ref: Ref = None


class Stream(Protocol):
    """A message that grows while it is made, natively on the platform.

    All its methods raise like :meth:`Channel.deliver`.
    """

    ref: Ref
    """What the platform calls the message, known as soon as the stream is there. It is kept, so that another process
    can finish the message with :meth:`Channel.edit`."""

    async def append(self, text: str) -> None:
        """Show more text behind what is shown."""
        ...

    async def finish(self, outgoing: Outgoing, appended: str) -> Sent:
        """End it, so that it shows the text of ``outgoing``; ``appended`` is what was shown so far."""
        ...
