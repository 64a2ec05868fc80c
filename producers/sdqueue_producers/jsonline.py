"""json_line: JSON text as the data of a server-sent event, one line for every client."""

from __future__ import annotations

from typing import Final

_LINE_ENDS: Final = {ord(char): f"\\u{ord(char):04x}" for char in "\u0085\u2028\u2029"}


def json_line(text: str) -> str:
    """The same JSON without characters that stand for the end of a line in Unicode.

    They end none in an event stream, nor does JSON escape them. Many clients split at them all the same, since the
    functions for lines of their languages do (Python's ``str.splitlines``, and with it ``iter_lines`` of httpx).

    Parameters:
        text: JSON; these characters can be in its strings alone, and mean the same there.
    """
    return text if text.isascii() else text.translate(_LINE_ENDS)
