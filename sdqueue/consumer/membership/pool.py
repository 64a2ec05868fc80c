"""The Pool protocol: the members as somebody sees them who is none, and the epoch that they are told."""

from __future__ import annotations

from typing import Protocol

from sdqueue.consumer.membership.epoch import Epoch
from sdqueue.consumer.membership.membership import Sighting


class Pool(Protocol):
    """A pool of consumers, seen from outside. All methods raise StoreUnavailable where it cannot be reached."""

    async def look(self) -> Sighting:
        """The members and the epoch now.

        Raises:
            RecordCorrupt: the epoch cannot be read.
        """
        ...

    async def advance(self, seen: Epoch | None, wanted: Epoch) -> bool:
        """Replace the epoch; ``False``, with nothing changed, where it is not the one that was seen."""
        ...
