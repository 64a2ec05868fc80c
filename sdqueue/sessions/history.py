"""HistoryPolicy: how much of a conversation is kept, and what becomes of the oldest part of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from sdqueue.agents import ChatMessage

KEEP: Final = 0.75
"""The share of a limit that is left when it was exceeded. Stores append what is new, and write everything when the
oldest is dropped: with a quarter of room, most turns still append."""

MESSAGE_TOKENS: Final = 4
"""Tokens that models use for a message besides its text: its role and the marks around it."""

Summarise = Callable[[Sequence[ChatMessage]], Awaitable[str]]
"""Tells in one text what was said in these messages."""


class HistoryPolicy(Protocol):
    """Keeps conversations within a limit. One object serves all sessions of a worker.

    It is asked after each turn, before the session is saved, and only where the conversation weighs more than the
    limit. What it returns is what the agent has at the next turn. It may not part a tool call from its result; where
    it does, the pair is mended or dropped.
    """

    @property
    def limit(self) -> int:
        """What a conversation may weigh."""
        ...

    def weigh(self, message: ChatMessage) -> int:
        """What a message adds to the weight of its conversation; always the same for the same message."""
        ...

    async def shorten(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The conversation as it is to be kept.

        The session is locked meanwhile, and the turn's own time goes on. Whatever is raised here, and a timeout,
        leaves the conversation as it is until the next turn; neither the answer nor the turn is lost.
        """
        ...

    def cut(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The same at once and without help: for a conversation of twice the limit that could not be shortened."""
        ...


class MessageLimit:
    """Keeps at most so many messages, by dropping whole turns, the oldest first.

    What is kept are the leading system messages, which are the agent's instructions, and as many of the latest turns
    as fit. A turn begins with a message of the user. The latest one is kept even where it is too long by itself.

    Parameters:
        messages: how many, system messages and tool results included.
        keep: the share of them that is left when there were more.

    Raises:
        ValueError: the limit is not positive, or the share is not in ]0, 1].
    """

    def __init__(self, messages: int, *, keep: float = KEEP) -> None:
        if messages < 1:
            raise ValueError(f"a limit of {messages} would leave nothing; give at least 1, or no limit")
        if not 0 < keep <= 1:
            raise ValueError(f"keep is {keep}; give the share that is left, more than 0 and at most 1")
        self.limit = messages
        self._keep = keep

    def weigh(self, message: ChatMessage) -> int:
        """Each counts as one."""
        return 1

    async def shorten(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The instructions and the latest turns."""
        return self.cut(messages)

    def cut(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The instructions and the latest turns."""
        instructions, _, kept = self.parts(messages)
        return [*instructions, *kept]

    def parts(
        self, messages: Sequence[ChatMessage]
    ) -> tuple[Sequence[ChatMessage], Sequence[ChatMessage], Sequence[ChatMessage]]:
        """The instructions, what is to go, and what is kept."""
        size = len(messages)
        head = next((i for i in range(size) if messages[i].role != "system"), size)
        # An agent that keeps nothing of what the user said has turns all the same. They are not known, so it is cut
        # between any two messages, but for those that answer a call.
        users = [i for i in range(head, size) if messages[i].role == "user"]
        starts = users or [i for i in range(head, size) if messages[i].role != "tool"]
        target = self._keep * self.limit
        left = sum(map(self.weigh, messages))
        first = seen = head
        for first in starts:
            left -= sum(map(self.weigh, messages[seen:first]))
            seen = first
            if left <= target:
                break
        return messages[:head], messages[head:first], messages[first:]


class TokenLimit(MessageLimit):
    """Keeps at most so many tokens, by dropping whole turns, the oldest first; see :class:`MessageLimit`.

    Parameters:
        tokens: how many, by ``count`` and :data:`MESSAGE_TOKENS` for each message.
        count: counts the tokens of a text; default: :func:`estimate_tokens`. For exact numbers take the model's own
            encoding: ``count=lambda text: len(tiktoken.encoding_for_model("gpt-4o").encode(text))``.
        keep: the share of them that is left when there were more.

    Raises:
        ValueError: the limit is not positive, or the share is not in ]0, 1].
    """

    def __init__(self, tokens: int, *, count: Callable[[str], int] | None = None, keep: float = KEEP) -> None:
        super().__init__(tokens, keep=keep)
        self._count = estimate_tokens if count is None else count

    def weigh(self, message: ChatMessage) -> int:
        """The tokens of what it says, and of the names and arguments of the tools that it calls."""
        weight = MESSAGE_TOKENS + self._count(str(message.content))
        for call in message.tool_calls:
            weight += self._count(call.name) + self._count(json.dumps(call.arguments, default=str))
        return weight


class Summary:
    """Puts one system message with a summary into the place of the oldest turns.

    The summary stands behind the agent's instructions. The next one is made from it and from the turns that have to
    go then, so there is never more than one.

    Parameters:
        within: the limit, and how much of the latest turns is kept.
        summarise: makes the summary: ``async def summarise(messages) -> str``, from the turns that go, oldest first,
            behind the summary so far where there is one. Where it raises, or takes longer than ``timeout_s``, nothing
            is dropped, and it is called again after the next turn. Past twice the limit the oldest turns are dropped
            without one.
        timeout_s: seconds that it may take. Behind a queue it has what is left of the turn's own time, if that is
            less.
        heading: what the message begins with. It is also how the summary is found again.
    """

    def __init__(
        self,
        within: MessageLimit,
        summarise: Summarise,
        *,
        timeout_s: float = 30.0,
        heading: str = "Summary of the conversation so far:\n",
    ) -> None:
        self.limit = within.limit
        self._within = within
        self._summarise = summarise
        self._timeout_s = timeout_s
        self._heading = heading

    def weigh(self, message: ChatMessage) -> int:
        """As the limit weighs it."""
        return self._within.weigh(message)

    async def shorten(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The instructions, the summary, and the latest turns.

        Raises:
            TypeError, ValueError: what was made is no text, an empty one, or more than half of what is allowed.
            TimeoutError: it was not made in time.
            Exception: whatever ``summarise`` raises.
        """
        instructions, going, kept = self._within.parts(messages)
        if not going:
            return list(messages)
        earlier = [message for message in instructions if self._is_summary(message)]
        clock = asyncio.timeout(self._timeout_s)
        try:
            async with clock:
                text = await self._summarise([*earlier, *going])
        except TimeoutError as error:
            if not clock.expired():
                raise  # its own
            raise TimeoutError(
                f"no summary within {self._timeout_s:g} s; raise timeout_s, or make it faster"
            ) from error
        if not isinstance(text, str):
            raise TypeError(f"the summary is a {type(text).__name__}; return a string")
        if not text.strip():
            raise ValueError("the summary is empty; return what was said in a few sentences")
        summary = ChatMessage("system", self._heading + text)
        weight = self.weigh(summary)
        if weight > max(self.limit // 2, 1):
            raise ValueError(f"the summary weighs {weight} of the {self.limit} that are allowed; make it shorter")
        return [*(message for message in instructions if message not in earlier), summary, *kept]

    def cut(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The instructions, the summary so far, and the latest turns."""
        return self._within.cut(messages)

    def _is_summary(self, message: ChatMessage) -> bool:
        return message.role == "system" and str(message.content).startswith(self._heading)


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes in UTF-8, rounded up.

    That is the rule of thumb for English with the encodings in use. For scripts of two or three bytes a letter it is
    rather too high, so the limit is kept.
    """
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4
