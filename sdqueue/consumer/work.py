"""Work: a delivery on its way through the consumer."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field

from sdqueue.brokers import Delivery
from sdqueue.consumer.failure import Stopped
from sdqueue.errors import InvalidTurn
from sdqueue.messages import InboundTurn


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
    deadline: float = 0.0
    """When the agent's time is up, on the monotonic clock."""
    attempts: int = 0
    stopped_by: str | None = None
    spent: frozenset[str] = frozenset()
    """Cancel turns that have stopped an earlier turn of the session: their repeats stop nothing."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

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

    def stop(self, by: str) -> None:
        """Ask the turn to stop, on behalf of a later one. It is too late once the turn is being saved."""
        if by not in self.spent:
            self.stopped_by = by
            self._stopping.set()

    def forget_spent(self, spent: frozenset[str]) -> None:
        """Take back what a cancel turn asked that had its effect before, on an earlier turn."""
        self.spent = spent
        if self.stopped_by in spent:
            self.stopped_by = None
            self._stopping.clear()

    def check_stopped(self) -> None:
        """Raise :class:`~sdqueue.consumer.failure.Stopped` where a later turn has asked for it."""
        if self.stopped_by is not None:
            raise Stopped(self.stopped_by)

    async def wait_stopped(self) -> None:
        """Wait for a later turn to ask for it."""
        await self._stopping.wait()

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt, unless stopped meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        self.check_stopped()
