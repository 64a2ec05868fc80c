"""SlackDelivery: the way out to Slack; posts, edits, native streams, the status, and looking for what was posted.

Replies are Markdown and go out as ``markdown_text`` (12,000 characters, for posts and edits alike), not as ``text``
(40,000 for a post, but 4,000 for an edit, and in Slack's own markup).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from slack_sdk.web.async_client import AsyncWebClient

from sdqueue_producers.channel import Bucket, Caps
from sdqueue_producers.errors import Permanent
from sdqueue_producers.outgoing import Address, Outgoing, Ref, Sent, Stream
from sdqueue_producers.slack.answers import ask
from sdqueue_producers.slack.destination import Destination
from sdqueue_producers.slack.posts import is_marked, mark, replace, shown
from sdqueue_producers.slack.status import DEFAULT_STATUS, STATUS_TTL_S, set_status
from sdqueue_producers.slack.streams import SlackStream

_log: Final = logging.getLogger(__name__)

CAPS: Final = Caps(
    max_chars=11_000,  # of 12,000: Slack's way of counting is not documented, and calls are made longer here
    can_edit=True,
    can_find=True,
    native_stream=True,
    edit_every_s=2.0,  # 50 edits a minute for a whole workspace: several answers can be edited at a time
    stream_max_s=280.0,  # Slack ends a stream after about five minutes
    typing_ttl_s=STATUS_TTL_S,
)

_PAGES: Final = 5
_PAGE: Final = 100
_LONGEST_TURN_S: Final = 3600.0
"""Where the user's message is not known, an answer is looked for from so long before it was made: it may have grown."""


class SlackDelivery:
    """The delivering half of the Slack channel; its methods are those of :class:`~sdqueue_producers.Channel`.

    Parameters:
        clients: gives the client of an installation, with its token and without retry handlers (the default one can
            post twice); raises ``Permanent`` where the installation is gone.
        status: shown in assistant threads while an answer is made, behind the app's name.
    """

    caps = CAPS

    def __init__(self, clients: Callable[[str], Awaitable[AsyncWebClient]], *, status: str = DEFAULT_STATUS) -> None:
        self._clients = clients
        self._status = status
        self._told: set[str] = set()

    def buckets(self, address: Address) -> Sequence[Bucket]:
        """One post a second in a channel; 50 edits a minute in a workspace, chat.update being of Slack's tier 3."""
        try:
            destination = Destination.read(address)
        except Permanent:
            return ()  # deliver says so
        return (
            Bucket(destination.post_bucket, 1, 1.0, limits="posts"),
            Bucket(destination.edit_bucket, 50, 60.0, limits="edits"),
        )

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """Post a message that carries the reply's id in its metadata.

        Links are not unfurled: Slack's servers would fetch what a model can be talked into writing.
        """
        destination, client = await self._place(address)
        answer = await ask(
            client.chat_postMessage(
                channel=destination.channel,
                thread_ts=destination.thread_ts,
                markdown_text=shown(outgoing),
                metadata=mark(outgoing),
                unfurl_links=False,
                unfurl_media=False,
            ),
            f"chat.postMessage to {destination.channel}",
            bucket=destination.post_bucket,
        )
        return _sent(answer)

    async def edit(self, address: Address, ref: Ref, outgoing: Outgoing) -> Sent:
        """Let a message show another text, also one in which a stream of a killed process is open."""
        if not isinstance(ref, str):
            raise Permanent("bad-ref", f"a Slack message is named by its ts, not by {type(ref).__name__}")
        destination, client = await self._place(address)
        await replace(client, destination, ref, outgoing)
        return Sent(ref)

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        """Look for the reply's id in the thread, or the channel, among what was posted after the user's message.

        Needs the history scope of the kind of conversation.

        Raises:
            Permanent: it cannot be looked for, since a scope is missing or there are more than 500 such messages. That
                says nothing about the reply: ``on_ambiguous`` decides.
        """
        destination, client = await self._place(address)
        oldest = destination.ts or f"{outgoing.reply.created_at.timestamp() - _LONGEST_TURN_S:.6f}"
        cursor: str | None = None
        for _ in range(_PAGES):
            try:
                page = await self._page(client, destination, oldest, cursor)
            except Permanent as error:
                if error.reason == "thread-not-found":
                    return None
                self._tell(destination.install, error)
                raise
            for message in page.get("messages") or ():
                if is_marked(message, outgoing):
                    return _sent(message)
            after = page.get("response_metadata")
            cursor = after.get("next_cursor") if isinstance(after, dict) else None
            if not cursor:
                return None
        raise Permanent(
            "too-many-messages", f"{outgoing.key} is not among the first {_PAGES * _PAGE} messages that may be it"
        )

    async def stream(self, address: Address, outgoing: Outgoing) -> Stream | None:
        """Begin a native stream where there is a thread, and the user who asked is known."""
        destination, client = await self._place(address)
        return await SlackStream.begin(client, destination)

    async def typing(self, address: Address, on: bool) -> None:
        """Show the status in an assistant thread, or take it away."""
        destination = Destination.read(address)
        if destination.assistant:
            await set_status(await self._clients(destination.install), destination, self._status if on else "")

    async def _place(self, address: Address) -> tuple[Destination, AsyncWebClient]:
        destination = Destination.read(address)
        return destination, await self._clients(destination.install)

    async def _page(
        self, client: AsyncWebClient, destination: Destination, oldest: str, cursor: str | None
    ) -> dict[str, Any]:
        if destination.thread_ts is not None:
            return await ask(
                client.conversations_replies(
                    channel=destination.channel,
                    ts=destination.thread_ts,
                    oldest=oldest,
                    cursor=cursor,
                    limit=_PAGE,
                    include_all_metadata=True,
                ),
                f"conversations.replies in {destination.channel}",
                repeatable=True,
            )
        return await ask(
            client.conversations_history(
                channel=destination.channel, oldest=oldest, cursor=cursor, limit=_PAGE, include_all_metadata=True
            ),
            f"conversations.history in {destination.channel}",
            repeatable=True,
        )

    def _tell(self, install: str, error: Permanent) -> None:
        if install not in self._told:
            self._told.add(install)
            _log.warning("installation %s: replies with an unknown outcome cannot be looked up: %s", install, error)


def _sent(answer: dict[str, Any]) -> Sent:
    ts = answer.get("ts")
    return Sent(ts if isinstance(ts, str) else None)
