"""Threads in which the bot takes part, and what is known about them; shared by all producers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

from sdqueue_producers.state import ProducerState


@dataclass(frozen=True)
class Thread:
    """A thread in which the bot takes part.

    Parameters:
        assistant: it is an assistant thread, where a status can be shown.
        context: what the person looks at beside it.
    """

    assistant: bool = False
    context: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what is kept."""
        fields = json.loads(text)
        return cls(fields["assistant"], fields["context"])

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"assistant": self.assistant, "context": self.context})


class Threads:
    """Remembers threads.

    Parameters:
        state: shared by all producers.
        ttl_s: seconds after the last turn of a thread for which it is remembered.
    """

    def __init__(self, state: ProducerState, ttl_s: float) -> None:
        self._state = state
        self._ttl_s = ttl_s

    async def find(self, install: str, channel: str, thread_ts: str) -> Thread | None:
        """What is known about a thread; ``None``: the bot takes no part in it."""
        [text] = await self._state.get([_key(install, channel, thread_ts)])
        return None if text is None else Thread.from_json(text)

    async def remember(self, install: str, channel: str, thread_ts: str, thread: Thread) -> None:
        """The bot takes part in a thread from now on, or still does."""
        await self._state.set({_key(install, channel, thread_ts): thread.to_json()}, ttl_s=self._ttl_s)


def _key(install: str, channel: str, thread_ts: str) -> str:
    return f"slack:thread:{install}:{channel}:{thread_ts}"
