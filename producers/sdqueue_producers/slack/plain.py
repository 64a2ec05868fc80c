"""Slack's markup as plain text: what a person sees, for an agent to read."""

from __future__ import annotations

import re
from typing import Final

_MARKUP: Final = re.compile(r"<([^<>]*)>")
_ENTITIES: Final = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


def plain_text(text: str, *, bot: str = "") -> str:
    """The text without Slack's markup.

    ``<@U1|ann>`` becomes ``@ann``, ``<#C1|general>`` ``#general``, ``<!here>`` ``@here``, ``<https://a.b|label>``
    ``label (https://a.b)``; ``&lt;``, ``&gt;`` and ``&amp;`` what they stand for.

    Parameters:
        text: as Slack sends it.
        bot: the user id of our bot, whose mention is left out.
    """
    if bot:
        # Blanks are looked at from where they begin alone: else a long run of them would take quadratic time.
        text = re.sub(rf"(?<![ \t])[ \t]*<@{re.escape(bot)}(?:\|[^<>]*)?>[ \t]*", " ", text)
    return unescape(_MARKUP.sub(_shown, text)).strip()


def mentions(text: str, user: str) -> bool:
    """Whether a user is mentioned in a text that Slack has sent."""
    return f"<@{user}>" in text or f"<@{user}|" in text


def unescape(text: str) -> str:
    """Slack escapes three characters; ``&amp;`` is last, so that nothing is unescaped twice."""
    for entity, char in _ENTITIES:
        text = text.replace(entity, char)
    return text


def _shown(match: re.Match[str]) -> str:
    target, bar, label = match[1].partition("|")
    if target.startswith("@"):
        return f"@{label.removeprefix('@') or target[1:]}"
    if target.startswith("#"):
        return f"#{label.removeprefix('#') or target[1:]}"
    if target.startswith("!"):
        word = target[1:].partition("^")[0]
        if word in ("here", "channel", "everyone"):
            return f"@{word}"
        return label or f"@{target[1:].partition('^')[2] or word}"
    address = target.removeprefix("mailto:")
    if not bar or label in ("", address) or address.rstrip("/").endswith(f"//{label.rstrip('/')}"):
        return address
    return f"{label} ({address})"
