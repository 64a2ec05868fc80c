"""Work: a turn on its way through the consumer, from the broker or from its session's backlog."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdqueue.brokers import Delivery
from sdqueue.consumer.failure import Refused, Stopped
from sdqueue.errors import InvalidTurn
from sdqueue.messages import InboundTurn, replay_number, replayed_death
from sdqueue.sessions import TurnOutcome

NO_TAG = 0
"""The tag of what comes from a backlog: brokers count from 1, so there is nothing to acknowledge."""


class Followers(Protocol):
    """The turns that wait behind one in its mailbox."""

    def take(self, accept: Callable[[Work], bool]) -> list[Work]:
        """Take out the first ones, up to the first that is not accepted."""
        ...

    def give_back(self, works: Sequence[Work]) -> None:
        """Let them wait in front of all others again."""
        ...


@dataclass(eq=False, slots=True)
class Work:
    """A delivery, read, with what happens to it.

    Parameters:
        delivery: the message.
        turn: what it says; ``None`` where it is no turn.
        invalid: why it is no turn.
        anonymous: the turn came without an id, and ``turn.id`` was made up here.
        session_id: whose turn it is; of what is no turn, something that no session has.
        lane: the mailbox that it waits in; default: its session's.
    """

    delivery: Delivery
    turn: InboundTurn | None
    invalid: InvalidTurn | None
    anonymous: bool
    session_id: str
    lane: str = ""
    arrived: float = field(default_factory=time.monotonic)
    seconds_left: float = 0.0
    """What the agent may still take, its attempts and the waits between them together. Waiting for the session's
    lock, or for a store that is away, is not on the agent's time."""
    attempts: int = 0
    """Starts of the agent here."""
    attempt: int = 0
    """The number of the last start of an agent that answers this turn, counted across processes: what the agent and
    those who hear its deltas are told."""
    failures: int = 0
    """Those of them that the agent itself failed at; a save that failed is none."""
    unsorted: bool = False
    """Whether it is to be looked at before it is known where it belongs, as what is replayed is, or what came to the
    wrong partition. Anything else may wait in the session's backlog unseen."""
    stage: str = "waits to begin"
    """What is being done with it, for people."""
    refused: Refused | None = None
    """Why it is not let in."""
    on_backlog: Callable[[], None] | None = None
    """Set where the turn is in its session's backlog, and need not be put there; takes it out when it is settled."""
    backlog_key: str = ""
    """What names it in the backlog, where that is not its own name: see :attr:`copy_key`."""
    followers: Followers | None = None
    taken: list[Work] = field(default_factory=list)
    """Later turns that this one has taken along: their texts are one turn, which answers the last of them."""
    alone: bool = False
    """Whether it is to take no others along: they failed together, and each is now tried by itself."""
    stopped: Stopped | None = None
    is_spent: Callable[[Stopped], bool] | None = None
    """Whether a stop had its effect before, so that it is asked for by a repeat; not known before the session was
    taken up."""
    _stopping: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self.lane = self.lane or self.session_id

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
    def metadata(self) -> dict[str, Any]:
        """The producer's own data with the turn; empty where it is no turn."""
        return dict(self.turn.metadata) if self.turn else {}

    @property
    def replay(self) -> int:
        """How often the turn was put back from the dead letters; 0 for all but those."""
        return replay_number(self.delivery.message.headers)

    @property
    def key(self) -> str:
        """What names the turn in a backlog. A replay of a turn is not the turn, which may still be there."""
        return self.backlog_key or (f"{self.turn_id}\x00{self.replay}" if self.replay else self.turn_id)

    @property
    def copy_key(self) -> str:
        """What names it in a backlog that has the turn already, and whoever asked this time waits elsewhere."""
        return f"{self.turn_id}\x00{self.replay}\x00{self.delivery.message.reply_to}"

    @property
    def is_delivery(self) -> bool:
        """Whether the broker has delivered it, and waits for its acknowledgement."""
        return self.delivery.tag != NO_TAG

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

    @property
    def is_message(self) -> bool:
        """Whether it is something said, which an agent answers."""
        return self.turn is not None and self.turn.kind == "message"

    @property
    def answering(self) -> Work:
        """The turn whose answer this becomes: the last one taken along, or this."""
        return self.taken[-1] if self.taken else self

    def refuse(self, reason: Refused) -> None:
        """Let it be refused: beside its session's mailbox, so that it is done at once."""
        self.refused = reason
        self.lane = f"\x00refused {self.delivery.tag}"

    def admit(self) -> None:
        """Let it in after all."""
        self.refused = None
        self.lane = self.session_id

    @property
    def text(self) -> str:
        """What was said, in all that were taken along."""
        return "\n".join([work.turn.text for work in (self, *self.taken) if work.turn])

    def ack(self) -> None:
        """Take it out of where it came from, for good."""
        self.delivery.subscription.ack(self.delivery)
        if self.on_backlog is not None:
            self.on_backlog()

    def gather(self, accept: Callable[[Work], bool]) -> None:
        """Take later turns along."""
        if self.followers is not None and not self.alone:
            self.taken = self.followers.take(accept)

    def disband(self, *, first: int = 0, alone: bool = False) -> None:
        """Let the turns that were taken along wait again.

        Parameters:
            first: keep so many of them.
            alone: and never take each other along again.
        """
        back, self.taken = self.taken[first:], self.taken[:first]
        if alone:
            for work in (self, *back):
                work.alone = True
        if back:
            assert self.followers is not None
            self.followers.give_back(back)

    def stop(self, by: str, reason: str = "cancelled") -> None:
        """Ask the turn to stop, on behalf of a later one. It is too late once the turn is being saved."""
        stopped = Stopped(by, reason)
        if self.is_spent is None or not self.is_spent(stopped):
            self.stopped = stopped
            if self._stopping is not None and not self._stopping.done():
                self._stopping.set_result(None)

    def forget_spent(self, is_spent: Callable[[Stopped], bool]) -> None:
        """Take back what a turn asked that has had its effect before, whether it stopped a turn then or found none."""
        self.is_spent = is_spent
        if self.stopped is not None and is_spent(self.stopped):
            self.stopped = None
            self._stopping = None

    def check_stopped(self) -> None:
        """Raise :class:`~sdqueue.consumer.failure.Stopped` where a later turn has asked for it."""
        if self.stopped is not None:
            raise Stopped(self.stopped.by, self.stopped.reason)

    def stopping(self) -> asyncio.Future[None]:
        """Done as soon as a later turn asks for it; to be waited for by ``asyncio.wait``, and never cancelled."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_future()
            if self.stopped is not None:
                self._stopping.set_result(None)
        return self._stopping

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt, unless stopped meanwhile."""
        self.stage = "waits before another attempt"
        if self.is_spent is None:
            await asyncio.sleep(seconds)  # what asks for a stop may be a repeat
            return
        await asyncio.wait({self.stopping()}, timeout=seconds)
        self.check_stopped()
