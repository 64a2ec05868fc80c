"""An agent that answers in pieces, in the pace of a test: it stops in the middle until a file is there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path


async def answer(text: str, history: object) -> AsyncIterator[str]:
    """``wait``: half an answer, then the other half when the test opens the gate. ``fail``: an error."""
    if text == "fail":
        raise ValueError("as the test wants it")
    yield "You said "
    if text.startswith("wait"):
        while not await asyncio.to_thread(Path(os.environ["WEBCHAT_GATE"]).exists):
            await asyncio.sleep(0.05)
    yield text
    yield "."
