"""The data of a server-sent event is one line, whatever a client takes for the end of one."""

from __future__ import annotations

import json

import pytest
from sdqueue_producers.openai.sse import event
from sdqueue_producers.webchat.events import _written
from sdqueue_producers.webhook.sse import event_text

NASTY = "a\u0085b\u2028c\u2029d\u000be\u000cf\u001cg\u001dh\u001ei\r\nj \\u2028 é 🤖"


@pytest.mark.parametrize(
    "written",
    [
        event({"text": NASTY}).decode(),
        event({"text": NASTY}, "response.completed").decode(),
        event_text("delta", json.dumps({"text": NASTY}, ensure_ascii=False)),
        _written({"id": "1-1", "text": NASTY}),
    ],
    ids=["openai", "openai named", "webhook", "webchat"],
)
def test_a_text_with_ends_of_lines_stays_on_its_line(written: str) -> None:
    """As Python, and with it httpx, splits lines: at eleven different characters."""
    (data,) = [line for line in written.splitlines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["text"] == NASTY
    assert written.endswith("\n\n")
