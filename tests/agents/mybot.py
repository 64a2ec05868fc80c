"""What a setting may name as an agent, rightly or wrongly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sdqueue.agents import MemoAgent

make = MemoAgent
NUMBER = 42


async def answer(text: str, history: list[Any]) -> str:
    return f"{len(history)}: {text}"


async def pieces(text: str, history: list[Any]) -> AsyncIterator[str]:
    yield f"{len(history)}: "
    yield text


async def make_later() -> MemoAgent:
    return MemoAgent()


def make_with(model: str, *, key: str, retries: int = 3) -> MemoAgent:
    return MemoAgent()


class Box:
    """Holds a factory one level down."""

    make = MemoAgent
