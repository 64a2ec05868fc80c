"""OpenAIChannel: clients of OpenAI's API talk to the pool."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from sdqueue.errors import InvalidTurn, StoreUnavailable
from sdqueue.messages import InboundTurn, OutboundReply
from sdqueue_producers.channel import BaseChannel, Caps
from sdqueue_producers.openai.answering import Answering, Patience
from sdqueue_producers.openai.asked import Api, Asked, no_model, read
from sdqueue_producers.openai.chat import ChatShape
from sdqueue_producers.openai.keys import Keys
from sdqueue_producers.openai.naming import (
    Names,
    fingerprint,
    idempotency_key,
    name_session,
    named_by,
    names_of,
    new_word,
    word_of,
)
from sdqueue_producers.openai.responses import ResponseShape
from sdqueue_producers.openai.settings import OpenAISettings
from sdqueue_producers.openai.trouble import LATER, Trouble, failure_of, unconfirmed
from sdqueue_producers.outgoing import Address, Outgoing, Sent
from sdqueue_producers.registry import ChannelContext
from sdqueue_producers.request import Receipt, Request

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
MODELS: Final = "/v1/models"
OTHERS: Final = ("/v1/{api}", "/v1/{api}/{id}", "/v1/{api}/{id}/{part}")
"""What else OpenAI has, so that clients are told in their own words that it is not here."""

RETRIED_S: Final = 3600.0
"""Seconds in which a client's own second try is recognised: its longest wait is ten minutes a try, three tries."""


STATE_S: Final = 3.0
"""Seconds that the state may take."""


