"""MemoAgent: the built-in agent, which remembers what it was told.

It needs no model and no key, and shows memory and the isolation of sessions::

    > my name is Ada
    I will remember that your name is Ada.
    > what is my name?
    Your name is Ada.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from sdqueue.agents.agent import StreamChunk, TurnResult
from sdqueue.agents.chat import ChatContext, ChatMessage

_TELL = re.compile(r"^\s*my\s+(?P<what>[\w' -]{1,60}?)\s+(?:is|are)\s+(?P<value>.+?)[\s.!]*$", re.IGNORECASE)
_ASK = re.compile(r"^\s*what(?:'s|\s+is|\s+are)\s+my\s+(?P<what>[\w' -]{1,60}?)[\s?]*$", re.IGNORECASE)
_ASK_ALL = re.compile(r"^\s*what do you (?:know|remember)\b", re.IGNORECASE)


class MemoAgent:
    """Remembers ``my X is Y``, answers ``what is my X?``, and repeats everything else with its number."""

    def __init__(self) -> None:
        self._chat = ChatContext()
        self._facts: dict[str, str] = {}
        self._heard = 0

    @property
    def chat_ctx(self) -> ChatContext:
        """The conversation so far."""
        return self._chat

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        """Go on from this conversation."""
        self._chat = ctx

    def assist(self, text: str) -> None:
        """Take a note."""
        self._chat.append(ChatMessage("system", text))

    def dump_state(self) -> dict[str, Any]:
        """What it was told."""
        return {"facts": dict(self._facts), "heard": self._heard}

    def load_state(self, state: Any) -> None:
        """Go on from what it was told."""
        self._facts, self._heard = dict(state["facts"]), state["heard"]

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult | AsyncIterator[StreamChunk]:
        """Answer one message."""
        result = TurnResult(self._answer(text))
        self._chat.append(ChatMessage("user", text))
        self._chat.append(ChatMessage("assistant", result.text))
        return _words(result) if stream else result

    def _answer(self, text: str) -> str:
        self._heard += 1
        if told := _TELL.match(text):
            self._facts[told["what"].lower()] = told["value"]
            return f"I will remember that your {told['what'].lower()} is {told['value']}."
        if asked := _ASK.match(text):
            value = self._facts.get(asked["what"].lower())
            return (
                f"Your {asked['what'].lower()} is {value}." if value else f"You have not told me your {asked['what']}."
            )
        if _ASK_ALL.match(text):
            facts = "; ".join(f"your {what} is {value}" for what, value in self._facts.items())
            return f"I know that {facts}." if facts else "You have not told me anything yet."
        return f"Message {self._heard} of this session: {text}"


async def _words(result: TurnResult) -> AsyncIterator[StreamChunk]:
    for piece in re.findall(r"\S+\s*", result.text):
        yield StreamChunk(piece)
    yield StreamChunk(done=True, turn=result)
