"""FakeSlack: a Slack Web API server on 127.0.0.1 that keeps what users would see, and fails as it is told.

It checks what Slack documents: tokens, scopes, lengths of texts, what can be edited, what streams, and, with
``limits=True``, how often a method may be called. Every failure is scripted by :meth:`FakeSlack.fail`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import BasicAuth, web

HISTORY_SCOPES: Final = ("channels:history", "groups:history", "im:history", "mpim:history")
SCOPES: Final = ("chat:write", *HISTORY_SCOPES)

# Calls a minute and workspace; chat.postMessage: a second and channel. Tiers 2 to 4 of Slack's documentation.
LIMITS: Final = {
    "chat.postMessage": (4, 3.0),  # one a second, and "short bursts"
    "chat.update": (50, 60.0),
    "chat.startStream": (20, 60.0),
    "chat.appendStream": (100, 60.0),
    "chat.stopStream": (20, 60.0),
    "conversations.replies": (50, 60.0),
    "conversations.history": (50, 60.0),
}


@dataclass
class Message:
    """What users see: one message, in its channel or thread."""

    channel: str
    ts: str
    text: str
    thread_ts: str | None
    bot: str
    metadata: dict[str, Any] | None = None
    streaming_since: float | None = None
    shown: list[str] = field(default_factory=list)
    """Every text that it has shown, oldest first."""

    def show(self, text: str) -> None:
        self.text = text
        self.shown.append(text)

    def as_json(self, *, all_metadata: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {"type": "message", "ts": self.ts, "text": self.text, "user": self.bot, "bot_id": "B1"}
        if self.thread_ts:
            body["thread_ts"] = self.thread_ts
        if self.metadata and all_metadata:
            body["metadata"] = self.metadata
        return body


@dataclass(frozen=True)
class Installation:
    """A workspace that the app is installed in."""

    token: str
    team: str = "T1"
    bot: str = "UBOT1"
    scopes: tuple[str, ...] = SCOPES
    enterprise: str | None = None


@dataclass(frozen=True)
class Call:
    """A request that has arrived, whatever came of it."""

    method: str
    body: dict[str, Any]
    team: str | None
    at: float


@dataclass(frozen=True)
class Fault:
    """What becomes of a call in place of, or after, its effect.

    Parameters:
        status: answered with this HTTP status.
        headers: of that answer.
        error: the slug of an answer with ``ok: false``; ``None``: the body is no JSON.
        late: the call has its effect first.
        cut: the connection is closed in place of an answer.
        hang: no answer comes, until the server stops.
        raw: the body of an answer, as text/plain.
        json: the body of an answer, as application/json, whether or not it is any.
        pass_on: no fault at all, to be put before others.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    error: str | None = None
    late: bool = False
    cut: bool = False
    hang: bool = False
    raw: str | None = None
    json: str | None = None
    pass_on: bool = False


def limited(seconds: int | str | None = 1) -> Fault:
    """HTTP 429, with Retry-After."""
    headers = () if seconds is None else (("Retry-After", str(seconds)),)
    return Fault(status=429, headers=headers, error="ratelimited")


def refused(error: str) -> Fault:
    """HTTP 200 with ``ok: false``; ``refused("ratelimited")`` is the other way in which Slack limits."""
    return Fault(error=error)


def broken(status: int = 500, *, late: bool = False) -> Fault:
    """A 5xx with a page in place of JSON, before or after the call has had its effect."""
    return Fault(status=status, late=late)


def cut(*, late: bool) -> Fault:
    """The connection is cut before, or after, the call has had its effect."""
    return Fault(cut=True, late=late)


def hang(*, late: bool) -> Fault:
    """No answer comes."""
    return Fault(hang=True, late=late)


