"""Text: an agent's Markdown as Slack takes it, without what would call a whole workspace.

Replies go out as ``markdown_text``, which Slack renders itself: agents write Markdown, not Slack's older mrkdwn. The
one change that is made here: ``<!channel>``, ``<!here>``, ``<!everyone>`` and user groups notify everybody in a place,
and a model can be talked into writing them, so that an invisible U+2060 is put behind their ``<``.
"""

from __future__ import annotations

import re
from typing import Final

MAX_MARKDOWN: Final = 12_000
"""Characters of ``markdown_text``, as Slack documents for chat.postMessage, chat.update and the stream methods."""

_CALLS: Final = ("<!channel", "<!here", "<!everyone", "<!group", "<!subteam^")
_CALL: Final = re.compile("<(?=" + "|".join(re.escape(call[1:]) for call in _CALLS) + ")", re.IGNORECASE)


def harmless(text: str) -> str:
    """The text, in which nothing calls everybody."""
    return _CALL.sub("<\u2060", text)


def settled(text: str) -> tuple[str, str]:
    """Split a text that goes on: what can be shown now, and an end that may become a call, such as ``<!chan``.

    The first part is not made :func:`harmless` yet.
    """
    start = text.rfind("<", -max(map(len, _CALLS)))
    tail = text[start:].lower() if start >= 0 else ""
    if tail and any(call.startswith(tail) and call != tail for call in _CALLS):
        return text[:start], text[start:]
    return text, ""
