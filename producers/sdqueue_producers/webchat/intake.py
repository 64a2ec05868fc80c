"""Intake: a visitor's message becomes a turn, and is shown to them once the broker has it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sdqueue.errors import BrokerError, InvalidTurn, StoreUnavailable
from sdqueue.messages import InboundTurn
from sdqueue_producers.channel import Bucket
from sdqueue_producers.request import Receipt, Submit
from sdqueue_producers.state import ProducerState
from sdqueue_producers.webchat import entries
from sdqueue_producers.webchat.feed import Feed
from sdqueue_producers.webchat.problem import Problem, unavailable
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webchat.tokens import Visitor

CHANNEL: Final = "webchat"


def _conversation(value: str) -> str:
    Visitor("-", "-").session_id(value)
    return value


Conversation = Annotated[str, AfterValidator(_conversation)]


class Said(BaseModel):
    """A message of a visitor. The id is made by the client, and the same when it sends the message again."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    text: str


def largest(settings: WebchatSettings) -> int:
    """Bytes that a message may have as JSON, which writes some characters as six bytes."""
    return 6 * settings.max_chars + 2048


class Intake:
    """Takes messages, from whichever door.

    Parameters:
        settings: how long and how frequent they may be.
        state: counts how frequent they are, for all processes.
        feed: where they are shown.
        submit: publishes them.
    """

    def __init__(self, settings: WebchatSettings, state: ProducerState, feed: Feed, submit: Submit) -> None:
        self._settings = settings
        self._state = state
        self._feed = feed
        self._submit = submit

    async def take(self, visitor: Visitor, conversation: str, said: Said) -> None:
        """Returns when the broker has it for good, or has had it before, and the visitor's pages are shown it.

        Raises:
            Problem: it is not accepted, or not known to be; the client sends it again under the same id where the
                problem has ``retry_after_s``.
        """
        session_id = visitor.session_id(conversation)
        turn = self._turn(visitor, session_id, said)
        assert turn.id is not None
        try:
            await self._limit(session_id)
            await self._submit(Receipt(turns=(turn,)))
            # Not before: what is shown as sent is never lost. Where this fails the client sends again, which is a
            # repeat to the core and comes here once more.
            await self._feed.add(session_id, entries.message(turn.id, said.id, said.text))
        except BrokerError:
            raise Problem(
                503, "unconfirmed", "the queue did not confirm it; send it again under the same id", retry_after_s=3
            ) from None
        except StoreUnavailable:
            raise unavailable("what producers remember cannot be reached") from None

    async def _limit(self, session_id: str) -> None:
        count = self._settings.messages_per_minute
        name = hashlib.sha256(session_id.encode()).hexdigest()[:32]
        wait_s = await self._state.take(CHANNEL, [Bucket(f"said:{name}", count, 60.0)])
        if wait_s > 0:
            raise Problem(429, "too-many", f"a session may send {count} messages a minute", retry_after_s=wait_s)

    def _turn(self, visitor: Visitor, session_id: str, said: Said) -> InboundTurn:
        if not said.text.strip():
            raise Problem(400, "empty-text", "text: is empty")
        if len(said.text) > self._settings.max_chars:
            raise Problem(
                413, "text-too-long", f"text: has {len(said.text)} characters, {self._settings.max_chars} are accepted"
            )
        try:
            return InboundTurn.make(
                {
                    "id": entries.turn_id(session_id, said.id),
                    "session_id": session_id,
                    "text": said.text,
                    "channel": CHANNEL,
                    "address": {"session": session_id},
                    "sender": visitor.name,
                    "metadata": {"site": visitor.site, "anonymous": visitor.anonymous},
                    "stream": self._settings.stream,
                },
                max_text_bytes=4 * self._settings.max_chars,
            )
        except InvalidTurn as error:
            raise Problem(400, "bad-field", str(error)) from None
