"""SimulatedAgent: answers, fails or kills its process, as its turn says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, current_turn
from tests.simulation.loop import OWNER
from tests.simulation.process import Process

NAME = "tests.simulation.agent:SimulatedAgent"
"""By which a child process loads it."""


class SimulatedAgent:
    """Does what the text asks for, ``<turn id> <fate> <seconds> <failures>`` in a line for each turn that it answers.

    It answers with the number of the message in its conversation, so that a reply shows the state that it was made
    from. Fates are ``fine``, ``dead`` (raises until it is mended) and ``poison`` (ends its process); whatever the fate,
    it first works for so many seconds and raises something passing at so many attempts.
    """

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    def assist(self, text: str) -> None:
        self.chat_ctx.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        turn_ids, fates, seconds, failures = zip(*(line.split(" ") for line in text.split("\n")), strict=True)
        self.chat_ctx.append(ChatMessage("user", text))
        process, turn = OWNER.get(), current_turn()
        assert isinstance(process, Process)
        assert turn is not None
        process.note(f"agent begins {' '.join(turn_ids)}")
        await asyncio.sleep(max(map(float, seconds)))
        if turn.attempt <= max(map(int, failures)):
            raise ConnectionError(f"attempt {turn.attempt}")
        if "dead" in fates and not process.around.mended:
            raise ValueError(f"one of {' '.join(turn_ids)} cannot be answered")
        if "poison" in fates:
            process.kill()
            await asyncio.get_running_loop().create_future()
        said = f"{len(self.chat_ctx.items)}. {' '.join(turn_ids)}"
        if stream:
            return self._in_pieces(said)
        self.chat_ctx.append(ChatMessage("assistant", said))
        return said

    async def _in_pieces(self, said: str) -> AsyncIterator[StreamChunk]:
        for word in said.split(" "):
            yield StreamChunk(word)
            await asyncio.sleep(0.01)
        self.chat_ctx.append(ChatMessage("assistant", said))
        yield StreamChunk(done=True)
