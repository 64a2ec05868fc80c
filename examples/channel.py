"""A channel of one's own: Chirp, made up for this example, signs what it posts to us and has a REST API for replies."""

from __future__ import annotations

import hmac
import json
import time

import aiohttp
import sdqueue_producers as sdp
from pydantic import BaseModel, Field, SecretStr, ValidationError

from sdqueue import InboundTurn, InvalidTurn


class ChirpSettings(sdp.ChannelSettings):
    channel = "chirp"
    secret: SecretStr = Field(min_length=16)  # SDQUEUE_CHIRP_SECRET
    token: SecretStr = Field(min_length=16)
    api_url: str = "https://api.chirp.example"


class Event(BaseModel):
    id: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    room: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    user: str
    text: str


class Chirp(sdp.BaseChannel):
    name = "chirp"
    caps = sdp.Caps(max_chars=2000, can_edit=True, idempotent=True)
    paths = ("/chirp/events",)
    timeout = aiohttp.ClientTimeout(10)

    def __init__(self, settings: ChirpSettings) -> None:
        self._secret = settings.secret.get_secret_value().encode()
        self._headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"}
        self._api = settings.api_url.rstrip("/")

    async def __aenter__(self) -> Chirp:
        self._http = aiohttp.ClientSession(headers=self._headers, timeout=self.timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def receive(self, request: sdp.Request) -> sdp.Receipt:
        if request.method != "POST":
            return sdp.refusal(405, "method", "only POST is accepted", Allow="POST")
        at, signature = request.headers.get("chirp-at", ""), request.headers.get("chirp-signature", "")
        if not (at.isascii() and at.isdecimal() and len(at) < 12 and abs(time.time() - int(at)) < 300):
            return sdp.refusal(401, "old", "chirp-at must be the seconds since 1970, and not five minutes from now")
        right = hmac.digest(self._secret, at.encode() + b"." + request.body, "sha256").hex()
        if not hmac.compare_digest(right.encode(), signature.encode()):
            return sdp.refusal(401, "signature", "chirp-signature is missing or wrong; check SDQUEUE_CHIRP_SECRET")
        try:
            event = Event.model_validate_json(request.body)
            turn = InboundTurn.make({
                "id": f"chirp:{event.id}", "session_id": f"chirp:{event.room}", "text": event.text,
                "channel": self.name, "address": {"room": event.room}, "sender": event.user, "stream": True,
            })  # fmt: skip
        except (ValidationError, InvalidTurn) as error:
            return sdp.refusal(400, "event", f"the body makes no turn: {error}")
        return sdp.Receipt((turn,))

    def buckets(self, address: sdp.Address) -> tuple[sdp.Bucket, ...]:
        return (sdp.Bucket(f"room:{address['room']}", 5, 5.0),)

    async def deliver(self, address: sdp.Address, outgoing: sdp.Outgoing) -> sdp.Sent:
        return await self._call("POST", address, "", outgoing)

    async def edit(self, address: sdp.Address, ref: sdp.Ref, outgoing: sdp.Outgoing) -> sdp.Sent:
        return await self._call("PUT", address, f"/{ref}", outgoing)

    async def _call(self, method: str, address: sdp.Address, rest: str, outgoing: sdp.Outgoing) -> sdp.Sent:
        url, body = f"{self._api}/rooms/{address['room']}/messages{rest}", {"text": outgoing.text, "key": outgoing.key}
        try:
            async with self._http.request(method, url, json=body, allow_redirects=False) as response:
                answer = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise sdp.RetryAfter(None, f"Chirp cannot be reached: {type(error).__name__}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise sdp.Ambiguous(f"the connection to Chirp was cut: {type(error).__name__}") from None
        if response.status == 429:
            wait = response.headers.get("Retry-After", "")
            raise sdp.RetryAfter(float(wait) if wait.isdecimal() else None, "429", bucket=f"room:{address['room']}")
        if response.status >= 500:
            raise sdp.RetryAfter(None, f"Chirp answers {response.status}")
        if response.status not in (200, 201):
            raise sdp.Permanent("refused", f"Chirp answers {response.status} for room {address['room']}")
        try:
            return sdp.Sent(json.loads(answer)["id"])
        except (ValueError, KeyError, TypeError):
            raise sdp.Ambiguous("Chirp answers something that is no JSON with an id") from None


def make_channel(context: sdp.ChannelContext) -> Chirp:
    return Chirp(ChirpSettings.load())