class Refused(Exception):
    """A call is answered with ``ok: false``."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.body = {"ok": False, "error": error, **more}


class FakeSlack:
    """Used as ``async with FakeSlack() as slack``; clients get ``base_url=slack.url``.

    Parameters:
        limits: calls are limited as Slack documents; else only by faults.
        stream_s: seconds that a stream lives.
        clock: seconds since 1970, for streams' lives and limits.
    """

    def __init__(
        self, *, limits: bool = False, stream_s: float = 300.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.calls: list[Call] = []
        self.done: list[str] = []
        self.messages: dict[str, dict[str, Message]] = defaultdict(dict)
        self.statuses: dict[tuple[str, str], str] = {}
        self.status_log: list[str] = []
        self.installations: dict[str, Installation] = {}
        self.codes: dict[str, Installation] = {}
        self.oauth_client = ("client-1", "client-secret-1")
        self.app_token = "xapp-1"
        self.socket_url: str | None = None
        """Where ``apps.connections.open`` sends Socket Mode clients; a ticket is added."""
        self.archived: set[str] = set()
        self.missing: set[str] = set()
        self.arrived = asyncio.Condition()
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._recent: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._numbers = itertools.count(1)
        self._limits = limits
        self._stream_s = stream_s
        self._clock = clock
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.install(Installation("xoxb-1"))

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/api/{method}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/api/"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        assert self._runner is not None
        await self._runner.cleanup()

    # What tests say and ask

    def install(self, installation: Installation) -> None:
        """Accept a token."""
        self.installations[installation.token] = installation

    def revoke(self, token: str) -> None:
        """Accept it no more."""
        del self.installations[token]

    def fail(self, method: str, *faults: Fault, times: int = 1) -> None:
        """The next calls of a method become these, in this order, ``times`` over."""
        self._faults[method].extend(faults * times)

    def expire_streams(self) -> None:
        """What Slack does after about five minutes."""
        for messages in self.messages.values():
            for message in messages.values():
                message.streaming_since = None

    def visible(self, channel: str, thread_ts: str | None = None) -> list[Message]:
        """The messages of the bots that users see there now, in order."""
        found = [message for message in self.messages[channel].values() if message.thread_ts == thread_ts]
        return sorted(found, key=lambda message: message.ts)

    def texts(self, channel: str, thread_ts: str | None = None) -> list[str]:
        """Their texts."""
        return [message.text for message in self.visible(channel, thread_ts)]

    def anywhere(self, beginning: str) -> bool:
        """Whether users see a message that begins so."""
        return any(m.text.startswith(beginning) for messages in self.messages.values() for m in messages.values())

    def methods(self) -> list[str]:
        """What was called, in order."""
        return [call.method for call in self.calls]

    async def called(self, method: str, times: int = 1) -> None:
        """Wait until a method was called so often."""
        await self.until(lambda: self.methods().count(method) >= times)

    async def effective(self, method: str) -> None:
        """Wait until a call of a method has had its effect."""
        await self.until(lambda: method in self.done)

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until something is so; looked at when a call arrives, and when it has had its effect."""
        async with self.arrived:
            await self.arrived.wait_for(there)

    # The server

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        body = await self._read(request)
        installation = self._installation(request, body)
        self.calls.append(Call(method, body, installation and installation.team, self._clock()))
        await self._stir()
        fault = self._faults[method].popleft() if self._faults[method] else None
        answer: dict[str, Any] = {}
        if fault is not None and fault.pass_on:
            fault = None
        if fault is None or fault.late:
            try:
                answer = await self._perform(method, body, installation, request)
                self.done.append(method)
                await self._stir()
            except Refused as refusal:
                answer = refusal.body
            except _Limited as limit:
                return web.json_response(
                    {"ok": False, "error": "ratelimited"}, status=429, headers={"Retry-After": str(limit.seconds)}
                )
        if fault is None:
            return web.json_response(answer)
        if fault.hang:
            await self._stopping.wait()
        if fault.hang or fault.cut:
            if request.transport is not None:  # the client may have given up first
                request.transport.abort()
            return web.Response()
        if fault.json is not None:
            return web.Response(status=fault.status, text=fault.json, content_type="application/json")
        if fault.raw is not None:
            return web.Response(status=fault.status, text=fault.raw)
        if fault.error is None:
            return web.Response(
                status=fault.status, text="<html>oops</html>", content_type="text/html", headers=dict(fault.headers)
            )
        return web.json_response({"ok": False, "error": fault.error}, status=fault.status, headers=dict(fault.headers))

    async def _stir(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    async def _read(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = dict(request.query)
        if request.content_type == "application/json":
            body |= await request.json()
        else:
            body |= dict(await request.post())
        return body

    def _installation(self, request: web.Request, body: dict[str, Any]) -> Installation | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or body.pop("token", "")
        return self.installations.get(token)

    async def _perform(
        self, method: str, body: dict[str, Any], installation: Installation | None, request: web.Request
    ) -> dict[str, Any]:
        if method == "oauth.v2.access":
            return self._oauth(body, request)
        if method == "apps.connections.open":
            return self._connection(request)
        if installation is None:
            raise Refused("invalid_auth" if request.headers.get("Authorization") else "not_authed")
        handler = getattr(self, "_" + method.replace(".", "_"), None)
        if handler is None:
            raise Refused("unknown_method")
        self._limit(method, body, installation)
        answer = handler(body, installation)
        assert isinstance(answer, dict)
        return {"ok": True, **answer}

    def _limit(self, method: str, body: dict[str, Any], installation: Installation) -> None:
        if not self._limits or method not in LIMITS:
            return
        count, per_s = LIMITS[method]
        where = body.get("channel", "") if method == "chat.postMessage" else ""
        recent = self._recent[method, f"{installation.team}:{where}"]
        now = self._clock()
        while recent and recent[0] <= now - per_s:
            recent.popleft()
        if len(recent) >= count:
            raise _Limited(max(1, round(recent[0] + per_s - now + 0.5)))
        recent.append(now)

    # Methods

    def _auth_test(self, _: dict[str, Any], installation: Installation) -> dict[str, Any]:
        return {"team_id": installation.team, "user_id": installation.bot, "bot_id": "B1"}

    def _chat_postMessage(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        self._may(installation, "chat:write")
        channel = self._channel(body)
        message = self._new(body, installation, channel, self._text(body, longest=40_000))
        self.statuses.pop((channel, message.thread_ts or ""), None)
        return {"channel": channel, "ts": message.ts, "message": message.as_json()}

    def _chat_update(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        self._may(installation, "chat:write")
        message = self._mine(body, installation)
        if self._streams(message):
            raise Refused("streaming_state_conflict")
        text = self._text(body, longest=4_000)
        message.show(text)
        if "metadata" in body:
            message.metadata = self._metadata(body)
        return {"channel": message.channel, "ts": message.ts, "text": text}

    def _chat_delete(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        message = self._mine(body, installation)
        del self.messages[message.channel][message.ts]
        return {"channel": message.channel, "ts": message.ts}

    def _chat_startStream(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        self._may(installation, "chat:write")
        channel = self._channel(body)
        if not body.get("thread_ts"):
            raise Refused("invalid_arguments")
        if not body.get("recipient_user_id"):
            raise Refused("missing_recipient_user_id")
        if not body.get("recipient_team_id"):
            raise Refused("missing_recipient_team_id")
        text = self._text(body, longest=0) if body.get("markdown_text") else ""
        message = self._new(body, installation, channel, text)
        message.streaming_since = self._clock()
        self.statuses.pop((channel, message.thread_ts or ""), None)
        return {"channel": channel, "ts": message.ts}

    def _chat_appendStream(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        message = self._mine(body, installation, why="message_not_owned_by_app")
        if not self._streams(message):
            raise Refused("message_not_in_streaming_state")
        message.show(message.text + self._text(body, longest=0))
        return {"channel": message.channel, "ts": message.ts}

    def _chat_stopStream(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        message = self._mine(body, installation, why="message_not_owned_by_app")
        if not self._streams(message):
            raise Refused("message_not_in_streaming_state")
        if body.get("markdown_text"):
            message.show(message.text + self._text(body, longest=0))
        message.streaming_since = None
        if "metadata" in body:
            message.metadata = self._metadata(body)
        return {"channel": message.channel, "ts": message.ts, "message": message.as_json()}

    def _conversations_replies(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        self._may(installation, HISTORY_SCOPES[0])
        channel = self._channel(body)
        parent = {"type": "message", "ts": body["ts"], "thread_ts": body["ts"], "user": "U1", "text": "(the question)"}
        found = [self._json(message, body) for message in self.visible(channel, body["ts"])]
        return self._page([one for one in found if self._between(one, body)], body, first=parent)

    def _conversations_history(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        self._may(installation, HISTORY_SCOPES[0])
        found = [self._json(message, body) for message in self.visible(self._channel(body))]
        return self._page([one for one in reversed(found) if self._between(one, body)], body)

    def _assistant_threads_setStatus(self, body: dict[str, Any], installation: Installation) -> dict[str, Any]:
        self._may(installation, "chat:write")
        self.statuses[body["channel_id"], body["thread_ts"]] = body["status"]
        self.status_log.append(body["status"])
        return {}

    def _oauth(self, body: dict[str, Any], request: web.Request) -> dict[str, Any]:
        given = (body.get("client_id", ""), body.get("client_secret", ""))
        if request.headers.get("Authorization", "").startswith("Basic "):
            basic = BasicAuth.decode(request.headers["Authorization"])
            given = (basic.login, basic.password)
        if given[0] != self.oauth_client[0]:
            raise Refused("invalid_client_id")
        if given[1] != self.oauth_client[1]:
            raise Refused("bad_client_secret")
        new = self.codes.pop(body.get("code", ""), None)
        if new is None:
            raise Refused("invalid_code")
        self.install(new)
        return {
            "ok": True,
            "access_token": new.token,
            "token_type": "bot",
            "scope": ",".join(new.scopes),
            "bot_user_id": new.bot,
            "app_id": "A1",
            "team": None if new.enterprise else {"id": new.team, "name": "Team"},
            "enterprise": {"id": new.enterprise, "name": "Org"} if new.enterprise else None,
            "is_enterprise_install": new.enterprise is not None,
            "authed_user": {"id": "U1"},
        }

    def _connection(self, request: web.Request) -> dict[str, Any]:
        if request.headers.get("Authorization") != f"Bearer {self.app_token}":
            raise Refused("invalid_auth")
        if self.socket_url is None:
            raise Refused("internal_error")
        return {"ok": True, "url": f"{self.socket_url}?ticket={secrets.token_hex(8)}"}

    # Their rules

    def _may(self, installation: Installation, scope: str) -> None:
        if scope not in installation.scopes:
            raise Refused("missing_scope", needed=scope, provided=",".join(installation.scopes))

    def _channel(self, body: dict[str, Any]) -> str:
        channel = body.get("channel")
        if not isinstance(channel, str) or channel[:1] not in tuple("CDG") or channel in self.missing:
            raise Refused("channel_not_found")
        if channel in self.archived:
            raise Refused("is_archived")
        return channel

    def _text(self, body: dict[str, Any], *, longest: int) -> str:
        """The text that is shown; ``longest`` is the limit of ``text``, of which postMessage cuts off the rest."""
        text, markdown = body.get("text"), body.get("markdown_text")
        if text and markdown:
            raise Refused("markdown_text_conflict")
        if markdown:
            if len(markdown) > 12_000:
                raise Refused("msg_too_long")
            return str(markdown)
        if not text or not str(text).strip():
            raise Refused("no_text")
        if longest == 4_000 and len(text) > longest:
            raise Refused("msg_too_long")
        return str(text)[:longest]

    def _metadata(self, body: dict[str, Any]) -> dict[str, Any] | None:
        metadata = body.get("metadata")
        if isinstance(metadata, str):
            metadata = json.loads(metadata)
        if metadata and not (
            isinstance(metadata.get("event_type"), str) and isinstance(metadata["event_payload"], dict)
        ):
            raise Refused("invalid_metadata_format")
        return metadata or None

    def _new(self, body: dict[str, Any], installation: Installation, channel: str, text: str) -> Message:
        ts = f"{int(time.time())}.{next(self._numbers):06d}"
        message = Message(channel, ts, "", body.get("thread_ts"), installation.bot, self._metadata(body))
        message.show(text)
        self.messages[channel][ts] = message
        return message

    def _mine(self, body: dict[str, Any], installation: Installation, why: str = "cant_update_message") -> Message:
        message = self.messages[self._channel(body)].get(body.get("ts", ""))
        if message is None:
            raise Refused("message_not_found")
        if message.bot != installation.bot:
            raise Refused(why)
        return message

    def _streams(self, message: Message) -> bool:
        since = message.streaming_since
        return since is not None and self._clock() < since + self._stream_s

    def _json(self, message: Message, body: dict[str, Any]) -> dict[str, Any]:
        return message.as_json(all_metadata=str(body.get("include_all_metadata", "")).lower() in ("1", "true"))

    def _between(self, message: dict[str, Any], body: dict[str, Any]) -> bool:
        return float(body.get("oldest") or 0) < float(message["ts"]) < float(body.get("latest") or "inf")

    def _page(
        self, found: list[dict[str, Any]], body: dict[str, Any], first: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        start, limit = int(body.get("cursor") or 0), int(body.get("limit") or 100)
        page = found[start : start + limit]
        more = start + limit < len(found)
        return {
            "messages": [first, *page] if first else page,
            "has_more": more,
            "response_metadata": {"next_cursor": str(start + limit) if more else ""},
        }


class _Limited(Exception):
    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds
