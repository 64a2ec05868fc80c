"""Seat: a consumer's place at one queue, and when it has to take it or to leave it.

The broker makes the subscription that has waited longest active, and tells nobody that it became active. So the
owner of a queue gets it only if no older subscription waits there, and the members, who know each other's
subscriptions, have to see to that:

- The owner subscribes at once.
- The standby subscribes behind it, when nobody but the owner is there any more.
- Whoever has the queue and is not its owner any more keeps it until the owner is there and nobody else would come
  before it; then it closes its channel. So the queue is without a consumer for no longer than that takes.
- Others who are there before the owner and have nothing of the queue go at once.
- A standby that gets deliveries while the owner lives and is there has come before it by accident, and goes behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sdqueue.consumer.assignment import Roles
from sdqueue.consumer.membership import Seen
from sdqueue.consumer.reader import QueueReader

PATIENCE_S: Final = 2.0
"""How long a member waits for others to do what is theirs to do."""
MISORDER_S: Final = 1.5
"""An owner that was heard of so long after deliveries came here lives, and does not get them."""
LONGEST_MISORDER_S: Final = 30.0
FRESH_S: Final = 0.5
"""A connection takes the subscriptions of many members with it; what they announced before is worth nothing then."""


class Seat:
    """Decides for one queue whether its reader should be subscribed.

    Parameters:
        reader: of the queue.
    """

    def __init__(self, reader: QueueReader) -> None:
        self.reader = reader
        self._roles: Roles | None = None
        self._held = False
        """This consumer was the owner while it had this subscription."""
        self._behind = False
        """The owner was there before this subscription, and has been ever since."""
        self._owner_losses = 0
        """What it had lost when this subscription began."""
        self._owner_there = False
        self._owner_since = 0.0
        """Since when the owner is there, or is not there."""
        self._lost_at = float("-inf")
        """When a subscription was lost."""
        self._misorder_s = MISORDER_S

    def assign(self, roles: Roles, now: float) -> None:
        """Take notice of another assignment."""
        if self._roles is None or self._roles.owner != roles.owner:
            self._behind = self._owner_there = False
            self._owner_since = now
            self._misorder_s = MISORDER_S
        self._roles = roles

    def closed(self) -> None:
        """Take notice that the subscription has ended."""
        self._held = False

    def lost(self, now: float, *, mine: bool) -> None:
        """Take notice that the subscription was lost. It is had again by itself, but by its owner first."""
        self._held = self._behind = False
        if not mine:
            self.reader.release("it is for the owner to subscribe first")
            self._lost_at = now
            self._owner_since = max(self._owner_since, now)

    def leave(self, others: Mapping[str, Seen], *, fresh: bool) -> bool:
        """Release the queue as soon as somebody else serves it; returns whether that is done.

        Parameters:
            others: the other members.
            fresh: they know by now that this one leaves, and this one knows which of them do.
        """
        reader = self.reader
        if reader.subscription is None:
            reader.release("this consumer stops")
            return True
        holds = self._held or reader.delivered_at is not None
        served = fresh and any(
            reader.queue in seen.says.subscribed and not seen.says.leaving for seen in others.values()
        )
        if not holds or served:
            reader.release("this consumer stops")
        return not reader.wanted

    def judge(self, me: str, others: Mapping[str, Seen], seen_at: float, now: float) -> float | None:
        """Want or release the queue; returns when to look again, where time alone may change the decision.

        Parameters:
            me: this member.
            others: the other members, as they were seen at ``seen_at``.
            now: the event loop's clock.
        """
        roles, reader = self._roles, self.reader
        assert roles is not None
        if roles.owner == me:
            reader.want()
            self._held = self._held or reader.subscription is not None
            return None
        if reader.closing:
            return None
        there = {member for member, seen in others.items() if reader.queue in seen.says.subscribed}
        if (roles.owner in there) != self._owner_there:
            self._owner_there, self._owner_since = not self._owner_there, now
        if self._behind:
            self._behind = self._owner_there and others[roles.owner].says.losses == self._owner_losses
        is_standby = roles.standby == me
        if not reader.wanted:
            return self._from_outside(roles, others, there, seen_at, now) if is_standby else None
        if reader.subscription is None:
            if not is_standby:
                reader.release("it is for others")
            return None
        if self._behind:
            self._from_behind(roles, others, is_standby=is_standby)
            return None
        return self._from_before(roles, there, now, is_standby=is_standby)

    def _from_outside(
        self, roles: Roles, others: Mapping[str, Seen], there: set[str], seen_at: float, now: float
    ) -> float | None:
        """The standby is not subscribed."""
        late = self._owner_since + PATIENCE_S
        if self._owner_there and (there == {roles.owner} or now >= late):
            if seen_at < self._lost_at + FRESH_S:
                return None  # the next sighting decides
            self._behind, self._owner_losses = True, others[roles.owner].says.losses
        elif now < late:
            return late
        self.reader.want()
        return None

    def _from_behind(self, roles: Roles, others: Mapping[str, Seen], *, is_standby: bool) -> None:
        """It comes after the owner."""
        if not is_standby:
            self.reader.release("another one stands by for it")
            return
        began = self.reader.delivered_at
        if began is None or others[roles.owner].heard < max(began, self._owner_since) + self._misorder_s:
            return
        # Where the owner only believes to be subscribed, doing it again and again would help nobody.
        self._misorder_s = min(2 * self._misorder_s, LONGEST_MISORDER_S)
        self.reader.release(f"it was active before its owner {roles.owner}")

    def _from_before(self, roles: Roles, there: set[str], now: float, *, is_standby: bool) -> float | None:
        """It comes before the owner, if that is there at all."""
        holds = self._held or self.reader.delivered_at is not None
        if not self._owner_there:
            # Closing now would leave the queue to nobody, or move it twice.
            if not (is_standby or holds) and there:
                self.reader.release("it is for others")
            return None
        late = self._owner_since + PATIENCE_S
        if holds and there != {roles.owner} and now < late:
            return late
        self.reader.release(f"it belongs to {roles.owner}")
        return None
