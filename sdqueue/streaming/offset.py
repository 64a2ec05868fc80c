"""StreamOffset: a place in the stream of a turn's answer, which every process computes alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from sdqueue.errors import InvalidOffset

ATTEMPTS: Final = 1 << 20
"""Attempts of one replay that can be told apart; the last one's place is that of the reply that ends the turn."""

_FORM: Final = re.compile(r"([0-9]{1,15})(?:-([0-9]{1,15}))?")


@dataclass(frozen=True, order=True, slots=True)
class StreamOffset:
    """A place, as text ``<attempt>-<number>``. Later places are greater, across attempts, processes and replays.

    It is made of what the writer knows by itself, so nobody has to ask a log for it. In the same way it tells a
    writer that was overtaken: what is not greater than a log's newest place has come too late.

    Parameters:
        attempt: the attempt, those of the n-th replay of a dead turn counted from n x 2^20.
        number: counts the deltas of the attempt from 1.
    """

    attempt: int
    number: int

    @classmethod
    def of(cls, attempt: int, index: int, *, replay: int = 0) -> Self:
        """The place of a delta: the attempt counts from 1, the index from 0."""
        return cls(replay * ATTEMPTS + min(attempt, ATTEMPTS - 2), index + 1)

    @classmethod
    def end(cls, *, replay: int = 0) -> Self:
        """The place of the reply that ends the turn: one for all attempts, so that it stands there once."""
        return cls(replay * ATTEMPTS + ATTEMPTS - 1, 0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that a text names; ``0`` is before everything.

        Raises:
            InvalidOffset: it names none.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidOffset(
                f"{text[:60]!r} is no offset of a stream: give one as it came with a delta (reply.stream.offset, such "
                "as '1-7'), or '0' to read from the beginning"
            )
        return cls(int(match[1]), int(match[2] or 0))

    @property
    def is_end(self) -> bool:
        """Whether it is that of a reply that ends the turn."""
        return self.attempt % ATTEMPTS == ATTEMPTS - 1

    def __str__(self) -> str:
        return f"{self.attempt}-{self.number}"


BEGINNING: Final = StreamOffset(0, 0)
"""Before everything."""
