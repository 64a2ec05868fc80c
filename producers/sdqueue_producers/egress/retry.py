"""When a reply that was not taken is tried again, as a value: deciding apart from doing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

FIRST_S: Final = 0.5
LONGEST_S: Final = 900.0


def next_wait(
    asked: float | None,
    *,
    attempts: int,
    schedule: Sequence[float],
    trying_s: float,
    at_most_s: float,
) -> float | None:
    """Seconds until the next attempt, ``None``: there is none.

    Parameters:
        asked: seconds that the platform asked to wait; it is never tried before that.
        attempts: how many have failed.
        schedule: the waits after each failed attempt; empty: exponential with jitter, 0.5 s to 15 minutes.
        trying_s: seconds since the first attempt.
        at_most_s: without a schedule, there is no attempt later than that after the first one.
    """
    if schedule:
        return max(schedule[attempts - 1], asked or 0.0) if attempts <= len(schedule) else None
    own = min(LONGEST_S, FIRST_S * 2.0 ** min(attempts - 1, 16))
    wait = own * random.uniform(0.5, 1.0) if asked is None else asked
    return wait if trying_s + wait <= at_most_s else None
