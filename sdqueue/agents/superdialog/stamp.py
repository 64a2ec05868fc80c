"""The stamp on what is saved of superdialog's agents: which agent wrote it, in which format, with which superdialog."""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from sdqueue.errors import RecordCorrupt, RecordError, RecordTooNew

FORMAT: Final = 1

TESTED: Final = ((0, 2, 8), (0, 4))
"""From the first of these releases up to, but without, the second one. Others are not refused: see decision 0020."""

_log = logging.getLogger(__name__)


@cache
def installed() -> str:
    """The superdialog of this process; of one that is not tested, a warning is logged once."""
    try:
        found = version("superdialog")
    except PackageNotFoundError:  # run from its sources
        found = "0"
    if not TESTED[0] <= _numbers(found) < TESTED[1]:
        first, end = (".".join(map(str, numbers)) for numbers in TESTED)
        _log.warning(
            "superdialog %s is installed; sdqueue is tested with %s and later, before %s. What it keeps of an agent "
            "may be incomplete: pip install 'sdqueue[superdialog]' takes a release that is tested",
            found,
            first,
            end,
        )
    return found


def stamp(kind: str) -> dict[str, Any]:
    """The first fields of a saved state.

    Parameters:
        kind: the class of the agent, such as ``superdialog.DialogMachine``.
    """
    return {"kind": kind, "format": FORMAT, "superdialog": installed()}


def check_stamp(state: Any, kind: str) -> str:
    """The release of superdialog that wrote this state.

    Raises:
        RecordTooNew: a newer release of sdqueue wrote it.
        RecordCorrupt: it is no state of such an agent.
    """
    if not isinstance(state, dict) or state.get("kind") != kind:
        raise RecordCorrupt(
            f"the stored state is not that of a {kind}; another agent has answered this session: give it its own "
            "agent back, or reset the session"
        )
    written, written_by = state.get("format"), state.get("superdialog")
    if type(written) is not int or written < 1 or not isinstance(written_by, str):
        raise RecordCorrupt(f"the stored state of the {kind} has no format and release; something else wrote it")
    if written > FORMAT:
        raise RecordTooNew(
            f"the stored state of the {kind} has format {written}, this release reads up to {FORMAT}; "
            "upgrade this process"
        )
    return written_by


def unreadable(written_by: str, what: str) -> RecordError:
    """The error for a state that the installed superdialog does not understand.

    Parameters:
        written_by: the release that wrote it.
        what: what is not understood; no values, they are private.
    """
    here = installed()
    if _numbers(written_by) > _numbers(here):
        return RecordTooNew(
            f"superdialog {written_by} wrote the session's state, which superdialog {here} cannot read: {what}; "
            f"install superdialog {written_by} in this process too"
        )
    return RecordCorrupt(
        f"superdialog {here} cannot read the session's state, which superdialog {written_by} wrote: {what}; "
        f"go back to superdialog {written_by}, or reset the session"
    )


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])
