"""The agent of the consumers: it answers ``<number> <mark>``, and writes down what it sees.

A text ends with the message's mark. The number is that of the message in its session: another one shows a message that
had an effect twice, or not at all, or out of turn.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from sdqueue.agents import ChatContext, ChatMessage, StreamChunk, TurnResult, current_turn
from tests.chaos.journal import FOLDER, Journal

NAME: Final = "tests.producers.table.agent:Witness"

THINK_S: Final = 0.05
"""Longest thinking, so that turns of different sessions end in another order than they began in."""

SPEAK_S: Final = 0.4
"""Longest pause between two pieces of a streamed answer, so that they are shown one after the other."""


class Witness:
    """Remembers nothing but its conversation."""

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()
        self._journal = Journal(Path(os.environ[FOLDER]))

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    async def turn(self, text: str, *, stream: bool = False) -> str | AsyncIterator[StreamChunk]:
        mark = text.split(" ")[-1]
        turn = current_turn()
        assert turn is not None
        number = 1 + sum(message.role == "user" for message in self.chat_ctx.items)
        self._journal.write("run", mark=mark, session=turn.session_id, turn=turn.turn_id, number=number)
        await asyncio.sleep(random.uniform(0, THINK_S))
        self.chat_ctx.append(ChatMessage("user", mark))
        self.chat_ctx.append(ChatMessage("assistant", f"{number} {mark}"))
        return self._pieces(f"{number} ", mark) if stream else f"{number} {mark}"

    async def _pieces(self, *pieces: str) -> AsyncIterator[StreamChunk]:
        for piece in pieces:
            yield StreamChunk(piece)
            await asyncio.sleep(random.uniform(0, SPEAK_S))
        yield StreamChunk(done=True, turn=TurnResult("".join(pieces)))
