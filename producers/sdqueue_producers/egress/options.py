"""EgressOptions: how replies of one channel are delivered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sdqueue.channels import OnAmbiguous, PerChannel
from sdqueue.settings import Settings


@dataclass(frozen=True)
class EgressOptions:
    """How replies are delivered; all times in seconds.

    Parameters:
        on_ambiguous: what becomes of a reply with an unknown outcome, where neither the receiver recognises a repeat
            nor the platform can be asked.
        kept_ids_s: how long it is remembered that a reply was delivered.
        prefetch: replies in hand; every process of a channel must use the same number.
        parallel: calls to the platform at one moment.
        lane_size: replies of one session in hand; more of them wait in the outbox, so that a flooding session cannot
            take all the room that there is for replies in hand.
        in_place_s: how long a reply is tried before it waits in the outbox, with everything of its session behind it.
        outbox_s: how long it is tried altogether, where the channel has no schedule of its own, before it is dead.
        poll_s: how often the outbox is looked at.
        lease_s: how long the outbox of a session waits for a process that died while it worked on it.
        call_timeout_s: how long a call to the platform may take; after that its outcome is unknown.
        ask_again_s: how long to wait before a platform is asked again for a message that it did not know of;
            they index late.
        grace_s: how long deliveries in flight may take at the end.
        declare: whether the channel's queue is made where it is missing.
    """

    on_ambiguous: OnAmbiguous = OnAmbiguous.RESEND
    kept_ids_s: float = 24 * 3600.0
    prefetch: int = 500
    parallel: int = 100
    lane_size: int = 50
    in_place_s: float = 60.0
    outbox_s: float = 24 * 3600.0
    poll_s: float = 1.0
    lease_s: float = 15.0
    call_timeout_s: float = 60.0
    ask_again_s: float = 1.0
    grace_s: float = 10.0
    declare: bool = True

    @classmethod
    def of(cls, settings: Settings, channel: str) -> Self:
        """What the settings say of a channel."""
        choice = PerChannel.parse(settings.on_ambiguous, OnAmbiguous.RESEND)
        return cls(
            on_ambiguous=choice.of(channel),
            # A reply is delivered again within hours, if at all: 0 would show it twice.
            kept_ids_s=max(settings.kept_ids_s, 3600.0),
            grace_s=settings.grace_s,
            declare=settings.apply,
        )
