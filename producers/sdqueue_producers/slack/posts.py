"""Posts: messages of ours in Slack; how one is recognised, and how one is made to show another text."""

from __future__ import annotations

from typing import Any, Final

from slack_sdk.web.async_client import AsyncWebClient

from sdqueue_producers.errors import Permanent, RetryAfter
from sdqueue_producers.outgoing import Outgoing
from sdqueue_producers.slack.answers import ask
from sdqueue_producers.slack.destination import Destination
from sdqueue_producers.slack.text import harmless

EVENT_TYPE: Final = "sdqueue_reply"

STREAM_ENDED: Final = frozenset({"message-not-in-streaming-state", "stopped-by-user"})
"""A stream does not grow any more: its time is over, it was stopped, or the user has stopped it."""


def mark(outgoing: Outgoing) -> dict[str, Any]:
    """The metadata that a message carries, so that it can be found again."""
    return {"event_type": EVENT_TYPE, "event_payload": {"id": outgoing.key}}


def is_marked(message: Any, outgoing: Outgoing) -> bool:
    """Whether a message that Slack has listed is this one."""
    return isinstance(message, dict) and message.get("metadata") == mark(outgoing)


def shown(outgoing: Outgoing) -> str:
    """The text that is to be shown.

    Raises:
        Permanent: there is none; Slack has no empty messages.
    """
    if not outgoing.text.strip():
        raise Permanent("no-text", f"reply {outgoing.key} has no text, and Slack shows no empty message")
    return harmless(outgoing.text)


async def replace(client: AsyncWebClient, destination: Destination, ts: str, outgoing: Outgoing) -> None:
    """Make a message show a text, also one that a stream is still open in.

    Repeatable: raises ``RetryAfter`` or ``Permanent``, never ``Ambiguous``.
    """
    text = shown(outgoing)
    what = f"chat.update in {destination.channel}"
    for _ in range(2):
        try:
            await ask(
                client.chat_update(channel=destination.channel, ts=ts, markdown_text=text, metadata=mark(outgoing)),
                what,
                bucket=destination.edit_bucket,
                repeatable=True,
            )
        except Permanent as error:
            if error.reason != "streaming-state-conflict":
                raise
            await _stop(client, destination, ts)
        else:
            return
    raise RetryAfter(None, f"{what}: a stream in it does not end")


async def _stop(client: AsyncWebClient, destination: Destination, ts: str) -> None:
    """End a stream as it is, such as one whose process was killed."""
    try:
        await ask(
            client.chat_stopStream(channel=destination.channel, ts=ts),
            f"chat.stopStream in {destination.channel}",
            repeatable=True,
        )
    except Permanent as error:
        if error.reason not in STREAM_ENDED:
            raise
