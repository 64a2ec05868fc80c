"""What stores have sealed beside records: turns of backlogs, and the outcomes of refused ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sdqueue.sessions import codec
from sdqueue.sessions.ring import TurnOutcome
from sdqueue.sessions.sealing.seal import PLAIN, Sealing
from sdqueue.sessions.stores.backlog import Deferred


async def seal_turns(sealing: Sealing, session_id: str, turns: Sequence[Deferred]) -> list[Deferred]:
    """Turns as a backlog keeps them.

    Raises:
        RecordError, StoreUnavailable: see :meth:`Sealing.writing`.
    """
    seal = await sealing.writing(session_id) if turns else PLAIN
    if not seal.key_id:
        return list(turns)
    return [replace(turn, body=seal.seal("turn", turn.body, turn.turn_id)) for turn in turns]


async def open_turns(sealing: Sealing, session_id: str, turns: Sequence[Deferred]) -> tuple[list[Deferred], list[str]]:
    """Turns that a backlog has kept, and the ids of those whose key was erased: they are to be taken out.

    Raises:
        RecordError, StoreUnavailable: see :meth:`Sealing.reading`.
    """
    opened: list[Deferred] = []
    erased: list[str] = []
    for turn in turns:
        seal = await sealing.reading(session_id, turn.body)
        if seal is None:
            erased.append(turn.turn_id)
        elif not seal.key_id:
            opened.append(turn)
        else:
            with codec.naming(session_id):
                body = seal.open("turn", turn.body, turn.turn_id)
            assert isinstance(body, bytes)
            opened.append(replace(turn, body=body))
    return opened, erased


async def seal_refusal(sealing: Sealing, session_id: str, outcome: TurnOutcome) -> str:
    """The outcome of a refused turn as a backlog keeps it.

    Raises:
        RecordError: it holds something that JSON cannot.
    """
    with codec.naming(session_id):
        text = codec.encode_outcome(outcome)
    seal = await sealing.writing(session_id)
    return seal.seal("refusal", text, outcome.turn_id)


async def open_refusal(
    sealing: Sealing, session_id: str, turn_id: str, stored: str | bytes | None
) -> TurnOutcome | None:
    """The outcome that was kept; ``None`` where there is none, or its key was erased.

    Raises:
        RecordError: it cannot be read.
    """
    if not stored:
        return None
    seal = await sealing.reading(session_id, stored)
    if seal is None:
        return None
    with codec.naming(session_id):
        return codec.decode_outcome(seal.open("refusal", stored, turn_id))
