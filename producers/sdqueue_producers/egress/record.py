"""Record: what is known of the delivery of a reply, and Page: where one is kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from sdqueue_producers.egress.patience import Patience
from sdqueue_producers.egress.patient import PatientState
from sdqueue_producers.egress.presence import presence_key
from sdqueue_producers.outgoing import Ref

ENDED_S: Final = 3600.0
"""How long it is known that a turn has ended, so that nobody shows that it is being answered."""

LOOK_S: Final = 0.2
"""Seconds between two looks whether the call of another process has ended."""

LAST_STEP_S: Final = 1.0
"""How long the last edit of a process that has lost its replies may be on its way."""


@dataclass(frozen=True)
class Record:
    """The delivery of a reply.

    It is written before the platform is called and after, so whoever finds ``begun`` does not know the outcome.

    Parameters:
        refs: what the platform calls the parts that are visible.
        begun: the next part was being sent.
        calling: the call of the platform for it has no end yet, as far as is known.
        by: the process that wrote this.
        again: the next part may be there already.
        fresh: the first part is a new message, whatever has grown.
        done: nothing is left to do.
        dead: it became a dead letter; ``done`` as well.
        replay: which replay of the dead reply this is about.
        skip: characters of the text that a stream has shown, which came to its end before.
        limits: longest first and other parts that the text was split by.
        attempts: failed ones.
        first_at: when it was tried first, in seconds since 1970.
    """

    refs: tuple[Ref, ...] = ()
    begun: bool = False
    calling: bool = False
    by: str = ""
    again: bool = False
    fresh: bool = False
    done: bool = False
    dead: bool = False
    replay: int = 0
    skip: int = 0
    limits: tuple[int, int] | None = None
    attempts: int = 0
    first_at: float = 0.0

    def dump(self) -> str:
        """As JSON."""
        fields: dict[str, Any] = asdict(self)
        return json.dumps({name: value for name, value in fields.items() if value})

    @classmethod
    def load(cls, text: str | None) -> Self:
        """From JSON; an empty record where there is none. Fields of a newer release are ignored."""
        fields = {name: value for name, value in json.loads(text or "{}").items() if name in cls.__dataclass_fields__}
        for name in ("refs", "limits"):
            if name in fields:
                fields[name] = tuple(fields[name])
        return cls(**fields)

    def of_replay(self, replay: int) -> Self:
        """The record that a replay goes on with: what was visible before it died stays so, and what may be, too."""
        if replay <= self.replay or (self.done and not self.dead):
            return self
        return replace(self, replay=replay, done=False, dead=False, calling=False, attempts=0, first_at=0.0)


@dataclass(frozen=True)
class Grown:
    """The message that has grown with the deltas of a turn, as it is kept for whoever delivers the final reply.

    Parameters:
        begun: it was being sent, and whether it is there is not known unless ``live``.
        live: it is on the platform.
        ref: what the platform calls it.
        appended: what a native stream had shown when it could not be appended to any more.
        by: the process that sends and edits it; empty where it does not any more.
    """

    begun: bool = False
    live: bool = False
    ref: Ref = None
    appended: str = ""
    by: str = ""

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))  # a ref may be anything, also 0

    @classmethod
    def load(cls, text: str | None) -> Self:
        """From JSON."""
        fields = json.loads(text or "{}")
        return cls(**{name: value for name, value in fields.items() if name in cls.__dataclass_fields__})


class Overtaken(Exception):
    """Another process has written the record meanwhile: this one was cut off from the broker, or asleep."""


class Page:
    """The record of one reply, in the state. A process that knows less than is written there cannot write.

    Parameters:
        state: keeps it.
        channel: whose reply.
        reply_id: which.
        kept_s: seconds that it is kept after the last change.
    """

    def __init__(self, state: PatientState, channel: str, reply_id: str, kept_s: float) -> None:
        self.record = Record()
        self.grown = Grown()
        self._state = state
        self._key = f"{channel}:delivery:{reply_id}"
        self._grown_key = grown_key(channel, reply_id)
        self._kept_s = kept_s
        self._channel = channel
        self._text: str | None = None

    async def load(self, replay: int) -> Self:
        """Read it, as a replay goes on with it."""
        self._text, grown = await self._state.get([self._key, self._grown_key])
        self.record = Record.load(self._text).of_replay(replay)
        self.grown = Grown.load(grown)
        return self

    async def save(self, **changes: Any) -> None:
        """Write it with changes.

        Raises:
            Overtaken: it is not what it was when it was read.
        """
        record = replace(self.record, **changes, by=self._state.name)
        text = record.dump()
        if not await self._state.swap(self._key, self._text, text, ttl_s=self._kept_s):
            raise Overtaken
        self.record, self._text = record, text

    async def wait_for_call(self, patience: Patience) -> None:
        """Wait as long as another process that is there is in the middle of the call that was begun.

        Raises:
            Overtaken: the call has ended.
            Released, OutOfPatience: see :class:`Patience`.
        """
        while self.record.calling and self.record.by != self._state.name:
            text, there = await self._state.get([self._key, presence_key(self._channel, self.record.by)])
            if text != self._text:
                raise Overtaken
            if there is None:
                return
            await patience.sleep(LOOK_S)

    async def wait_for_grown(self, patience: Patience) -> None:
        """Wait as long as another process that is there is about to send the message that grows, or to edit it.

        Raises:
            Released, OutOfPatience: see :class:`Patience`.
        """
        while self.grown.by and self.grown.by != self._state.name:
            grown, there = await self._state.get([self._grown_key, presence_key(self._channel, self.grown.by)])
            self.grown = Grown.load(grown)
            if there is None:
                return
            await patience.sleep(LAST_STEP_S if self.grown.live else LOOK_S)
            if self.grown.live:
                return

    @property
    def untouched(self) -> bool:
        """Whether nobody has begun to show the reply that ends the turn."""
        return not (self.record.begun or self.record.refs or self.record.done)

    def behind(self, replay: int) -> bool:
        """Whether this replay, or the reply itself, is a repeat of what was done."""
        return replay < self.record.replay or self.record.done


def grown_key(channel: str, reply_id: str) -> str:
    """Where it is kept what has grown before this final reply."""
    return f"{channel}:grown:{reply_id}"


def ended_key(channel: str, turn_id: str) -> str:
    """Where it is kept that a turn has ended."""
    return f"{channel}:ended:{turn_id}"
