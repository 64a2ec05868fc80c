"""ResponseShape: answers as ``/v1/responses`` gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from sdqueue.messages import OutboundReply
from sdqueue_producers.openai.asked import Asked
from sdqueue_producers.openai.chat import count_of, usage_of
from sdqueue_producers.openai.naming import Names
from sdqueue_producers.openai.sse import event
from sdqueue_producers.openai.trouble import Trouble


class ResponseShape:
    """One answer, whole or as events in their order.

    Parameters:
        asked: the question.
        names: its names.
        created: seconds since 1970.
    """

    def __init__(self, asked: Asked, names: Names, created: int) -> None:
        self._asked = asked
        self._names = names
        self._created = created
        self._number = -1

    @property
    def note(self) -> dict[str, Any]:
        """What has to be kept of the question to show the answer later; it travels in the turn's address."""
        asked = self._asked
        return {
            "api": asked.api,
            "model": asked.model,
            "session": self._names.session,
            "store": asked.store,
            "created": self._created,
            "conversation": asked.conversation,
            "previous": asked.previous,
            "user": asked.user,
            "metadata": dict(asked.metadata),
        }

    @classmethod
    def noted(cls, note: Mapping[str, Any], names: Names) -> Self:
        """The shape of the answer to a question that was noted."""
        asked = Asked(
            api="responses",
            model=str(note.get("model")),
            text="",
            alone=True,
            stream=False,
            conversation=note.get("conversation"),
            previous=note.get("previous"),
            user=note.get("user"),
            metadata=note.get("metadata") or {},
            store=note.get("store") is True,
        )
        return cls(asked, names, note.get("created") or 0)

    @property
    def store(self) -> bool:
        """Whether the client lets the answer be kept."""
        return self._asked.store

    def kept(self, reply: OutboundReply, trouble: Trouble | None) -> str:
        """The answer as it is kept to be fetched later."""
        return json.dumps(self.whole(reply) if trouble is None else self.failed(trouble), ensure_ascii=False)

    def whole(self, reply: OutboundReply) -> dict[str, Any]:
        """The answer in one piece."""
        return self._object("completed", [self._item("completed", reply.text)], usage=_usage(reply))

    def failed(self, trouble: Trouble) -> dict[str, Any]:
        """The answer that there is none."""
        # OpenAI's list of codes is closed, and typed clients know no other: the reason is in the message.
        error = {"code": "server_error", "message": f"{trouble.message} ({trouble.code})"}
        return self._object("failed", [], error=error)

    def begin(self) -> bytes:
        """The events before the first piece."""
        begun = self._object("in_progress", [])
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=self._item("in_progress", None))
            + self._event("response.content_part.added", **self._place, part=_part(""))
        )

    def piece(self, text: str) -> bytes:
        """A piece of the text."""
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def end(self, reply: OutboundReply) -> bytes:
        """The events after the last piece."""
        item = self._item("completed", reply.text)
        return (
            self._event("response.output_text.done", **self._place, text=reply.text, logprobs=[])
            + self._event("response.content_part.done", **self._place, part=_part(reply.text))
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event("response.completed", response=self.whole(reply))
        )

    def fail(self, trouble: Trouble) -> bytes:
        """What ends a stream that has no good end."""
        return self._event("response.failed", response=self.failed(trouble))

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._names.message_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {
            "id": self._names.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _object(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        usage: dict[str, Any] | None = None,
        error: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": self._names.response_id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": error,
            "incomplete_details": None,
            "instructions": None,
            "metadata": dict(asked.metadata),
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": False,
            "temperature": None,
            "tool_choice": "none",
            "tools": [],
            "top_p": None,
            "conversation": None if asked.conversation is None else {"id": asked.conversation},
            "previous_response_id": asked.previous,
            "store": asked.store,
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "usage": usage,
            "user": asked.user,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(reply: OutboundReply) -> dict[str, Any]:
    usage = usage_of(reply)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": count_of(reply.metadata.get("usage"), "cached_tokens")},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": count_of(reply.metadata.get("usage"), "reasoning_tokens")},
        "total_tokens": usage["total_tokens"],
    }
