"""Work: a delivery on its way through the consumer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from sdqueue.brokers import Delivery
from sdqueue.consumer.failure import Stopped
from sdqueue.errors import InvalidTurn
from sdqueue.messages import InboundTurn, replay_number, replayed_death
from sdqueue.sessions import TurnOutcome


@dataclass(eq=False, slots=True)
class Work:
    """A delivery, read, with what happens to it.

    Parameters:
        delivery: the message.
        turn: what it says; ``None`` where it is no turn.
        invalid: why it is no turn.
        anonymous: the turn came without an id, and ``turn.id`` was made up here.
        session_id: whose mailbox it waits in.
    """

    delivery: Delivery
    turn: InboundTurn | None
    invalid: InvalidTurn | None
    anonymous: bool
    session_id: str
    arrived: float = field(default_factory=time.monotonic)
    seconds_left: float = 0.0
    """What the agent may still take, its attempts and the waits between them together. Waiting for the session's
    lock, or for a store that is away, is not on the agent's time."""
    attempts: int = 0
    """Starts of the agent."""
    failures: int = 0
    """Those of them that the agent itself failed at; a save that failed is none."""
    stopped_by: str | None = None
    is_spent: Callable[[str], bool] | None = None
    """Whether a cancel turn had its end before, so that its repeat stops nothing; not known before the session was
    taken up."""
    _stopping: asyncio.Future[None] | None = None

    @classmethod
    def read(cls, delivery: Delivery, *, max_text_bytes: int) -> Work:
        """Read a delivery; one that is no turn becomes work too, whose end is the dead letters."""
        message = delivery.message
        try:
            turn = InboundTurn.decode(
                message.body,
                message_id=message.message_id,
                content_type=message.content_type,
                max_text_bytes=max_text_bytes,
            )
        except InvalidTurn as error:
            return cls(delivery, None, error, anonymous=False, session_id=f"\x00{delivery.tag}")
        anonymous = turn.id is None
        if anonymous:
            turn = turn.model_copy(update={"id": f"anonymous-{uuid.uuid4().hex}"})
        return cls(delivery, turn, None, anonymous, turn.session_id)

    @property
    def turn_id(self) -> str:
        """The turn's id; empty where it is no turn."""
        return (self.turn.id or "") if self.turn else ""

    @property
    def replay(self) -> int:
        """How often the turn was put back from the dead letters; 0 for all but those."""
        return replay_number(self.delivery.message.headers)

    def is_repeat(self, past: TurnOutcome | None) -> bool:
        """Whether the turn has had its end, so that it must not run again.

        A replay is no repeat of the death that it answers, but of everything else: what was answered is never run
        again, and a second letter of the same death, or a letter that was put back twice, brings nothing new.

        Parameters:
            past: how the session remembers that it ended, ``None`` where it does not.
        """
        replay = self.replay
        if past is None or replay == 0:
            return past is not None
        if past.replies is None:
            # Only its id is left, and when it ended: whether that was in this death.
            return past.at != replayed_death(self.delivery.message.headers)
        return past.state != "dead" or past.replay >= replay

    def stop(self, by: str) -> None:
        """Ask the turn to stop, on behalf of a later one. It is too late once the turn is being saved."""
        if self.is_spent is None or not self.is_spent(by):
            self.stopped_by = by
            if self._stopping is not None and not self._stopping.done():
                self._stopping.set_result(None)

    def forget_spent(self, is_spent: Callable[[str], bool]) -> None:
        """Take back what a cancel turn asked that had its end before, whether it stopped a turn then or found none."""
        self.is_spent = is_spent
        if self.stopped_by is not None and is_spent(self.stopped_by):
            self.stopped_by = None
            self._stopping = None

    def check_stopped(self) -> None:
        """Raise :class:`~sdqueue.consumer.failure.Stopped` where a later turn has asked for it."""
        if self.stopped_by is not None:
            raise Stopped(self.stopped_by)

    def stopping(self) -> asyncio.Future[None]:
        """Done as soon as a later turn asks for it; to be waited for by ``asyncio.wait``, and never cancelled."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_future()
            if self.stopped_by is not None:
                self._stopping.set_result(None)
        return self._stopping

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt, unless stopped meanwhile."""
        if self.is_spent is None:
            await asyncio.sleep(seconds)  # what asks for a stop may be a repeat
            return
        await asyncio.wait({self.stopping()}, timeout=seconds)
        self.check_stopped()
