"""The DeltaLog protocol: where streamed answers are kept for a while, to be read on from an offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from sdqueue.errors import ConfigurationError
from sdqueue.streaming.offset import StreamOffset

LARGEST_READ: Final = 500
"""Entries that one read returns at most."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A reply in a log.

    Parameters:
        offset: its place.
        body: the reply as JSON text, as it went to the broker.
    """

    offset: StreamOffset
    body: str


@runtime_checkable
class DeltaLog(Protocol):
    """Keeps the replies of streamed turns, one log a turn, for some minutes.

    Every log passes ``sdqueue.testing.DeltaLogSuite``. It is a convenience for those who listen and no record: it may
    forget, and nothing that a turn is promised depends on it.
    """

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        """Add entries, in the order of their offsets.

        Ignored are those whose offset is not greater than the newest: repeats, and what an attempt says that was
        overtaken. The first delta of a newer attempt takes the older ones out. The oldest go where there are too many.

        Raises:
            StoreUnavailable: it cannot be reached; some may have been added.
        """
        ...

    async def read(
        self, session_id: str, turn_id: str, *, after: StreamOffset, wait_s: float
    ) -> Sequence[LogEntry] | None:
        """What comes after an offset, at most :data:`LARGEST_READ`.

        Parameters:
            session_id: the session.
            turn_id: the turn.
            after: the offset.
            wait_s: seconds to wait for the first of it.

        Returns:
            Nothing where nothing came in that time; ``None`` where there is no log of this turn.

        Raises:
            StoreUnavailable: it cannot be reached.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and files. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of an answer is kept, and for how long.

    Parameters:
        entries: of one turn; a log may keep some more.
        ttl_s: seconds after the last entry that the log of a turn is forgotten.

    Raises:
        ConfigurationError: one of them is too small.
    """

    entries: int = 1000
    ttl_s: float = 300.0

    def __post_init__(self) -> None:
        if self.entries < 1 or self.ttl_s < 0.001:
            raise ConfigurationError(
                f"a log of streamed answers cannot keep {self.entries} entries for {self.ttl_s:g} s; both must be more "
                "than nothing"
            )
