"""A Bot API as far as tests need one, over real HTTP on 127.0.0.1.

::

    async with FakeTelegram() as telegram:
        telegram.fail("sendMessage", Refusal(429, "Too Many Requests: retry after 3", retry_after=3))
        ...
        assert telegram.visible == ["hello"]
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

TOKEN = "4242:AAF-token-of-the-tests_0123456789"
USERNAME = "sdq_bot"


@dataclass(frozen=True)
class Refusal:
    """A call is answered with this.

    Parameters:
        status: of HTTP, and ``error_code``.
        description: as Telegram has it.
        retry_after, migrate_to: what stands in ``parameters``.
        body: the whole answer, in place of JSON.
    """

    status: int
    description: str = "Internal Server Error"
    retry_after: int | None = None
    migrate_to: int | None = None
    body: str | None = None


Cut = Literal["cut before", "cut after", "fail after", "hang"]
"""The connection ends before the call has an effect, or after it, or it is a 500 after it, or nothing is answered."""


@dataclass
class Shown:
    """A message in a chat."""

    chat: int
    text: str
    params: dict[str, Any] = field(default_factory=dict)


class FakeTelegram:
    """Keeps chats and updates, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.messages: dict[int, Shown] = {}
        self.webhook: dict[str, Any] | None = None
        self.polled = asyncio.Event()
        self.changed = asyncio.Event()
        self.offsets: list[int | None] = []
        self._faults: dict[str, deque[Refusal | Cut]] = defaultdict(deque)
        self._updates: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._polling: asyncio.Task[Any] | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._call)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def visible(self) -> list[str]:
        """What people see, in order."""
        return [shown.text for shown in self.messages.values()]

    def named(self, method: str) -> list[dict[str, Any]]:
        """The calls of a method."""
        return [params for name, params in self.calls if name == method]

    def fail(self, method: str, *faults: Refusal | Cut) -> None:
        """Let the next calls of a method fail."""
        self._faults[method].extend(faults)

    async def tell(self, *updates: dict[str, Any]) -> None:
        """Let updates wait for whoever polls."""
        async with self._news:
            self._updates.extend(updates)
            self._news.notify_all()

    @property
    def waiting(self) -> list[int]:
        """The updates that nobody has confirmed."""
        return [update["update_id"] for update in self._updates]

    async def _call(self, request: web.Request) -> web.StreamResponse:
        method, params = request.match_info["method"], await request.json()
        self.calls.append((method, params))
        if request.match_info["token"] != TOKEN:
            return _answer(Refusal(401, "Unauthorized"))
        faults = self._faults[method]
        fault = faults.popleft() if faults else None
        if isinstance(fault, Refusal):
            return _answer(fault)
        if fault == "cut before":
            return _cut(request)
        if fault == "hang":
            await asyncio.sleep(3600)
        result = await getattr(self, f"_{method}")(params)
        self.changed.set()
        if fault == "cut after":
            return _cut(request)
        if fault == "fail after":
            return _answer(Refusal(500))
        return _answer(result) if isinstance(result, Refusal) else web.json_response({"ok": True, "result": result})

    async def _getMe(self, params: dict[str, Any]) -> Any:
        return {"id": 4242, "is_bot": True, "first_name": "Bot", "username": USERNAME}

    async def _sendMessage(self, params: dict[str, Any]) -> Any:
        if not params["text"].strip():
            return Refusal(400, "Bad Request: message text is empty")
        if len(params["text"]) > 4096:
            return Refusal(400, "Bad Request: message is too long")
        number = 1000 + len(self.messages)
        self.messages[number] = Shown(params["chat_id"], params["text"], params)
        return {"message_id": number, "chat": {"id": params["chat_id"]}, "text": params["text"]}

    async def _editMessageText(self, params: dict[str, Any]) -> Any:
        shown = self.messages.get(params["message_id"])
        if shown is None:
            return Refusal(400, "Bad Request: message to edit not found")
        if shown.text == params["text"]:
            return Refusal(400, "Bad Request: message is not modified: specified new message content is the same")
        shown.text = params["text"]
        return {"message_id": params["message_id"], "text": params["text"]}

    async def _sendChatAction(self, params: dict[str, Any]) -> Any:
        return True

    async def _setWebhook(self, params: dict[str, Any]) -> Any:
        self.webhook = params
        return True

    async def _deleteWebhook(self, params: dict[str, Any]) -> Any:
        self.webhook = None
        return True

    async def _getUpdates(self, params: dict[str, Any]) -> Any:
        if self.webhook is not None:
            return Refusal(409, "Conflict: can't use getUpdates method while webhook is active")
        if self._polling is not None:
            self._polling.cancel()  # the newer request wins
        offset = params.get("offset")
        self.offsets.append(offset)
        if offset is not None:
            self._updates = [update for update in self._updates if update["update_id"] >= offset]
        self.polled.set()
        self._polling = mine = asyncio.ensure_future(self._wait(params["timeout"]))
        await asyncio.wait({mine})
        if mine.cancelled():
            return Refusal(409, "Conflict: terminated by other getUpdates request")
        self._polling = None
        return self._updates[:100]

    async def _wait(self, seconds: float) -> None:
        async with self._news:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait_for(lambda: bool(self._updates))
            except TimeoutError:
                return


def _answer(refusal: Refusal) -> web.Response:
    if refusal.body is not None:
        return web.Response(status=refusal.status, text=refusal.body)
    parameters = {"retry_after": refusal.retry_after, "migrate_to_chat_id": refusal.migrate_to}
    told = {name: value for name, value in parameters.items() if value is not None}
    body = {"ok": False, "error_code": refusal.status, "description": refusal.description}
    return web.json_response(body | ({"parameters": told} if told else {}), status=refusal.status)


def _cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def message(
    number: int, text: str | None = "hello", *, chat: int = 7, kind: str = "private", **more: Any
) -> dict[str, Any]:
    """An update with a message of a person, as Telegram sends it."""
    said: dict[str, Any] = {
        "message_id": 100 + number,
        "from": {"id": 7, "is_bot": False, "first_name": "Ada", "username": "ada", "language_code": "en"},
        "chat": {"id": chat, "type": kind},
        "date": 1_750_000_000 + number,
    }
    if text is not None:
        said["text"] = text
    return {"update_id": number, "message": said | more}
