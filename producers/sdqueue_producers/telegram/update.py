"""Reading: a turn out of what Telegram calls an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdqueue.errors import SdqueueError
from sdqueue.messages import InboundTurn

ALLOWED: Final = ["message"]
"""The kinds of updates that are asked for. What is edited was answered already; the bot sends no buttons."""

GROUPS: Final = ("group", "supergroup")

_FILES: Final = ("animation", "audio", "document", "sticker", "video", "video_note", "voice")
_FILE_FIELDS: Final = {
    "file_id": "id",
    "file_unique_id": "unique_id",
    "file_name": "name",
    "mime_type": "type",
    "file_size": "size",
}


class BadUpdate(SdqueueError):
    """Not what Telegram sends; the message says what is wrong."""


@dataclass(frozen=True)
class Me:
    """A bot, as it is spoken to.

    Parameters:
        name: in the settings.
        user_id: on Telegram.
        username: without the ``@``; empty where it is not known.
    """

    name: str
    user_id: int
    username: str = ""


@dataclass(frozen=True)
class Update:
    """A message to a bot.

    Parameters:
        number: the update's id, which Telegram gives again when it repeats it.
        message: as Telegram has it; ``None``: nothing for us.
    """

    number: int
    message: Mapping[str, Any] | None

    @classmethod
    def read(cls, body: Any) -> Update:
        """Check the parts that are used.

        Raises:
            BadUpdate: it is none.
        """
        number = body.get("update_id") if isinstance(body, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
            raise BadUpdate("update_id: a whole number is expected")
        message = body.get("message")
        if message is None:
            return cls(number, None)
        chat = message.get("chat") if isinstance(message, dict) else None
        if not isinstance(chat, dict) or not _whole(chat.get("id")) or not isinstance(chat.get("type"), str):
            raise BadUpdate("message.chat: an object with id and type is expected")
        if not _whole(message.get("message_id")) or not _whole(message.get("date")):
            raise BadUpdate("message: message_id and date are expected")
        replied = message.get("reply_to_message") or {}
        said_by = {"from": message, "reply_to_message": message, "reply_to_message.from": replied}
        for name, fields in said_by.items():
            if not isinstance(fields, dict) or not isinstance(fields.get(name.rpartition(".")[2]) or {}, dict):
                raise BadUpdate(f"message.{name}: an object is expected")
        for name in ("text", "caption"):
            if not isinstance(message.get(name) or "", str):
                raise BadUpdate(f"message.{name}: a text is expected")
        return cls(number, message)

    @property
    def to_group(self) -> bool:
        """Whether it was said in a group."""
        return self.message is not None and self.message["chat"]["type"] in GROUPS

    @property
    def said_by_user(self) -> bool:
        """Whether a person said something; not a bot, a channel, or the group itself about its members."""
        message = self.message
        if message is None or message["chat"]["type"] == "channel" or message.get("is_automatic_forward"):
            return False
        sender = message.get("from") or {}
        return bool(sender) and not sender.get("is_bot") and bool(_text(message) or _attachments(message))

    def is_addressed(self, me: Me) -> bool:
        """Whether a message in a group is meant for the bot: a reply to it, a mention of it, or a command."""
        message = self.message
        assert message is not None
        replied = message.get("reply_to_message") or {}
        if (replied.get("from") or {}).get("id") == me.user_id and not replied.get("forum_topic_created"):
            return True
        for kind, word, entity in _entities(message):
            if kind == "mention" and word.lower() == f"@{me.username}".lower():
                return True
            if kind == "text_mention" and (entity.get("user") or {}).get("id") == me.user_id:
                return True
            if kind == "bot_command" and entity.get("offset") == 0:
                _, at, name = word.partition("@")
                return not at or name.lower() == me.username.lower()
        return False

    def turn(self, me: Me, *, stream: bool) -> dict[str, Any]:
        """The fields of the turn."""
        message = self.message
        assert message is not None
        chat, sender = message["chat"], message.get("from") or {}
        topic = message.get("message_thread_id") if message.get("is_topic_message") else None
        topic = topic if _whole(topic) else None
        session = f"telegram:{me.name}:{chat['id']}" + (f":{topic}" if topic is not None else "")
        user = {
            name: sender[name]
            for name in ("id", "first_name", "last_name", "username", "language_code")
            if name in sender
        }
        about: dict[str, Any] = {"user": user, "chat": chat["type"], "message_id": message["message_id"]}
        attachments = _attachments(message)
        if attachments:
            about["attachments"] = attachments
        return {
            "id": f"telegram:{me.name}:{self.number}",
            "session_id": session,
            "text": _spoken(message, me) or _names(attachments),
            "channel": "telegram",
            "address": {
                "bot": me.name,
                "chat": chat["id"],
                "type": chat["type"],
                "topic": topic,
                "message": message["message_id"],
            },
            "sender": str(sender.get("id", "")),
            "metadata": {"telegram": about},
            "created_at": message["date"],
            "stream": stream and chat["type"] == "private",
        }

    def make(self, me: Me, *, stream: bool, max_text_bytes: int) -> InboundTurn:
        """The turn.

        Raises:
            InvalidTurn: it has something that no turn may have.
        """
        return InboundTurn.make(self.turn(me, stream=stream), max_text_bytes=max_text_bytes)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(message: Mapping[str, Any]) -> str:
    return message.get("text") or message.get("caption") or ""


def _spoken(message: Mapping[str, Any], me: Me) -> str:
    """The text without the bot's own name at its beginning, or behind a command."""
    text = _text(message)
    if not me.username:
        return text
    for kind, word, entity in _entities(message):
        if entity.get("offset") != 0:
            continue
        if kind == "mention" and word.lower() == f"@{me.username}".lower():
            return text[len(word) :].lstrip(" ,:\n") or text
        command, at, name = word.partition("@")
        if kind == "bot_command" and at and name.lower() == me.username.lower():
            return command + text[len(word) :]
    return text


