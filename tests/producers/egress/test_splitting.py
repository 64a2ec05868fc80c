"""Long texts are cut where a reader would cut them, and nothing is lost."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sdqueue_producers.egress.splitting import pieces, split

WORDS = st.sampled_from(
    ["a", "word", "longer-word", "End.", "Really?", "```", "```py", "~~~", "    indented", "\n", "\n\n", "\n \n", " ",
     "é", "e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "。", "`x`", "x" * 30, "\t", "\r\n"]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=60).map("".join) | st.text(max_size=300)


@given(TEXTS, st.integers(1, 80), st.none() | st.integers(1, 80))
@settings(max_examples=600, deadline=None)
@example("```py\nline 1\nline 2\nline 3\n```", 20, None)
@example("x" * 100, 1, 1)
@example("\n" * 20, 3, None)
def test_no_message_is_too_long_and_nothing_but_white_space_is_lost(text: str, limit: int, first: int | None) -> None:
    found = list(pieces(text, limit, first=first))

    rest = text
    for number, piece in enumerate(found):
        assert len("".join(piece)) <= (limit if number or first is None else first)
        at = rest.index(piece.body)
        assert not rest[:at].strip()
        rest = rest[at + len(piece.body) :]
    assert not rest.strip()
    assert ["".join(piece) for piece in found] == split(text, limit, first=first)


@given(TEXTS, st.integers(30, 80))
@settings(max_examples=600, deadline=None)
@example("```word\n" + "x" * 30, 30)
def test_every_message_closes_the_fences_that_it_opens_where_there_is_room(text: str, limit: int) -> None:
    for line in text.split("\n"):
        match = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if match and len(line) + len(match[1]) + 2 > limit // 2:
            return  # no room to open it again
    opened = _open_fence(text)
    messages = split(text, limit)
    for message in messages[:-1]:
        assert _open_fence(message) is None, messages
    if opened is None:
        assert _open_fence(messages[-1]) is None


def _open_fence(text: str) -> str | None:
    mark = None
    for line in text.split("\n"):
        match = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line, re.DOTALL)
        if not match:
            continue
        if mark is None:
            if not (match[1][0] == "`" and "`" in match[2]):
                mark = match[1]
        elif match[1][0] == mark[0] and len(match[1]) >= len(mark) and not match[2].strip():
            mark = None
    return mark


@given(
    st.lists(st.sampled_from(["e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "a"]), max_size=40).map("".join),
    st.integers(8, 30),
)
@settings(max_examples=300, deadline=None)
def test_what_is_shown_as_one_character_is_not_cut(text: str, limit: int) -> None:
    for message in split(text, limit):
        if not message:
            continue
        assert unicodedata.category(message[0]) not in ("Mn", "Mc", "Me")
        assert message[0] not in "\u200d🏽"
        assert message[-1] != "\u200d"
        assert sum("\U0001f1e6" <= char <= "\U0001f1ff" for char in message) % 2 == 0


@pytest.mark.parametrize(
    ("text", "limit", "messages"),
    [
        ("", 10, [""]),
        ("short", 10, ["short"]),
        ("exactly 10", 10, ["exactly 10"]),
        ("one one\n\ntwo two", 10, ["one one", "two two"]),
        ("one one one\ntwo two\n\nthree three", 22, ["one one one\ntwo two", "three three"]),
        ("line one\nline two\nline three", 18, ["line one\nline two", "line three"]),
        ("First one. Second one. Third one.", 25, ["First one. Second one.", "Third one."]),
        ("some words in a row", 10, ["some words", "in a row"]),
        ("xxxxxxxxxxxx", 5, ["xxxxx", "xxxxx", "xx"]),
        ("a long line\n\n  indented list", 18, ["a long line", "  indented list"]),
        ("```py\none = 1\ntwo = 2\n```", 20, ["```py\none = 1\n```", "```py\ntwo = 2\n```"]),
        ("```py\nif x:\n    y = 1\n```\ndone", 20, ["```py\nif x:\n```", "```py\n    y = 1\n```", "done"]),
        ("text before it\n\n```\ncode here\n```", 25, ["text before it", "```\ncode here\n```"]),
    ],
)
def test_where_it_is_cut(text: str, limit: int, messages: list[str]) -> None:
    assert split(text, limit) == messages


def test_the_first_message_may_be_shorter_than_the_others() -> None:
    assert split("one two three four five six", 14, first=7) == ["one two", "three four", "five six"]


def test_a_limit_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 characters"):
        split("x", 0)


def test_a_long_text_is_cut_in_time_in_proportion_to_its_length() -> None:
    """A text of a quarter of a million characters, half of it code."""
    text = ("word " * 40 + "\n```py\n" + "code = 1\n" * 200 + "```\n\n") * 120

    messages = split(text, 4096)

    assert 55 < len(messages) < 120
    assert len(split("```\n" + "a\n" * 100_000, 40_000)) == 6, "looking at every line for every line takes minutes"