class OpenAIChannel(BaseChannel):
    """``/v1/chat/completions``, ``/v1/responses`` and ``/v1/models``, as the clients of OpenAI's API know them.

    A request is one turn: the last message, of the user, in a session that the request names. Its reply is the
    response, so nothing is delivered; the copy on the replies exchange only lets answers be fetched later.

    Parameters:
        settings: keys, models and waiting times.
        context: the state, and how long a turn may take.
    """

    name = "openai"
    caps = Caps(max_chars=2**31, idempotent=True)  # an answer that is kept twice is kept once
    paths = (CHAT, RESPONSES, f"{RESPONSES}/{{id}}", MODELS, f"{MODELS}/{{id}}", *OTHERS)

    def __init__(self, settings: OpenAISettings, context: ChannelContext) -> None:
        self._settings = settings
        self._state = context.state
        self._keys = Keys(settings)
        self._max_text_bytes = context.settings.max_text_bytes
        wait_s = settings.answer_timeout_s or context.settings.turn_timeout_s + 30
        # Where no sign of life is due before the time is up, that it is up has its own status.
        self._patience = Patience(wait_s, settings.keepalive_s if settings.keepalive_s < wait_s else wait_s + 1)
        self._began = int(time.time())

    async def receive(self, request: Request) -> Receipt:
        """See :class:`~sdqueue_producers.Channel`."""
        try:
            async with asyncio.timeout(STATE_S):
                return await self._receive(request)
        except Trouble as trouble:
            return trouble.receipt
        except (StoreUnavailable, TimeoutError):
            # Without the state a client's second try could not be told from a new question.
            return Trouble(503, "unavailable", "the state cannot be reached at present", headers=LATER).receipt

    async def _receive(self, request: Request) -> Receipt:
        key = self._keys.owner(request.headers)
        path = request.path.rstrip("/")
        if path == CHAT:
            return await self._ask(request, key, "chat")
        if path == RESPONSES:
            return await self._ask(request, key, "responses")
        begin, _, name = path.rpartition("/")
        if MODELS not in (path, begin) and begin != RESPONSES:
            raise Trouble(404, "unknown_url", f"there is no {request.method[:20]} {path[:100]} here")
        _check_method(request, "GET")
        if begin == RESPONSES:
            if request.query.get("stream", "").lower() == "true":  # else its client would see a stream of nothing
                raise Trouble(400, "invalid_value", "stream: answers are fetched whole; leave it out", param="stream")
            return Receipt(on_ok=await self._fetch(name, key))
        return Receipt(on_ok=self._show_models(path.removeprefix(MODELS).lstrip("/")))

    def explain(self, status: int, reason: str, detail: str) -> Response:
        """See :class:`~sdqueue_producers.Channel`: in OpenAI's shape."""
        return Trouble(status, reason.replace("-", "_"), detail).response

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        """Keep an answer of ``/v1/responses``; its client has got it already."""
        reply = outgoing.reply
        names = names_of(reply.turn_id, address.get("session")) if isinstance(address, dict) else None
        if names is not None and address.get("api") == "responses":
            await self._keep(ResponseShape.noted(address, names), reply)
        return Sent()

    async def _ask(self, request: Request, key: str, api: Api) -> Receipt:
        _check_method(request, "POST")
        asked = read(request, api, self._settings.models)
        names = await self._name(asked, request, key)
        shape = ResponseShape(asked, names, int(time.time()))
        try:
            turn = InboundTurn.make(
                {
                    "id": names.turn_id,
                    "session_id": names.session_id,
                    "text": asked.text,
                    "channel": self.name,
                    "address": shape.note if api == "responses" else {"api": api},
                    "sender": asked.user or key,
                    "metadata": {"model": asked.model, "key": key, "client": dict(asked.metadata)},
                    "created_at": time.time(),
                    "stream": asked.stream,
                },
                max_text_bytes=self._max_text_bytes,
            )
        except InvalidTurn as error:
            raise Trouble(400, error.reason.replace("-", "_"), error.detail) from None
        headers = {"X-Session-Id": _header(names.session), "X-Request-Id": names.turn_id}

        async def keep(reply: OutboundReply) -> None:
            # So that it can be fetched at once. Where that fails, the copy on the replies exchange does it later.
            with suppress(StoreUnavailable):
                await self._keep(shape, reply)

        if api == "responses":
            answering = Answering(shape, self._patience, headers, keep)
        else:
            answering = Answering(ChatShape(asked, names, int(time.time())), self._patience, headers)
        answer = answering.stream if asked.stream else answering.whole
        return Receipt(turns=(turn,), on_fail=unconfirmed().response, answer=answer)

    async def _keep(self, shape: ResponseShape, reply: OutboundReply) -> None:
        if shape.store and self._settings.kept_answers_s > 0:
            answer = shape.kept(reply, failure_of(reply))
            await self._state.set({_answer_key(reply.turn_id): answer}, ttl_s=self._settings.kept_answers_s)

    async def _name(self, asked: Asked, request: Request, key: str) -> Names:
        """The turn and its session; a request that its client sends a second time has the names of the first."""
        session = name_session(asked, request, key, self._settings.session_headers)
        given = idempotency_key(request.headers)
        if given is not None:
            word = word_of(session, given)
        else:
            word = await self._word_of_try(request, key, session)
        if session is None:
            if asked.api == "chat" or not asked.alone:
                raise Trouble(
                    400,
                    "session_required",
                    "which session this belongs to is not said, and it is not guessed from the messages: send the "
                    f"header {self._settings.session_headers[0]}, or conversation, previous_response_id or user in "
                    "the body",
                )
            session = f"new-{word}"
        return Names(key, session, word)

    async def _word_of_try(self, request: Request, key: str, session: str | None) -> str:
        """OpenAI's clients send no Idempotency-Key, but number their tries: the later ones get the first one's word."""
        tries = request.headers.get("x-stainless-retry-count")
        if tries is None:
            return new_word()
        mark = f"{self.name}:try:{fingerprint(request, key, session)}"
        if tries != "0":
            (word,) = await self._state.get([mark])
            if word is not None:
                return word
        word = new_word()
        await self._state.set({mark: word}, ttl_s=RETRIED_S)
        return word

    async def _fetch(self, response_id: str, key: str) -> Response:
        names = named_by(response_id, key)
        (answer,) = await self._state.get([_answer_key(names.turn_id)])
        if answer is None:
            raise Trouble(
                404, "response_not_found", f"there is no answer {response_id[:100]!r}: not yet, or it is kept no more"
            )
        return Response(answer, media_type="application/json")

    def _show_models(self, name: str) -> Response:
        def model(name: str) -> dict[str, Any]:
            return {"id": name, "object": "model", "created": self._began, "owned_by": "sdqueue"}

        if not name:
            return JSONResponse({"object": "list", "data": [model(each) for each in self._settings.models]})
        if name not in self._settings.models:
            raise no_model(name, self._settings.models)
        return JSONResponse(model(name))


def make_channel(context: ChannelContext) -> OpenAIChannel:
    """The channel ``openai``, by its settings."""
    return OpenAIChannel(OpenAISettings.load(), context)


def _check_method(request: Request, method: str) -> None:
    if request.method != method:
        raise Trouble(
            405,
            "method_not_allowed",
            f"{request.path} takes {method}, not {request.method[:20]}",
            headers={"Allow": method},
        )


def _answer_key(turn_id: str) -> str:
    return f"openai:answer:{turn_id}"


def _header(value: str) -> str:
    """As a header may carry it; a name that is not ASCII is not shown."""
    return value if value.isascii() else ""
