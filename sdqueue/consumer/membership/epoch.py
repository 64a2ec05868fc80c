"""Epoch: how many partitions there are, and whether that is being changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from sdqueue.errors import RecordCorrupt


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the members of a pool are told about the partitions.

    It announces; what there is, says the broker.

    Parameters:
        partitions: how many there are; while that is being changed, how many there were.
        target: how many there will be; ``None`` where nothing is being changed. Nobody may be subscribed then.
        by: names the change; a member that has let go says so by repeating it.
    """

    partitions: int
    target: int | None = None
    by: str = ""

    def write(self) -> str:
        """As it stands beside the list of members."""
        return json.dumps({"partitions": self.partitions, "target": self.target, "by": self.by})

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """The epoch that was written; ``None`` where none was.

        Raises:
            RecordCorrupt: it is no epoch.
        """
        if text is None:
            return None
        try:
            fields = json.loads(text)
            partitions, target, by = int(fields["partitions"]), fields.get("target"), str(fields.get("by", ""))
            return cls(partitions, None if target is None else int(target), by)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordCorrupt(
                f"the record of the partitions beside the list of consumers is {text[:80]!r}, which cannot be read "
                f"({error}); look who has written it"
            ) from None
