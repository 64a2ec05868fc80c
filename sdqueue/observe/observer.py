"""Observer: the events of a consumer, all in one place. The core calls it; it never calls the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdqueue.messages import DeadTurn


class Observer:
    """Hears what happens; every method does nothing here and may be overridden.

    Methods are called in the event loop and must return at once. An exception from one is a bug and surfaces as such.
    """

    def turn_received(self, *, queue: str, anonymous: bool) -> None:
        """A delivery was read. ``anonymous``: it has no id, so the duplicate guarantee does not cover it."""

    def turn_settled(
        self, *, state: str, session_id: str, turn_id: str, seconds: float, letter: DeadTurn | None, by: str | None
    ) -> None:
        """A delivery has its final state, ``seconds`` after it arrived here.

        ``letter`` says why a turn is dead, ``by`` is the id of the turn that superseded it.
        """

    def turn_retried(self, *, session_id: str, turn_id: str, attempt: int, delay_s: float, error: str) -> None:
        """An attempt failed passingly and is repeated after ``delay_s`` seconds."""

    def turn_suspected(self, *, session_id: str, turn_id: str, begun: int) -> None:
        """A turn was begun ``begun`` times without an end and is run alone in a process of its own."""

    def agent_stuck(self, *, session_id: str, turn_id: str) -> None:
        """An agent ignored its cancellation; its task was abandoned."""

    def history_unshortened(self, *, session_id: str, turn_id: str, error: str) -> None:
        """A conversation has outgrown its limits and could not be shortened as it should be.

        The turn is answered and saved all the same. It is tried again with the session's next turn.
        """

    def queue_taken(self, *, queue: str) -> None:
        """A queue was subscribed."""

    def queue_lost(self, *, queue: str, reason: str) -> None:
        """A subscription ended or could not be had; it is tried again."""

    def queue_released(self, *, queue: str, reason: str) -> None:
        """A queue was left to another consumer."""

    def partitions_assigned(self, *, owned: int, standby: int, members: int) -> None:
        """The members of the pool have changed, and with them what this consumer owns or stands by for."""

    def repartitioned(self, *, partitions: int) -> None:
        """The number of partitions was changed, and this consumer goes on with the new one."""

    def backend_away(self, *, backend: str, error: str) -> None:
        """The broker or the store cannot be used; turns wait and nothing is acknowledged.

        With the backend ``membership``, other consumers cannot be seen, and the partitions stay as they are.
        """

    def loop_blocked(self, *, seconds: float, task: str, stack: str) -> None:
        """The event loop has not moved for ``seconds``; ``task`` names the turn that holds it.

        The one event that comes from another thread: the loop cannot tell it.
        """

    def delivery_stalled(self, *, queue: str, session_id: str, turn_id: str, seconds: float, held_by: str) -> None:
        """A delivery has been unacknowledged for ``seconds``, a third of what the broker allows, or more.

        ``held_by`` says what it waits for.
        """

    def oldest_delivery(self, *, seconds: float) -> None:
        """The age of the oldest unacknowledged delivery, every few seconds; 0 where there is none."""

    def queue_stalled(self, *, queue: str, depth: int, seconds: float, lost: bool) -> None:
        """A queue with ``depth`` messages has delivered none here for ``seconds``.

        ``lost``: nobody receives it, and it is subscribed anew. Else another consumer does, and it gets no shorter.
        """

    def internal_error(self, *, session_id: str, turn_id: str, error: str, trace: str) -> None:
        """A defect of sdqueue itself: the turn is delivered again, with all others of its partition."""

    def running(self, *, turns: int, waiting: int) -> None:
        """How many turns run and wait in this process now."""


class Observers(Observer):
    """Passes every event on to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        for name in vars(Observer):
            if not name.startswith("_"):
                setattr(self, name, fan_out([getattr(o, name) for o in observers]))


def fan_out(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """One method that calls several with the same event, in order."""

    def tell(**event: object) -> None:
        for method in methods:
            method(**event)

    return tell
