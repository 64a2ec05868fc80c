"""TurnMemory: what the channel remembers of a turn for its sender, in the producers' state."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from sdqueue_producers.state import ProducerState
from sdqueue_producers.webhook.ids import StateKeys, gone_key

Way = Literal["held", "callback"]

_LOOK_AGAIN_S: Final = 0.05


@dataclass(frozen=True)
class Known:
    """What is known of a turn.

    Parameters:
        accepted: the broker has it.
        session: the sender's name of its session; ``None``: not known.
        reply: the body of the reply that ended it; ``None``: none yet.
    """

    accepted: bool
    session: str | None
    reply: dict[str, Any] | None


class TurnMemory:
    """Replies for the status address, sessions of turns, and which of two ways a reply has gone.

    All methods raise StoreUnavailable.

    Parameters:
        state: shared by all producers. It is not encrypted.
        ttl_s: seconds that all of it is kept.
    """

    def __init__(self, state: ProducerState, ttl_s: float) -> None:
        self._state = state
        self._ttl_s = ttl_s

    async def known(self, turn: str) -> Known:
        """What is known of a turn."""
        keys = StateKeys(turn)
        reply, session, seen = await self._state.get([keys.reply, keys.session, keys.seen])
        body = None if reply is None else cast("dict[str, Any]", json.loads(reply))
        if session is None and body is not None:
            session = body["session_id"]
        return Known(body is not None or session is not None or seen is not None, session, body)

    async def accepted(self, turn: str, session: str) -> None:
        """Remember that the broker has it."""
        await self._state.set({StateKeys(turn).session: session}, ttl_s=self._ttl_s)

    async def ended(self, turn: str, body: str) -> None:
        """Remember the reply that ended it."""
        await self._state.set({StateKeys(turn).reply: body}, ttl_s=self._ttl_s)

    async def choose(self, turn: str, way: Way) -> Way:
        """Let its reply go this way, unless another one was chosen already: then that is answered."""
        key = StateKeys(turn).way
        if await self._state.add(key, way, ttl_s=self._ttl_s):
            return way
        (chosen,) = await self._state.get([key])
        return way if chosen is None else cast("Way", chosen)

    async def way(self, turn: str, *, wait_s: float) -> Way:
        """The way that was chosen; where none is chosen in ``wait_s`` seconds, it is ``callback`` from now on.

        Both who holds a request and who posts callbacks get the reply at the same moment, so the one that holds is
        given the time to say that its client is still there.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while loop.time() < until:
            (chosen,) = await self._state.get([StateKeys(turn).way])
            if chosen is not None:
                return cast("Way", chosen)
            await asyncio.sleep(_LOOK_AGAIN_S)
        return await self.choose(turn, "callback")

    async def is_gone(self, endpoint: str, fingerprint: str) -> bool:
        """Whether the receiver of this endpoint has said that it is gone, with this configuration."""
        (value,) = await self._state.get([gone_key(endpoint)])
        return value == fingerprint

    async def gone(self, endpoint: str, fingerprint: str) -> None:
        """Remember that it has."""
        await self._state.set({gone_key(endpoint): fingerprint}, ttl_s=None)
