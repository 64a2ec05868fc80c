"""ProducerObserver: the events of a producer, all in one place. The core calls it; it never calls the core."""

from __future__ import annotations

from sdqueue.observe.observer import fan_out


class ProducerObserver:
    """Hears what happens; every method does nothing here and may be overridden.

    Methods are called in the event loop and must return at once. An exception from one is a bug and surfaces as such.
    """

    # Ingress

    def request_answered(self, *, channel: str, status: int, reason: str, seconds: float) -> None:
        """A request was answered; ``reason`` is the slug of a refusal, else empty."""

    def turn_published(self, *, channel: str, session_id: str, turn_id: str) -> None:
        """The broker has a turn for good."""

    def turn_repeated(self, *, channel: str, turn_id: str) -> None:
        """A turn was known already and was not published again."""

    def turn_unconfirmed(self, *, channel: str, turn_id: str, error: str) -> None:
        """The broker did not confirm a turn; the platform was told to send it again."""

    def listener_failed(self, *, channel: str, error: str, again_in_s: float) -> None:
        """A channel's socket or long polling ended with an error and is begun again."""

    def typing_failed(self, *, channel: str, error: str) -> None:
        """A typing indicator could not be shown or taken away. Nothing depends on it."""

    # Egress

    def queue_taken(self, *, channel: str) -> None:
        """The replies of a channel come to this process."""

    def queue_lost(self, *, channel: str, reason: str) -> None:
        """They do not any more; it is tried again."""

    def reply_delivered(self, *, channel: str, session_id: str, reply_id: str, seconds: float) -> None:
        """A reply is visible on its platform, ``seconds`` after it arrived here."""

    def reply_repeated(self, *, channel: str, reply_id: str) -> None:
        """A reply had been delivered before and was dropped."""

    def reply_retried(self, *, channel: str, reply_id: str, attempts: int, wait_s: float, error: str) -> None:
        """A delivery failed passingly and is tried again after ``wait_s`` seconds."""

    def reply_ambiguous(self, *, channel: str, reply_id: str, outcome: str) -> None:
        """Whether a delivery had arrived was not known.

        ``outcome`` is ``found`` or ``absent`` where the platform was asked, ``repeated`` where it was sent again to a
        receiver that recognises it, ``resent`` where it may be visible twice, ``dropped`` where it may not be at all.
        """

    def reply_dead(self, *, channel: str, reply_id: str, reason: str, error: str) -> None:
        """A reply cannot be delivered and became a dead letter."""

    def channel_defect(self, *, channel: str, error: str, trace: str) -> None:
        """A channel raised what it must not raise. A request got a 500; what was to be delivered is tried again."""

    def backend_away(self, *, backend: str, error: str) -> None:
        """The broker or the state cannot be used; nothing is acknowledged meanwhile. Turns are published without it."""


class ProducerObservers(ProducerObserver):
    """Passes every event on to several observers, in order."""

    def __init__(self, *observers: ProducerObserver) -> None:
        for name in vars(ProducerObserver):
            if not name.startswith("_"):
                setattr(self, name, fan_out([getattr(o, name) for o in observers]))
