"""The status of an assistant thread: Slack's own sign that an answer is being made."""

from __future__ import annotations

from slack_sdk.web.async_client import AsyncWebClient

from sdqueue_producers.slack.answers import ask
from sdqueue_producers.slack.destination import Destination

DEFAULT_STATUS = "is thinking…"
"""Slack puts the app's name before it."""

STATUS_TTL_S = 90.0
"""Slack takes a status away after two minutes, or when a message is posted; it is set again before that."""


async def set_status(client: AsyncWebClient, destination: Destination, status: str) -> None:
    """Show a status in an assistant thread; the empty one takes it away. Elsewhere there is none to show.

    Raises like ``deliver``.
    """
    if not destination.assistant or destination.thread_ts is None:
        return
    await ask(
        client.assistant_threads_setStatus(
            channel_id=destination.channel, thread_ts=destination.thread_ts, status=status
        ),
        f"assistant.threads.setStatus in {destination.channel}",
        repeatable=True,
    )
