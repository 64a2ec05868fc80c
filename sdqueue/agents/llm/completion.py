"""Completion: what a model said in one round, whole or put together from pieces."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from sdqueue.errors import ModelInterrupted


@dataclass(frozen=True)
class RequestedCall:
    """A tool that the model asks for; the arguments are its own words, which may be no JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Completion:
    """What the model said in one round.

    Parameters:
        text: its words.
        calls: the tools that it asks for.
        finish: why it ended: ``stop``, ``length``, ``tool_calls``, ``content_filter``.
        usage: tokens, where the server tells them.
    """

    text: str
    calls: tuple[RequestedCall, ...] = ()
    finish: str = "stop"
    usage: Mapping[str, int] = field(default_factory=dict)


class Parts:
    """An answer in pieces, put together."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._calls: list[dict[str, str]] = []
        self._at: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._usage: dict[str, int] = {}

    def add(self, chunk: Any) -> str:
        """Take a piece, and return the words in it."""
        self._usage = usage_of(chunk) or self._usage
        choices = getattr(chunk, "choices", None)
        if not choices:
            return ""  # the last one of some servers has only the usage
        self._finish = getattr(choices[0], "finish_reason", None) or self._finish
        delta = getattr(choices[0], "delta", None)
        for call in getattr(delta, "tool_calls", None) or ():
            self._add_call(call)
        text = words_of(delta)
        if text:
            self._said.append(text)
        return text

    def _add_call(self, part: Any) -> None:
        index = getattr(part, "index", None)
        call = self._at.get(index if index is not None else -1)
        function = getattr(part, "function", None)
        name = getattr(function, "name", None) or ""
        if call is None or _is_another(part.id, name, call):
            call = {"id": "", "name": "", "arguments": ""}
            self._calls.append(call)
            self._at[index if index is not None else -1] = call
        call["id"] = call["id"] or part.id or ""
        call["name"] = call["name"] or name
        call["arguments"] += getattr(function, "arguments", None) or ""

    def completion(self) -> Completion:
        """The whole; raises ModelInterrupted where its end has not come."""
        if self._finish is None:
            raise ModelInterrupted(
                f"the stream of the model's server ended after {len(self._said)} pieces, without the end of the answer"
            )
        calls = tuple(requested(call["id"], call["name"], call["arguments"]) for call in self._calls)
        return Completion("".join(self._said), calls, self._finish, self._usage)


def words_of(message: Any) -> str:
    """The words of a message or a delta: its content, as text or as parts, or the refusal in its place."""
    content = getattr(message, "content", None) or getattr(message, "refusal", None) or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return valid(str(content))


def valid(text: str) -> str:
    """A text without halves of characters (surrogates), which can be neither sent nor saved."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def usage_of(answer: Any) -> dict[str, int]:
    """The tokens that an answer, or the last piece of one, says it took."""
    usage = getattr(answer, "usage", None)
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: count for name in names if isinstance(count := getattr(usage, name, None), int)}


def requested(id_: Any, name: Any, arguments: Any) -> RequestedCall:
    """A call, with a made-up id where it came without one."""
    words = arguments if isinstance(arguments, str) else to_json(arguments or {}).decode()
    return RequestedCall(valid(str(id_ or f"call_{uuid.uuid4().hex}")), valid(str(name or "")), valid(words))


def _is_another(id_: str | None, name: str, call: Mapping[str, str]) -> bool:
    """Whether a part is of another call than the one begun under its index: some servers send all under one.

    Another id is another call; without ids, a name after arguments that have come to their end.
    """
    if id_ and call["id"]:
        return id_ != call["id"]
    return bool(name) and _is_json(call["arguments"])


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True
