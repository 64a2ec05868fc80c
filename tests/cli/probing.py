"""Probes of real processes, as an orchestrator makes them."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.cli.place import PATIENCE_S
from tests.servers.process import free_port


@dataclass(frozen=True)
class Answer:
    """What a probe has got.

    Parameters:
        status: of HTTP; 0: nobody answered.
        body: what was said.
    """

    status: int
    body: dict[str, Any]

    @property
    def reasons(self) -> str:
        return "; ".join(self.body.get("reasons", ()))


class Probe:
    """Asks the process that has the settings :attr:`env`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.env = {"SDQUEUE_METRICS_PORT": str(self.port)}
        self.url = f"http://127.0.0.1:{self.port}"

    async def ask(self, path: str) -> Answer:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
                answer = await http.get(f"{self.url}{path}")
        except httpx.TransportError as error:
            return Answer(0, {"reasons": [repr(error)]})
        return Answer(answer.status_code, json.loads(answer.content))

    async def expect(self, path: str, status: int, reason: str = "", within: float = PATIENCE_S) -> Answer:
        """Ask until it is so."""
        answer = Answer(0, {})
        try:
            async with asyncio.timeout(within):
                while True:
                    answer = await self.ask(path)
                    if answer.status == status and reason in answer.reasons:
                        return answer
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{path} stayed {answer}, and never was {status} {reason!r}") from None

    async def expect_stays(self, path: str, status: int, seconds: float) -> None:
        """Ask for a while: it must never be otherwise."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = await self.ask(path)
            assert answer.status == status, answer
            await asyncio.sleep(0.2)

    async def expect_never(self, path: str, reason: str, seconds: float) -> None:
        """Ask for a while: this must never be a reason, and without any it is 200 in the end.

        A server that has much to do may be one meanwhile.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            answer = await self.ask(path)
            assert reason not in answer.reasons, answer
            await asyncio.sleep(0.2)
        await self.expect(path, 200)
