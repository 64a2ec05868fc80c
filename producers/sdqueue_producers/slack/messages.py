"""What somebody said to the bot, as a turn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sdqueue.messages import InboundTurn
from sdqueue_producers.slack.payload import Envelope, UnreadablePayload, optional, required, text_of, timestamp
from sdqueue_producers.slack.plain import mentions, plain_text

KEPT_SUBTYPES: Final = (None, "file_share", "thread_broadcast")
"""Kinds of messages that a person has written; all others tell that something has happened."""

MAX_FILES: Final = 50
"""Files of one message that are named in its metadata; Slack's own clients send at most 10."""


@dataclass(frozen=True)
class Said:
    """A message of a person, or a mention of the bot in one.

    Parameters:
        envelope: around it.
        channel: where it was said.
        user: who said it.
        ts: names it within the channel.
        thread_ts: the message whose thread it is in; ``None``: it is not in one.
        raw: as Slack sent it.
    """

    envelope: Envelope
    channel: str
    user: str
    ts: str
    thread_ts: str | None
    raw: str

    @classmethod
    def read(cls, envelope: Envelope) -> Said | str:
        """The message in an ``app_mention`` or ``message`` event, or the reason why it is nothing that a person said.

        Raises:
            UnreadablePayload: it has not the documented shape.
        """
        event = envelope.event
        subtype = event.get("subtype")
        if subtype is not None and not isinstance(subtype, str):
            raise UnreadablePayload("subtype: must be a string")
        if subtype == "bot_message" or event.get("bot_id"):
            return "message-of-a-bot"
        if subtype not in KEPT_SUBTYPES or event.get("hidden") is True:
            return "not-said-by-a-person"
        user = optional(event, "user")
        if user is None or user == "USLACKBOT":
            return "not-said-by-a-person"
        if user == envelope.bot:
            return "message-of-a-bot"
        ts = timestamp(event, "ts")
        assert ts is not None
        return cls(
            envelope=envelope,
            channel=required(event, "channel"),
            user=user,
            ts=ts,
            thread_ts=timestamp(event, "thread_ts", needed=False),
            raw=text_of(event.get("text")),
        )

    @property
    def direct(self) -> bool:
        """Whether it was said in a direct message to the bot."""
        return self.envelope.event.get("channel_type") == "im" or self.channel.startswith("D")

    @property
    def mentioned(self) -> bool:
        """Whether it names the bot."""
        if self.envelope.event["type"] == "app_mention":
            return True
        return bool(self.envelope.bot) and mentions(self.raw, self.envelope.bot)

    @property
    def thread(self) -> str | None:
        """The thread in which an answer belongs: in a channel always one, in a direct message where there is one."""
        return self.thread_ts or (None if self.direct else self.ts)

    @property
    def session_id(self) -> str:
        """``slack:{install}:{channel}:{thread}``; a direct message without a thread is one session with its channel."""
        return ":".join(filter(None, ("slack", self.envelope.install, self.channel, self.thread)))

    @property
    def turn_id(self) -> str:
        """The same for the two events, ``app_mention`` and ``message``, that one message can make."""
        return f"slack:{self.envelope.team}:{self.channel}:{self.ts}"

    @property
    def aliases(self) -> tuple[str, ...]:
        """A client that was not sure sends a message twice, under two timestamps."""
        client_msg_id = optional(self.envelope.event, "client_msg_id")
        return (f"slack:{self.envelope.team}:{client_msg_id}",) if client_msg_id else ()

    def turn(self, *, stream: bool, assistant: bool, context: dict[str, Any]) -> InboundTurn:
        """The turn.

        Parameters:
            stream: whether delta replies are wanted.
            assistant: it was said in an assistant thread.
            context: what the person looks at beside the assistant thread; empty where that is not known.

        Raises:
            InvalidTurn: the text is too long.
        """
        event, envelope = self.envelope.event, self.envelope
        team = optional(event, "user_team") or optional(event, "source_team") or optional(event, "team")
        team = team or envelope.team
        files = attachments(event.get("files"))
        text = plain_text(self.raw, bot=envelope.bot)
        slack = {
            "team": envelope.team,
            "install": envelope.install,
            "channel": self.channel,
            "user": self.user,
            "user_team": team,
            "ts": self.ts,
            "thread_ts": self.thread_ts,
            "event": event["type"],
            "event_id": envelope.event_id,
        }
        return InboundTurn.make(
            {
                "id": self.turn_id,
                "session_id": self.session_id,
                "text": text or _names(files) or plain_text(self.raw),  # a bare mention; models take no empty message
                "channel": "slack",
                "address": {
                    "install": envelope.install,
                    "channel": self.channel,
                    "thread_ts": self.thread,
                    "ts": self.ts,
                    "assistant": assistant,
                    "user": self.user,
                    "recipient_team": team,
                },
                "sender": f"{team}:{self.user}",
                "metadata": {
                    "slack": slack | ({"context": context} if context else {}),
                    **({"attachments": files} if files else {}),
                },
                "created_at": datetime.fromtimestamp(float(self.ts), UTC),
                "stream": stream,
            }
        )


def attachments(files: Any) -> list[dict[str, Any]]:
    """What is known about files, for ``metadata.attachments``.

    ``url`` needs the installation's bot token, in the header ``Authorization``, to be fetched. A file of a Slack
    Connect channel has only its ``id`` until it is asked for (``files.info``).
    """
    if not isinstance(files, list):
        return []
    known = {"id": "id", "name": "name", "mimetype": "mimetype", "size": "size", "url": "url_private"}
    return [
        {ours: _value(ours, file.get(theirs)) for ours, theirs in known.items()}
        for file in files[:MAX_FILES]
        if isinstance(file, dict) and isinstance(file.get("id"), str)
    ]


def _value(name: str, value: Any) -> str | int | None:
    if name == "size":
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
    return text_of(value)[:4096] if isinstance(value, str) else None


def _names(files: list[dict[str, Any]]) -> str:
    """A message that is nothing but files says which."""
    return " ".join(f"[{file['name'] or file['id']}]" for file in files)
