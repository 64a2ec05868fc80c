"""``sdqueue producer`` that kills itself with SIGKILL at a chosen point, patched from outside.

The points, in the order in which a message and its answer pass them:

    received    a channel has read turns in what came; nothing is published
    confirmed   the broker has confirmed a turn; the platform has no answer. In turns: before it is remembered, before
                the answer
    begun       it is written down that a reply is being sent; the platform was not called
    delivered   the platform's call has returned; that is neither written down nor acknowledged to the broker
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sdqueue_producers.egress.courier import Courier
from sdqueue_producers.egress.platform import Platform
from sdqueue_producers.egress.record import Page
from sdqueue_producers.ingress.ingress import Ingress
from sdqueue_producers.ingress.limits import Exchange
from sdqueue_producers.ingress.publisher import Publisher
from sdqueue_producers.process import Producer  # noqa: F401  # so that those who are forked have it imported

from sdqueue.cli import main
from tests.chaos.journal import Journal
from tests.producers.table.mutants import MUTANT, MUTANTS, patch

POINTS: Final = ("received", "confirmed", "begun", "delivered")

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Wound:
    """Where one life ends.

    Parameters:
        point: of :data:`POINTS`; empty: nowhere.
        platform: whose messages and replies are counted, by name.
        sessions: how their session ids begin.
        passes: it dies when the point is passed for the so many-th time.
        late: of ``confirmed``, the place before the answer.
    """

    point: str = ""
    platform: str = ""
    sessions: str = ""
    passes: int = 1
    late: bool = False


@dataclass(frozen=True)
class Life:
    """What a process needs to know.

    Parameters:
        environ: its whole environment.
        arguments: of ``sdqueue``.
        log: a file for what it writes.
        journal: a folder for what it says of its end.
        wound: its end.
    """

    environ: Mapping[str, str]
    arguments: tuple[str, ...]
    log: Path
    journal: Path
    wound: Wound = Wound()


def live(life: Life) -> None:
    """Be ``sdqueue`` with these arguments; the whole of a process that was forked for it."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.environ.clear()
    os.environ.update(life.environ)
    out = os.open(life.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(out, number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if os.environ.get(MUTANT):
        MUTANTS[os.environ[MUTANT]]()
    if life.wound.point:
        _wound(life.wound, Journal(life.journal))
    sys.argv = ["sdqueue", *life.arguments]
    main()


_session: ContextVar[str] = ContextVar("session", default="")


class _Counter:
    def __init__(self, wound: Wound, journal: Journal) -> None:
        self._wound = wound
        self._left = wound.passes
        self._journal = journal

    def passed(self, session: str) -> None:
        """A point was passed by something of this session."""
        if not session.startswith(self._wound.sessions):
            return
        self._left -= 1
        if self._left == 0:
            self._journal.write("struck", point=self._wound.point, platform=self._wound.platform, session=session)
            os.kill(os.getpid(), signal.SIGKILL)


def _wound(wound: Wound, journal: Journal) -> None:
    at = _Counter(wound, journal)

    def joining(join: Any) -> Any:
        def wounded(self: Any, receipt: Any) -> Any:
            for turn in receipt.turns[:1]:
                _session.set(turn.session_id)
                if wound.point == "received":
                    at.passed(turn.session_id)
            return join(self, receipt)

        return wounded

    def published(told: Any) -> Any:
        def wounded(self: Any, channel: Any, turn: Any) -> None:
            told(self, channel, turn)
            at.passed(turn.session_id)

        return wounded

    def answering(send: Any) -> Any:
        async def wounded(self: Any, response: Any) -> None:
            if response.status_code < 300 and _session.get():
                at.passed(_session.get())
            await send(self, response)

        return wounded

    def submitting(submit: Any) -> Any:
        async def wounded(self: Any, channel: Any, receipt: Any) -> None:
            await submit(self, channel, receipt)
            for turn in receipt.turns[:1]:
                at.passed(turn.session_id)

        return wounded

    def bringing(bring: Any) -> Any:
        async def wounded(self: Any, job: Any, *args: Any) -> None:
            _session.set(job.session)
            await bring(self, job, *args)

        return wounded

    def saving(save: Any) -> Any:
        async def wounded(self: Any, **changes: Any) -> None:
            await save(self, **changes)
            if changes.get("begun"):
                at.passed(_session.get())

        return wounded

    def delivering(deliver: Any) -> Any:
        async def wounded(self: Any, *args: Any) -> Any:
            sent = await deliver(self, *args)
            at.passed(_session.get())
            return sent

        return wounded

    patch(Publisher, "join", joining)
    patch(Courier, "bring", bringing)
    match wound.point, wound.late:
        case "confirmed", False:
            patch(Publisher, "_published", published)
        case "confirmed", True:
            patch(Exchange, "send", answering)
            patch(Ingress, "_submit", submitting)
        case "begun", _:
            patch(Page, "save", saving)
        case "delivered", _:
            patch(Platform, "call", delivering)
