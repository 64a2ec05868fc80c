"""SlackStream: a message that grows, by chat.startStream, chat.appendStream and chat.stopStream.

Not slack_sdk's ``AsyncChatStream``: that one buffers what the egress has buffered already, forgets its buffer when a
call fails, and cannot tell an append that was refused from one whose outcome nobody knows.
"""

from __future__ import annotations

import logging
from typing import Final, Self

from slack_sdk.web.async_client import AsyncWebClient

from sdqueue_producers.errors import Ambiguous, DeliveryError, Permanent
from sdqueue_producers.outgoing import Outgoing, Ref, Sent
from sdqueue_producers.slack.answers import ask
from sdqueue_producers.slack.destination import Destination
from sdqueue_producers.slack.posts import STREAM_ENDED, mark, replace
from sdqueue_producers.slack.text import MAX_MARKDOWN, harmless, settled

_log: Final = logging.getLogger(__name__)


class SlackStream:
    """See :class:`~sdqueue_producers.Stream`. A stream lives for about five minutes, whatever is appended.

    An append whose outcome is not known makes the stream *torn*: nothing more is appended, since text could be doubled
    or be missing in the middle, and :meth:`finish` puts the whole text in place of what is shown.
    """

    ref: Ref

    def __init__(self, client: AsyncWebClient, destination: Destination, ts: str) -> None:
        self.ref = ts
        self._client = client
        self._destination = destination
        self._ts = ts
        self._shown = ""
        self._held = ""  # appended, but not shown yet: the beginning of what may become a call of everybody
        self._torn = False

    @classmethod
    async def begin(cls, client: AsyncWebClient, destination: Destination) -> Self | None:
        """Begin a stream, in a thread and for a user; ``None`` where Slack does not let us, or not now.

        A stream is only the nicer way to show a text. Where there is something wrong with the place, the post that
        comes instead says so.
        """
        if destination.thread_ts is None or destination.user is None or destination.recipient_team is None:
            return None
        try:
            answer = await ask(
                client.chat_startStream(
                    channel=destination.channel,
                    thread_ts=destination.thread_ts,
                    recipient_user_id=destination.user,
                    recipient_team_id=destination.recipient_team,
                ),
                f"chat.startStream in {destination.channel}",
            )
        except DeliveryError as error:
            # Ambiguous too: an empty message may be left behind, but no text twice.
            _log.info("no native stream in Slack, edits will do: %s", error)
            return None
        ts = answer.get("ts")
        return cls(client, destination, ts) if isinstance(ts, str) else None

    async def append(self, text: str) -> None:
        """See :class:`~sdqueue_producers.Stream`.

        Raises:
            RetryAfter: not now; nothing of the text is shown, give it again.
            Permanent: the stream has ended; ``finish`` still works, and so does an edit of ``ref``.
        """
        if self._torn:
            return
        ready, held = settled(self._held + text)
        if not ready.strip():
            self._held += text  # Slack takes no empty text
            return
        whole = harmless(ready)
        for start in range(0, len(whole), MAX_MARKDOWN):
            piece = whole[start : start + MAX_MARKDOWN]
            self._torn = True  # until there is an answer; also where the caller gives up waiting
            try:
                await ask(
                    self._client.chat_appendStream(channel=self._destination.channel, ts=self._ts, markdown_text=piece),
                    f"chat.appendStream in {self._destination.channel}",
                    bucket=self._destination.edit_bucket,
                )
            except Ambiguous:
                return
            except DeliveryError:
                if start:
                    return  # a part of the text is shown: the caller must not give all of it again
                self._torn = False
                raise
            self._torn = False
            self._shown += piece
        self._held = held

    async def finish(self, outgoing: Outgoing, appended: str) -> Sent:
        """See :class:`~sdqueue_producers.Stream`. Repeatable: never raises ``Ambiguous``."""
        whole = harmless(outgoing.text)
        rest = whole[len(self._shown) :]
        if self._torn or not whole.startswith(self._shown) or len(rest) > MAX_MARKDOWN:
            return await self._replace(outgoing)
        try:
            await ask(
                self._client.chat_stopStream(
                    channel=self._destination.channel,
                    ts=self._ts,
                    markdown_text=rest if rest.strip() else None,
                    metadata=mark(outgoing),
                ),
                f"chat.stopStream in {self._destination.channel}",
            )
        except Ambiguous:
            return await self._replace(outgoing)
        except Permanent as error:
            if error.reason not in STREAM_ENDED:
                raise
            return await self._replace(outgoing)
        return Sent(self.ref)

    async def _replace(self, outgoing: Outgoing) -> Sent:
        self._torn = True
        await replace(self._client, self._destination, self._ts, outgoing)
        return Sent(self.ref)
