"""A voice call: a worker in the process that has the line, fresh for every call, and nothing kept after it.

Run it: ``python examples/voice.py``. A call lasts minutes and is tied to its media connection, so nothing would be
gained by a queue; what is gained by the session layer is that barge-in keeps what was heard, and nothing else.
"""

import asyncio
from collections.abc import AsyncIterator

from sdqueue import ChatMessage, NullSessionStore, SessionHandle, SessionWorker
from sdqueue.agents import FunctionAgent


async def receptionist(text: str, history: list[ChatMessage]) -> AsyncIterator[str]:
    """The agent, piece by piece, as a voice needs it."""
    turns = sum(message.role == "user" for message in history)
    for word in f"Answer {turns + 1} to {text!r}: our opening hours are nine to five on weekdays.".split():
        yield f"{word} "
        await asyncio.sleep(0)


def make_agent() -> FunctionAgent:
    """What the worker calls for each call."""
    return FunctionAgent(receptionist)


async def speak(call: SessionHandle, text: str, *, words: int = 100) -> str:
    """Let the agent answer, and stop after some words as a caller who interrupts makes it stop."""
    spoken: list[str] = []
    async for piece in await call.turn(text, stream=True):
        spoken.append(piece.text)
        if len(spoken) == words:
            break  # barge-in: what was spoken so far is what the conversation keeps
    return "".join(spoken).strip()


async def main() -> None:
    """Two calls from the same number: the second knows nothing of the first."""
    worker = SessionWorker(agent_factory=make_agent, store=NullSessionStore())
    for number in (1, 2):
        async with worker.acquire("+47 22 00 00 00") as call:
            print(f"call {number}:", await speak(call, "when are you open", words=3))
            call.assist("The caller interrupted.")
            print(f"call {number}:", await speak(call, "on Sundays?"))
        assert worker.cache_size == 0


if __name__ == "__main__":
    asyncio.run(main())
