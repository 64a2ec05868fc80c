"""ChatShape: answers as ``/v1/chat/completions`` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdqueue.messages import OutboundReply
from sdqueue_producers.openai.asked import Asked
from sdqueue_producers.openai.naming import Names
from sdqueue_producers.openai.sse import event
from sdqueue_producers.openai.trouble import Trouble


class ChatShape:
    """One answer, whole or as chunks.

    Parameters:
        asked: the question.
        names: its names.
        created: seconds since 1970.
    """

    def __init__(self, asked: Asked, names: Names, created: int) -> None:
        self._asked = asked
        self._names = names
        self._created = created

    def whole(self, reply: OutboundReply) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return self._object("chat.completion", [choice]) | {"usage": usage_of(reply)}

    def begin(self) -> bytes:
        """The first chunk: who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> bytes:
        """A chunk of the text."""
        return self._chunk({"content": text}, None)

    def end(self, reply: OutboundReply) -> bytes:
        """The last chunks."""
        usage = b""
        if self._asked.include_usage:
            usage = event(self._object("chat.completion.chunk", []) | {"usage": usage_of(reply)})
        return self._chunk({}, "stop") + usage + b"data: [DONE]\n\n"

    def fail(self, trouble: Trouble) -> bytes:
        """What ends a stream that has no good end."""
        return event(trouble.body)

    def _chunk(self, delta: Mapping[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        more = {"usage": None} if self._asked.include_usage else {}
        return event(self._object("chat.completion.chunk", [choice]) | more)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._names.chat_id,
            "object": kind,
            "created": self._created,
            "model": self._asked.model,
            "choices": choices,
        }


def usage_of(reply: OutboundReply) -> dict[str, int]:
    """The tokens that the agent has told; zeros where it told none, since clients read these fields unasked."""
    told = reply.metadata.get("usage")
    counts = {name: count_of(told, name) for name in ("prompt_tokens", "completion_tokens")}
    return counts | {"total_tokens": count_of(told, "total_tokens") or sum(counts.values())}


def count_of(usage: Any, name: str) -> int:
    """A count of tokens; 0 where there is none."""
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else 0
