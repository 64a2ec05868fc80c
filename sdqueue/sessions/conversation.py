"""Comparing conversations: what an agent has added, and where it stands."""

from __future__ import annotations

from typing import Any

from sdqueue.agents import ChatMessage
from sdqueue.errors import RecordError


def mark(agent: Any) -> tuple[int, Any]:
    """Where an agent's conversation stands: comparing this is enough to see whether it went on."""
    items = agent.chat_ctx.items
    return len(items), (items[-1].content if items else None)


def join(old: list[ChatMessage], new: list[Any]) -> tuple[list[ChatMessage], int]:
    """The new conversation as our own frozen messages, and how many of its first ones are the old one's.

    Raises:
        RecordError: something in it is no message.
    """
    size = same = min(len(old), len(new))
    items = old[:size]
    # Both sides hold the same frozen objects in the common case, and lists compare identity first: the length of the
    # history hardly counts, as long as it is copied no more often than here.
    if new[:size] != items:
        same = next((i for i in range(size) if own(new[i]) != items[i]), size)
        del items[same:]
    items.extend(own(message) for message in new[same:])
    return items, same


def added(items: list[Any], known: list[ChatMessage]) -> list[Any]:
    """The messages after those that were known, also where an agent has dropped the oldest of them."""
    if not known or (len(items) >= len(known) and own(items[len(known) - 1]) == known[-1]):
        return items[len(known) :]
    last = next((i for i in reversed(range(len(items))) if own(items[i]) == known[-1]), -1)
    return items[last + 1 :]


def unwritten(new: list[Any], asked: str, said: str) -> list[ChatMessage]:
    """What an agent that was broken off has not written down of a turn.

    Parameters:
        new: what it has added to its conversation.
        asked: what the user said.
        said: what was heard of its answer.
    """
    roles = {message.role for message in new}
    missing = [] if "user" in roles else [ChatMessage("user", asked)]
    if said and "assistant" not in roles:
        missing.append(ChatMessage("assistant", said))
    elif new and (new[-1].role == "tool" or own(new[-1]).tool_calls):
        # Behind a call or its result it may have said more.
        wrote = "".join(str(message.content) for message in new if message.role == "assistant")
        if said.startswith(wrote) and said != wrote:
            missing.append(ChatMessage("assistant", said[len(wrote) :]))
    return missing


def own(message: Any) -> ChatMessage:
    """A message as one of ours.

    Raises:
        RecordError: it is none.
    """
    if type(message) is ChatMessage:
        return message
    try:
        return ChatMessage(message.role, message.content)
    except AttributeError as error:
        raise RecordError(
            f"a {type(message).__name__} in the agent's chat_ctx is no message: {error}; use ChatMessage(role, content)"
        ) from error
