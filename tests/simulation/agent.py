"""SimulatedAgent: answers, fails or kills its process, as its turn says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, current_turn
from sdqueue.consumer import isolated
from sdqueue.consumer.failure import AgentFailed, Poisonous
from tests.simulation.loop import OWNER
from tests.simulation.process import Process

NAME = "tests.simulation.agent:SimulatedAgent"
"""By which a child process loads it."""


class SimulatedAgent:
    """Does what the text asks for: ``<turn id> <fate> <seconds> <failures>``.

    It answers with the number of the message in its conversation, so that a reply shows the state that it was made
    from. Fates are ``fine``, ``dead`` (raises) and ``poison`` (ends its process); whatever the fate, it first works for
    so many seconds and raises something passing at so many attempts.
    """

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    def assist(self, text: str) -> None:
        self.chat_ctx.append(ChatMessage("system", text))

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        turn_id, fate, seconds, failures = text.split(" ")
        self.chat_ctx.append(ChatMessage("user", text))
        process, turn = OWNER.get(), current_turn()
        assert isinstance(process, Process)
        assert turn is not None
        process.note(f"agent begins {turn_id}")
        await asyncio.sleep(float(seconds))
        if turn.attempt <= int(failures):
            raise ConnectionError(f"attempt {turn.attempt} of {turn_id}")
        if fate == "dead":
            raise ValueError(f"{turn_id} cannot be answered")
        if fate == "poison":
            process.kill()
            await asyncio.get_running_loop().create_future()
        said = f"{len(self.chat_ctx.items)}. {turn_id}"
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


async def ask_child(isolation: Any, request: dict[str, Any], timeout: float, begun: int) -> dict[str, Any]:
    """Stands in for :meth:`Isolation._ask_child`: the child's own code, in a process of this world."""
    parent = OWNER.get()
    assert isinstance(parent, Process)
    child = parent.child(f"{parent.name} child")
    task = child.start(isolated.answer(request))
    await asyncio.wait({task, child.died}, return_when=asyncio.FIRST_COMPLETED)
    if child.dead:
        raise AgentFailed(Poisonous(f"killed its process {begun} times, the last time alone"))
    answer: dict[str, Any] = json.loads(task.result())
    return answer
