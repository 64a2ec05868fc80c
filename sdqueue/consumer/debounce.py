"""Debounce: believes a list of members when it has stood still: a pool that starts moves its partitions once."""

from __future__ import annotations

from typing import Final

CALM_S: Final = 1.0
"""A changed list is believed when it has been the same for so long."""
LONGEST_S: Final = 5.0
"""Under constant change the latest list is believed after so long."""
AFTER_GAP_S: Final = 3.0
"""How long a list must stand still that was seen after a gap: all members have had time to sign it again by then.
The first one to reconnect would otherwise take everything."""


class Debounce:
    """Decides which members there are.

    Parameters:
        me: the member that asks. The first list of a pool that has no other member is believed at once.
    """

    def __init__(self, me: str) -> None:
        self.believed: frozenset[str] = frozenset()
        """Empty until the first list is believed."""
        self._me = me
        self._candidate: frozenset[str] = frozenset()
        self._candidate_since = 0.0
        self._differs_since: float | None = None
        self._patient_until = float("-inf")

    @property
    def patient(self) -> bool:
        """Whether a list that was seen after a gap is still waited upon."""
        return self._differs_since is not None and self._candidate_since <= self._patient_until

    def see(self, members: frozenset[str], now: float, *, after_gap: bool = False) -> bool:
        """Take notice of a list; returns whether another one is believed now.

        Parameters:
            members: who was seen.
            now: when, in seconds of any clock that does not go back.
            after_gap: members that live may be missing.
        """
        if after_gap:
            self._patient_until = now + AFTER_GAP_S
        if members == self.believed:
            self._differs_since = None
            return False
        if self._differs_since is None or after_gap:
            self._differs_since = now
            self._candidate = frozenset()
        if members != self._candidate:
            self._candidate, self._candidate_since = members, now
        calm = AFTER_GAP_S if self.patient else CALM_S
        is_first = not self.believed and members == {self._me}
        if is_first or now - self._candidate_since >= calm or now - self._differs_since >= LONGEST_S:
            self.believed, self._differs_since = members, None
            return True
        return False
