"""The generic webhook: a client that waits for the reply on its request, and one that is called back."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from standardwebhooks import Webhook

from tests.producers.table.platforms.platform import Platform

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CALLBACK_SECRET: Final = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"


class _Client(Platform):
    channel = "webhook"
    endpoint: str

    async def ask(self, conversation: int, number: int, **headers: str) -> tuple[int, Any]:
        mark, now = self.mark(conversation, number), datetime.now(UTC)
        body = json.dumps({"session_id": str(conversation), "text": f"say {mark}"})
        told = {
            "content-type": "application/json",
            "webhook-id": mark.replace(".", "_"),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(SECRET).sign(mark.replace(".", "_"), now, body),
        }
        return await self.post(f"/webhook/{self.endpoint}", body.encode(), told | headers)


class WebhookHold(_Client):
    """A program that asks under the same id until it has the reply, and drops one that it has."""

    name = "webhook-hold"
    sessions = "webhook:hold:"
    endpoint = "hold"

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(url, chance)
        self._replies: dict[str, str] = {}

    def settings(self) -> Mapping[str, str]:
        return {"SDQUEUE_WEBHOOK_ENDPOINTS": json.dumps({"hold": {"secrets": [SECRET]}})}

    async def send(self, conversation: int, number: int) -> bool:
        status, reply = await self.ask(conversation, number, prefer="wait=20")
        if status != 200 or not reply:
            return False
        told = json.dumps(reply, sort_keys=True)
        if reply["id"] not in self._replies:
            self._replies[reply["id"]] = told
            self.show(conversation, reply["text"])
        elif self._replies[reply["id"]] != told:
            self.strange.append(f"reply {reply['id']} was {self._replies[reply['id']]}, and later {told}")
        return True


class WebhookCallback(_Client):
    """A program that is called back. Its receiver drops what it has seen, by ``webhook-id``, and fails at random."""

    name = "webhook-callback"
    sessions = "webhook:crm:"
    endpoint = "crm"

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(url, chance)
        self._receiver = ""
        self.received: Counter[str] = Counter()

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        app = web.Application()
        app.router.add_post("/replies", self._receive)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._receiver = f"http://127.0.0.1:{runner.addresses[0][1]}/replies"

    def settings(self) -> Mapping[str, str]:
        crm = {
            "secrets": [SECRET],
            "callback_url": self._receiver,
            "callback_secrets": [CALLBACK_SECRET],
            "allow_http": True,
            "allow_networks": ["127.0.0.0/8"],
        }
        return {
            "SDQUEUE_WEBHOOK_ENDPOINTS": json.dumps({"crm": crm}),
            "SDQUEUE_WEBHOOK_RETRY_S": json.dumps([0.1, 0.2] + [0.5] * 40),
        }

    async def send(self, conversation: int, number: int) -> bool:
        return (await self.ask(conversation, number))[0] == 202

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        (fault,) = self.faults(1, "429", "500", "late 500", "cut", "late cut", good="")
        if fault in ("429", "500"):
            return web.Response(status=int(fault), headers={"Retry-After": "1"} if fault == "429" else {})
        if fault != "cut":
            body = await request.read()
            reply = Webhook(CALLBACK_SECRET).verify(body, dict(request.headers))
            self.received[request.headers["webhook-id"]] += 1
            if self.received[request.headers["webhook-id"]] == 1:
                self.show(reply["session_id"], reply["text"])
        if fault in ("cut", "late cut"):
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=500 if fault == "late 500" else 204)