def _names(attachments: list[dict[str, Any]]) -> str:
    """A message that is nothing but files says which: models take no empty message."""
    return " ".join(f"[{each.get('name') or each['kind']}]" for each in attachments)


def _entities(message: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """What Telegram has found in the text: kind, words, all. Its places count UTF-16 units."""
    found = message.get("entities") if message.get("text") else message.get("caption_entities")
    units = _text(message).encode("utf-16-le", "surrogatepass")
    entities: list[tuple[str, str, Mapping[str, Any]]] = []
    for entity in found if isinstance(found, list) else []:
        if not isinstance(entity, dict) or not _whole(entity.get("offset")) or not _whole(entity.get("length")):
            continue
        if not isinstance(entity.get("user") or {}, dict):
            continue
        start = 2 * max(entity["offset"], 0)
        word = units[start : start + 2 * max(entity["length"], 0)].decode("utf-16-le", "replace")
        entities.append((str(entity.get("type")), word, entity))
    return entities


def _attachments(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Files by their ids: an address to fetch one would hold the token."""
    files = [(kind, message[kind]) for kind in _FILES if isinstance(message.get(kind), dict)]
    if "animation" in message:
        files = [(kind, file) for kind, file in files if kind != "document"]  # the same file once more
    photos = message.get("photo")
    if isinstance(photos, list) and photos and isinstance(photos[-1], dict):
        files.append(("photo", photos[-1]))  # sizes ascend
    attachments: list[dict[str, Any]] = [
        {"kind": kind}
        | {ours: file[theirs] for theirs, ours in _FILE_FIELDS.items() if isinstance(file.get(theirs), str | int)}
        for kind, file in files
    ]
    for kind, fields in (
        ("location", ("latitude", "longitude")),
        ("contact", ("phone_number", "first_name", "user_id")),
    ):
        if isinstance(told := message.get(kind), dict):
            attachments.append(
                {"kind": kind} | {name: told[name] for name in fields if isinstance(told.get(name), str | int | float)}
            )
    return attachments
