"""Following the log of a turn from an offset to the end of the answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Final

from sdqueue.errors import ReplyTimeout, StreamNotFound
from sdqueue.streaming.log import DeltaLog, LogEntry
from sdqueue.streaming.offset import BEGINNING, StreamOffset

LONGEST_WAIT_S: Final = 5.0
"""Seconds that one read waits, so that it is noticed soon where a log has ended without an end."""


async def follow(
    log: DeltaLog, session_id: str, turn_id: str, *, after: StreamOffset, timeout: float
) -> AsyncGenerator[LogEntry, None]:
    """Iterate over what comes after an offset; it does not end by itself.

    Parameters:
        log: where the answer is kept.
        session_id: the session.
        turn_id: the turn.
        after: the offset; the beginning waits for a turn that has not begun.
        timeout: the longest silence, in seconds.

    Raises:
        StreamNotFound: there is no log of this turn, any more or, from the beginning, within the timeout.
        ReplyTimeout: nothing came for so long.
        StoreUnavailable: the log cannot be reached.
    """
    known = after != BEGINNING
    heard = time.monotonic()
    wait_s = 0.0
    while True:
        entries = await log.read(session_id, turn_id, after=after, wait_s=wait_s)
        if entries is None and known:
            raise StreamNotFound(session_id, turn_id, "it ended and was forgotten since, or the offset is not its own")
        known = known or entries is not None
        for entry in entries or ():
            yield entry
            after = entry.offset
        if entries:
            heard = time.monotonic()
        left = heard + timeout - time.monotonic()
        if left <= 0:
            if not known:
                raise StreamNotFound(
                    session_id,
                    turn_id,
                    f"within {timeout:g} s none came: it has not begun, has ended long ago, or was not sent with "
                    "stream=True",
                )
            raise ReplyTimeout(turn_id, timeout)
        wait_s = min(left, LONGEST_WAIT_S)
