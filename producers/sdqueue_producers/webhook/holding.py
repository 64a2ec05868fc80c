"""Holding: the answer to a request on which somebody waits for the reply."""

from __future__ import annotations

import logging
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from sdqueue.client import Replies
from sdqueue.errors import BrokerError, ReplyError, SessionError
from sdqueue_producers.webhook.ids import TurnAddress
from sdqueue_producers.webhook.memory import TurnMemory
from sdqueue_producers.webhook.prefer import ReplyMode
from sdqueue_producers.webhook.reply import reply_body, to_text

_log = logging.getLogger(__name__)

_PRIVATE: Final = {"Cache-Control": "no-store"}


class Holding:
    """Waits for the reply and makes it the response; where it does not come in time, points to the status address.

    Parameters:
        address: of the turn.
        mode: how long to wait.
        location: the turn's status address.
        memory: of turns.
        called_back: the reply goes to the endpoint's callback where it does not go here.
    """

    def __init__(
        self, address: TurnAddress, mode: ReplyMode, location: str, memory: TurnMemory, *, called_back: bool
    ) -> None:
        self._address = address
        self._mode = mode
        self._location = location
        self._memory = memory
        self._called_back = called_back

    async def answer(self, replies: Replies) -> Response:
        """The response, once the broker has the turn."""
        turn = replies.turn_id
        try:
            await self._memory.accepted(turn, self._address.session)
        except SessionError as error:
            _log.warning("turn %r is accepted, but its status address may not know it: %s", turn, error)
        if self._mode.kind == "later":
            return later(self._address, self._location, self._mode.applied)
        try:
            reply = await replies.last(timeout=self._mode.wait_s, raise_on_error=False)
        except (ReplyError, BrokerError):  # later than it was waited for, or the reply queue was lost
            if self._called_back:
                await self._choose(turn, "callback")
            return later(self._address, self._location, self._mode.applied)
        body = reply_body(reply, self._address)
        try:
            await self._memory.ended(turn, to_text(body))
        except SessionError as error:
            _log.warning("the reply to turn %r may not come to its status address: %s", turn, error)
        if self._called_back and await self._choose(turn, "held") != "held":
            return later(self._address, self._location, self._mode.applied)
        return ready(body, self._mode.applied)

    async def _choose(self, turn: str, way: str) -> str:
        try:
            return await self._memory.choose(turn, "held" if way == "held" else "callback")
        except SessionError:
            # Who posts callbacks cannot read the state either, waits until it is back, and then chooses the callback.
            return "callback"


def later(address: TurnAddress, location: str, preference: str = "") -> Response:
    """202: it is accepted, and the reply will be elsewhere."""
    return JSONResponse(
        {"status": "accepted", "turn_id": address.id, "session_id": address.session, "location": location},
        status_code=202,
        headers={**_PRIVATE, "Location": location, **applied(preference)},
    )


def applied(preference: str) -> dict[str, str]:
    """The header that names the preference that was followed."""
    return {"Preference-Applied": preference} if preference else {}


def ready(body: dict[str, Any], preference: str = "") -> Response:
    """200 with a reply."""
    return Response(to_text(body), media_type="application/json", headers={**_PRIVATE, **applied(preference)})
