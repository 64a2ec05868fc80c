"""Collecting: a turn takes along what waits behind it, where its channel wants all that waits to be one turn."""

from __future__ import annotations

import asyncio

from sdqueue.channels import DoubleTexting
from sdqueue.consumer.options import ConsumerOptions
from sdqueue.consumer.work import Work
from sdqueue.sessions import SessionHandle, TurnBacklog


async def collect(work: Work, handle: SessionHandle, backlog: TurnBacklog | None, options: ConsumerOptions) -> None:
    """Take along the messages of the same channel that wait next, where that collects.

    It happens when the session is locked and loaded, so that as many as possible are there, and so that the oldest of
    them, whose beginnings are counted, is the same after a crash.

    Parameters:
        work: the turn that is about to run.
        handle: its session.
        backlog: knows which turns were refused; ``None`` where none can be.
        options: which channels collect, and how long a text may be.
    """
    turn = work.turn
    if turn is None or not work.is_message or options.double_texting.of(turn.channel) is not DoubleTexting.COLLECT:
        return
    room = options.max_text_bytes - len(turn.text.encode())
    ids = {work.turn_id}

    def accept(other: Work) -> bool:
        nonlocal room
        if other.turn is None or not other.is_message or other.turn.channel != turn.channel:
            return False
        if other.unsorted or other.alone or other.stopped:
            return False
        if other.is_delivery and handle.waiting:
            return False  # it belongs behind the backlog, of which this turn is only the first
        if other.turn_id in ids or handle.recall(other.turn_id) is not None:
            return False  # a repeat says nothing new, and is answered as the first was
        ids.add(other.turn_id)
        room -= len(other.turn.text.encode()) + 1
        return room >= 0

    work.gather(accept)
    if backlog is None or not work.taken:
        return
    # The repeat of one that was refused is answered as the first was.
    standings = await asyncio.gather(*(backlog.standing(other.session_id, other.turn_id) for other in work.taken))
    refused = (position for position, standing in enumerate(standings) if standing.refusal is not None)
    work.disband(first=next(refused, len(standings)))
