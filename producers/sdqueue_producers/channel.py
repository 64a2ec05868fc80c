"""The Channel protocol: what a platform needs so that its messages become turns, and replies its messages.

The core does everything that is the same for all platforms. On the way in it limits bodies, publishes the turns with
the broker's confirm and only then sends one of the two answers that the channel has prepared, so that **no channel can
acknowledge early**. On the way out it keeps the order of a session with one delivery in flight, splits long texts,
paces by the channel's rate limits, retries, remembers what was delivered, and turns deltas into edits or a native
stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from starlette.responses import Response
from starlette.routing import BaseRoute

from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent, Stream
from sdqueue_producers.request import Receipt, Request, Submit, refusal


@dataclass(frozen=True)
class Bucket:
    """A rate limit of a platform, shared by all processes.

    Parameters:
        key: names it within the channel, such as ``post:T1:C1``.
        count: calls that are allowed in ``per_s`` seconds, and at most at once.
        per_s: seconds.
        limits: what counts against it: new messages, edits of one (and appends to a stream), or both.
    """

    key: str
    count: int
    per_s: float
    limits: Literal["all", "posts", "edits"] = "all"

    def applies(self, *, edit: bool) -> bool:
        """Whether an edit, else a new message, counts against it."""
        return self.limits == "all" or (self.limits == "edits") == edit

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.per_s < math.inf:
            raise ValueError(f"bucket {self.key!r}: {self.count} calls in {self.per_s} s would never let one out")


@dataclass(frozen=True)
class Caps:
    """What a platform can do.

    Parameters:
        max_chars: longest text of one message, in characters; longer ones are split at sensible places.
        max_edit_chars: longest text that :meth:`Channel.edit` can show, where that is shorter; 0: ``max_chars``.
        can_edit: a message can be replaced by :meth:`Channel.edit`.
        can_find: :meth:`Channel.find` tells whether a delivery with an unknown outcome has arrived.
        idempotent: the receiver recognises a repeat by ``Outgoing.key``, so sending again is always safe.
        native_stream: :meth:`Channel.stream` makes streams.
        edit_every_s: least seconds between two edits, or two appends to a stream, of one message.
        stream_max_s: seconds that a native stream lives.
        typing_ttl_s: seconds that a typing indicator is shown; 0: there is none.
        ack_deadline_s: seconds in which the platform wants an answer to what it sends, before it counts as failed.
        errors_visible: error replies are shown to the user; else they are only logged.
        every_reply: the receiver is a program and gets the end of every turn, also where there is nothing to show a
            person: an empty text, a turn that a newer one has interrupted.
        retry_s: seconds to wait after each failed attempt; a reply that fails once more is dead. Empty: exponential,
            for 24 hours.
    """

    max_chars: int = 40_000
    max_edit_chars: int = 0
    can_edit: bool = False
    can_find: bool = False
    idempotent: bool = False
    native_stream: bool = False
    edit_every_s: float = 1.0
    stream_max_s: float = 300.0
    typing_ttl_s: float = 0.0
    ack_deadline_s: float = 10.0
    errors_visible: bool = True
    every_reply: bool = False
    retry_s: tuple[float, ...] = ()


class Channel(Protocol):
    """One platform, at both ends of the queue. Used as ``async with channel``.

    The only method that every channel needs to do something in is :meth:`deliver`; :class:`BaseChannel` has the others.
    Made by a factory that takes a :class:`~sdqueue_producers.ChannelContext`, registered by the entry point group
    ``sdqueue.channels`` under the channel's name.
    """

    name: str
    """The channel of its turns, ``[a-z0-9_-]{1,64}``; the first word of its replies' routing key."""
    caps: Caps
    paths: Sequence[str]
    """Where the platform posts to, such as ``/slack/events``; ``{name}`` stands for one segment."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def receive(self, request: Request) -> Receipt:
        """Verify and read a request to one of ``paths``. It changes nothing, since the turns are not published yet.

        What it raises is a defect and answered with 500; bad input is a :func:`refusal`.
        """
        ...

    def explain(self, status: int, reason: str, detail: str) -> Response | None:
        """How a client of this platform is told that the core refuses its request: it is too large, or the like.

        ``None``: as everybody is, by ``{"error": reason, "detail": detail}``.
        """
        ...

    def routes(self, submit: Submit) -> Sequence[BaseRoute]:
        """Further routes of its own, such as a WebSocket; they give their turns to ``submit``."""
        ...

    async def listen(self, submit: Submit) -> None:
        """Receive without requests, by a socket or long polling, until cancelled. A channel without that returns."""
        ...

    def buckets(self, address: Address) -> Sequence[Bucket]:
        """The rate limits that messages to this address, or edits, count against: see :meth:`Bucket.applies`."""
        ...

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """Show a message.

        Raises:
            RetryAfter: not now. Nothing is visible.
            Permanent: never.
            Ambiguous: nobody knows.
        """
        ...

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """Let a message of ours show another text. Raises like :meth:`deliver`; ``Permanent`` where it is gone."""
        ...

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        """Look whether a delivery with an unknown outcome has arrived. Raises like :meth:`deliver`."""
        ...

    async def stream(self, address: Address, outgoing: Outgoing) -> Stream | None:
        """Begin a message that grows; ``outgoing`` has no text yet. ``None``: not here, edits will do."""
        ...

    async def typing(self, address: Address, on: bool) -> None:
        """Show that an answer is being made, for ``caps.typing_ttl_s``, or take it away. What it raises is ignored."""
        ...


class BaseChannel:
    """A channel that does nothing: what :class:`Channel` asks for, to be overridden as far as a platform has it."""

    name: str
    caps: Caps = Caps()
    paths: Sequence[str] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def receive(self, request: Request) -> Receipt:
        """See :class:`Channel`: there is nothing here."""
        return refusal(404, "not-found", f"channel {self.name} takes no requests")

    def explain(self, status: int, reason: str, detail: str) -> Response | None:
        """See :class:`Channel`: as everybody."""
        return None

    def routes(self, submit: Submit) -> Sequence[BaseRoute]:
        """See :class:`Channel`: none."""
        return ()

    async def listen(self, submit: Submit) -> None:
        """See :class:`Channel`: it does not."""

    def buckets(self, address: Address) -> Sequence[Bucket]:
        """See :class:`Channel`: no limit."""
        return ()

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        raise NotImplementedError(f"channel {self.name} has no deliver()")

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """See :class:`Channel`."""
        raise NotImplementedError(f"channel {self.name} has caps.can_edit, but no edit()")

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        """See :class:`Channel`."""
        raise NotImplementedError(f"channel {self.name} has caps.can_find, but no find()")

    async def stream(self, address: Address, outgoing: Outgoing) -> Stream | None:
        """See :class:`Channel`: none."""
        return None

    async def typing(self, address: Address, on: bool) -> None:
        """See :class:`Channel`: nothing is shown."""
