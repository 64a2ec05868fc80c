"""Splitting: a long text as several messages, cut where a reader would cut it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

LEAST: Final = 3
"""A boundary in the first third of the room is not used while there is a lesser one behind it: the messages would be
too short."""

LONGEST_CLUSTER: Final = 32
"""Characters that are kept together as one; longer heaps of accents are cut."""

_FENCE: Final = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)")
_SENTENCE: Final = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]")
_SPACE: Final = re.compile(r"\s")
_JOINER: Final = "\u200d"


class Piece(NamedTuple):
    """One message: ``before`` and ``after`` open and close a code fence that was cut; ``body`` is of the text."""

    before: str
    body: str
    after: str


@dataclass(frozen=True)
class _Fence:
    mark: str
    info: str

    @property
    def opening(self) -> str:
        return f"{self.mark}{self.info}\n"

    @property
    def closing(self) -> str:
        return f"\n{self.mark}"

    def fits(self, room: int) -> bool:
        """Whether closing and opening it again leaves half of a message for its text."""
        return len(self.opening) + len(self.closing) <= room // 2


def split(text: str, limit: int, *, first: int | None = None) -> list[str]:
    """Cut a text into messages.

    It is cut between paragraphs, else between lines, sentences, or words, in this order; else anywhere but inside of
    what is shown as one character. A code fence that is cut is closed, and opened again in the next message. The
    messages hold all of the text but white space where it was cut.

    Parameters:
        text: what is to be shown.
        limit: longest message, in characters.
        first: longest first message; ``None``: as the others.

    Raises:
        ValueError: a limit is below 1.
    """
    return ["".join(piece) for piece in pieces(text, limit, first=first)]


def pieces(text: str, limit: int, *, first: int | None = None) -> Iterator[Piece]:
    """As :func:`split`, with what was added told apart."""
    room = limit if first is None else first
    if limit < 1 or room < 1:
        raise ValueError(f"a message of {min(limit, room)} characters holds nothing; the least is 1")
    if not text.strip():
        yield Piece("", text[:room], "")
        return
    fence: _Fence | None = None
    least = min(limit, room)
    while True:
        before = fence.opening if fence and fence.fits(least) else ""
        if len(before) + len(text) <= room:
            yield Piece(before, text, "")
            return
        cut, after, fence = _cut(text, room - len(before), fence, least)
        body, text = text[:cut], text[cut:]
        if fence:
            # The white space at the beginning of a line of code is part of it.
            body, text = body.removesuffix("\n"), text if body.endswith("\n") else text.removeprefix("\n")
        else:
            text = _without_seam(text, at_line=body.endswith("\n"))
            body = body.rstrip()
        if body:
            yield Piece(before, body, after if fence else "")
            room = limit
        if not text:
            return


def _without_seam(text: str, *, at_line: bool) -> str:
    """What is left, without the white space where it was cut; the indentation of a line is kept."""
    rest = text.lstrip()
    blank = text[: len(text) - len(rest)]
    return blank.rpartition("\n")[2] + rest if rest and (at_line or "\n" in blank) else rest


def _cut(text: str, room: int, fence: _Fence | None, least: int) -> tuple[int, str, _Fence | None]:
    """Where to cut, what closes a fence there, and the fence that is open behind it."""
    reserve = 0
    while True:
        at = _boundary(text, max(room - reserve, 1), fence)
        opened = _open_at(text, at, fence)
        after = opened.closing if opened and opened.fits(least) else ""
        if at + len(after) <= room or reserve >= len(after):
            return at, after, opened
        reserve = len(after)


def _boundary(text: str, room: int, fence: _Fence | None) -> int:
    """The last good place in ``text[:room + 1]``; behind the white space that makes it one, as far as there is room."""
    least = max(room // LEAST, 1)
    window = text[: room + 1]
    lines = [at + 1 for at, char in enumerate(window[:-1]) if char == "\n"]
    if window[-1] == "\n":
        lines.append(room)  # the line ends exactly here
    open_air = [at for at, opened in _fences(text, lines, fence) if at >= least and opened is None]
    for at in reversed(open_air):
        if text[at : at + 1] == "\n" or text[at - 2 : at] == "\n\n" or _blank(text, at):
            return at
    if open_air:
        return open_air[-1]
    for found in (
        lines,
        [match.end() for match in _SENTENCE.finditer(window) if match.end() <= room],
        [match.start() for match in _SPACE.finditer(window) if match.start() > 0],
    ):
        for at in reversed(found):
            if at >= least and not _spoils(text, at):
                return at
    return _between_clusters(text, room)


def _blank(text: str, at: int) -> bool:
    end = text.find("\n", at)
    return end >= 0 and not text[at:end].strip()


def _open_at(text: str, at: int, fence: _Fence | None) -> _Fence | None:
    """The fence that is open at a place, if one was open at the beginning."""
    for line in text[:at].split("\n"):
        fence = _behind(line, fence)
    return fence


def _fences(text: str, lines: list[int], fence: _Fence | None) -> Iterator[tuple[int, _Fence | None]]:
    """The beginnings of lines, and the fence that is open at each."""
    begin = 0
    for at in lines:
        fence = _behind(text[begin:at].rstrip("\n"), fence)
        begin = at
        yield at, fence


def _behind(line: str, fence: _Fence | None) -> _Fence | None:
    """The fence that is open behind a line, if one was open before it."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    mark, info = match["mark"], match["info"]
    if fence is None:
        return None if mark[0] == "`" and "`" in info else _Fence(mark, info.rstrip())
    closes = mark[0] == fence.mark[0] and len(mark) >= len(fence.mark) and not info.strip()
    return None if closes else fence


def _spoils(text: str, at: int) -> bool:
    """Whether a cut would make or break the line that opens or closes a fence."""
    begin = text.rfind("\n", 0, at) + 1
    if begin == at:
        return False
    if _FENCE.match(text, begin) and text[at : at + 1] != "\n":
        return True
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return _FENCE.match(text, at) is not None


def _between_clusters(text: str, room: int) -> int:
    at = room
    while at > max(room - LONGEST_CLUSTER, 0):
        if not _joined(text, at) and not _spoils(text, at):
            return at
        at -= 1
    return room


def _joined(text: str, at: int) -> bool:
    """Whether what stands before and behind a place is shown as one character, or as one emoji or flag."""
    before, behind = text[at - 1], text[at]
    if behind == _JOINER or before == _JOINER or (before == "\r" and behind == "\n"):
        return True
    if unicodedata.category(behind) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= behind <= "\U0001f3ff":
        return True
    if "\U000e0020" <= behind <= "\U000e007f":  # tags, of which some flags are made
        return True
    if _regional(before) and _regional(behind):
        count = 0
        while count < at and _regional(text[at - 1 - count]):
            count += 1
        return count % 2 == 1
    return "\ud800" <= before <= "\udbff" and "\udc00" <= behind <= "\udfff"


def _regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
