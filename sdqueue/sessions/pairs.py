"""Tool calls and their results: kept together, and mended where a turn was broken off between them.

A model refuses a conversation in which an ``assistant`` message with ``tool_calls`` is not followed directly by one
``tool`` message for each call. A ``tool`` message without an id, such as superdialog's, belongs to no call and is left
where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from sdqueue.agents import ChatMessage

INTERRUPTED: Final = "Interrupted: this call has no result."
"""The result of a call that had none."""


def are_whole(messages: Sequence[ChatMessage], start: int = 0) -> bool:
    """Whether from ``start`` on each call has its result, directly behind it, and each result its call."""
    waiting: Counter[str] = Counter()
    for i in range(start, len(messages)):
        message = messages[i]
        if _is_result(message):
            answered = message.tool_call_id or ""
            if waiting[answered] < 1:
                return False
            waiting[answered] -= 1
            if not waiting[answered]:
                del waiting[answered]
        elif waiting:
            return False
        elif message.tool_calls and message.role == "assistant":
            waiting = Counter(call.id for call in message.tool_calls)
    return not waiting


def beginning_of(messages: Sequence[ChatMessage], index: int) -> int:
    """Where the call stands whose results go on at ``index``; the index itself where none do."""
    start = index
    while start and messages[start - 1].role == "tool":
        start -= 1
    return start - 1 if start and messages[start - 1].tool_calls else index


def mended(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages with each call followed by its results.

    A result that stands elsewhere is moved there, a call without one gets :data:`INTERRUPTED`, and a result without
    its call, or a second one, is dropped. Everything else stays, in its order; what is whole is not changed.
    """
    results: dict[int, list[ChatMessage]] = {}  # by the index of the message with the calls
    open_calls: dict[int, Counter[str]] = {}
    made_at: dict[str, int] = {}  # by the id of a call; some models use theirs again, and the latest one is meant
    for index, message in enumerate(messages):
        if _is_result(message):
            answered = message.tool_call_id or ""
            owner = made_at.get(answered)
            if owner is not None and open_calls[owner][answered] > 0:
                open_calls[owner][answered] -= 1
                results[owner].append(message)
        elif message.tool_calls and message.role == "assistant":
            results[index] = []
            open_calls[index] = Counter(call.id for call in message.tool_calls)
            made_at |= dict.fromkeys(open_calls[index], index)
    items: list[ChatMessage] = []
    for index, message in enumerate(messages):
        if _is_result(message):
            continue
        items.append(message)
        if index in results:
            items += results[index]
            items += _unanswered(open_calls[index])
    return items


def _is_result(message: ChatMessage) -> bool:
    return message.role == "tool" and message.tool_call_id is not None


def _unanswered(calls: Counter[str]) -> Iterable[ChatMessage]:
    return (ChatMessage("tool", INTERRUPTED, tool_call_id=call) for call in calls.elements())
