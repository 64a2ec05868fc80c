"""Agents for superdialog's worker and for ours: superdialog's own with made-up models, and a plain class.

Each answers ``<n>: <text>``, where n counts the user's messages that it knew of, this one included: an answer shows by
itself whether the turns before were known.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from superdialog import ChatContext, ChatMessage, DialogMachine, LLMAgent
from superdialog.agent import TurnResult
from superdialog.flow.models import ConversationFlow
from superdialog.llm.provider import CompletionResult, StreamChunk


class Model:
    """A model for superdialog's agents: judges a machine's edge, or answers."""

    async def complete(self, messages: list[dict[str, Any]], tools: Any = None, **_: Any) -> CompletionResult:
        prompt = "\n".join(str(message["content"]) for message in messages)
        if "recommended_edge_id" in prompt:
            edge = re.search(r"to_n\d+", prompt)
            assert edge is not None
            verdict = {
                "criteria_met": {"said": True},
                "extracted_slots": {"last": messages[-1]["content"][-40:]},
                "all_required_met": True,
                "user_insisting": False,
                "recommended_edge_id": edge[0],
                "reason": "it is always so",
                "response": "",
            }
            return CompletionResult(json.dumps(verdict), [], {})
        return CompletionResult(counted(messages), [], {"model": "made up"})

    async def stream(self, messages: list[dict[str, Any]], tools: Any = None, **_: Any) -> AsyncIterator[StreamChunk]:
        head, _, rest = counted(messages).partition(" ")
        yield StreamChunk(f"{head} ", None, False)
        yield StreamChunk(rest, None, True)


def counted(messages: list[dict[str, Any]]) -> str:
    """The answer to the last of the user's messages."""
    users = [message["content"] for message in messages if message["role"] == "user"]
    return f"{len(users)}: {users[-1]}"


NODES = 60
FLOW = ConversationFlow.model_validate(
    {
        "id": "walk",
        "initial_node": "n0",
        "system_prompt": "You walk.",
        "nodes": [
            {
                "id": f"n{at}",
                "name": f"n{at}",
                "instruction": "Go on.",
                "edges": [{"id": f"to_n{at + 1}", "condition": "always", "target_node_id": f"n{at + 1}"}],
            }
            for at in range(NODES)
        ]
        + [{"id": f"n{NODES}", "name": "the end", "static_text": "The end.", "is_final": True}],
    }
)
"""Every turn goes one node on, so the log of transitions grows with each, and the node says how many there were."""


def machine() -> DialogMachine:
    """superdialog's DialogMachine."""
    made = DialogMachine(flow=FLOW, llm="openai/made-up", adapter="llm")
    made._llm = Model()
    return made


def llm() -> LLMAgent:
    """superdialog's LLMAgent."""
    return LLMAgent(llm=Model(), system_prompt="Be brief.")


class Plain:
    """What somebody writes who has read superdialog's protocol: a list of messages, answers as superdialog has them."""

    def __init__(self) -> None:
        self.chat = ChatContext()

    @property
    def chat_ctx(self) -> ChatContext:
        return self.chat

    def load_chat_ctx(self, ctx: Any) -> None:
        self.chat = ctx

    def assist(self, text: str) -> None:
        self.chat.items.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> TurnResult:
        self.chat.items.append(ChatMessage("user", text))
        answer = counted([vars(message) for message in self.chat.items])
        self.chat.items.append(ChatMessage("assistant", answer))
        return TurnResult(text=answer)


BRAINS: dict[str, Callable[[], Any]] = {"machine": machine, "llm": llm, "plain": Plain}
