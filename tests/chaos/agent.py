"""The agent of the consumers under test: it answers with the name of its run, and writes down what it sees.

A text is ``<mark> <act> <milliseconds to think>``. The acts: ``say`` answers; ``flaky`` fails passingly the first time,
in whatever process; ``die`` ends its process without a word, every time; ``doze`` stops its process the first time, as
a machine that is suspended, until somebody lets it go on.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from pathlib import Path
from typing import Final

from sdqueue.agents import ChatContext, ChatMessage, current_turn
from tests.chaos.journal import FOLDER, Journal

SEEN: Final = 20
"""So many turns before its own a run writes down; a long history would make the journal the bottleneck."""

NAME: Final = "tests.chaos.agent:Witness"

_numbers: Final = itertools.count(1)


class Witness:
    """Remembers nothing but its conversation."""

    def __init__(self) -> None:
        self.chat_ctx = ChatContext()
        self._journal = Journal(Path(os.environ[FOLDER]))

    def load_chat_ctx(self, ctx: ChatContext) -> None:
        self.chat_ctx = ctx

    async def turn(self, text: str, *, stream: bool = False) -> str:
        mark, act, milliseconds = text.split(" ")
        turn = current_turn()
        assert turn is not None
        run = f"{os.getpid()}-{next(_numbers)}"
        said = [message.content for message in self.chat_ctx.items if message.role == "user"]
        seen = [text.split(" ")[0] for text in said[-SEEN:]]
        self._journal.write("begin", run=run, mark=mark, session=turn.session_id, heard=len(said), seen=seen)
        await asyncio.sleep(int(milliseconds) / 1000)
        if act == "die":
            os._exit(66)
        if act == "doze" and self._journal.first_time(f"doze-{mark}"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if act == "flaky" and self._journal.first_time(f"flaky-{mark}"):
            raise ConnectionError(f"turn {mark} fails the first time")
        self.chat_ctx.append(ChatMessage("user", text))
        self.chat_ctx.append(ChatMessage("assistant", run))
        self._journal.write("end", run=run, mark=mark)
        return run
