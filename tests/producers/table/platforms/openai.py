"""The front door with OpenAI's API: its own client, with its own retries and an idempotency key."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI

from tests.producers.table.platforms.platform import TRY_S, Platform

KEY: Final = "sk-alice-0123456789"


class OpenAIDoor(Platform):
    """A program that asks under the same key until it has the whole answer, in one piece or streamed."""

    name = "openai"
    channel = "openai"
    sessions = "openai:alice:"

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(url, chance)
        self._answers: dict[str, str] = {}
        self._client: AsyncOpenAI

    async def open(self, stack: AsyncExitStack) -> None:
        await super().open(stack)
        client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=3, timeout=TRY_S)
        self._client = await stack.enter_async_context(client)

    def settings(self) -> Mapping[str, str]:
        return {"SDQUEUE_OPENAI_KEYS": json.dumps({"alice": KEY})}

    async def send(self, conversation: int, number: int) -> bool:
        mark = self.mark(conversation, number)
        try:
            text = await self._ask(str(conversation), mark, stream=number % 2 == 1)
        except APIStatusError as error:
            if error.status_code != 503:
                self.strange.append(f"{mark} was answered with {error.status_code}: {error.message[:200]}")
            return False
        except APIConnectionError:
            return False
        except APIError as error:  # a stream that ended with an error, which says that asking again will do
            if getattr(error, "code", None) not in ("answer_restarted", "unavailable"):
                self.strange.append(f"the stream of {mark} ended with {error!r}")
            return False
        if text is None:
            return False
        if mark not in self._answers:
            self._answers[mark] = text
            self.show(conversation, text)
        elif self._answers[mark] != text:
            self.strange.append(f"{mark} was answered with {self._answers[mark]!r}, and later with {text!r}")
        return True

    async def _ask(self, session: str, mark: str, *, stream: bool) -> str | None:
        """The answer; ``None`` where a stream was cut, which ends without its last word."""
        headers = {"Idempotency-Key": mark, "X-Session-Id": session}
        asked = self._client.with_options(default_headers=headers).chat.completions
        if not stream:
            answer = await asked.create(model="sdqueue", messages=[{"role": "user", "content": f"say {mark}"}])
            return answer.choices[0].message.content
        pieces: list[str] = []
        finished = False
        chunks = await asked.create(model="sdqueue", messages=[{"role": "user", "content": f"say {mark}"}], stream=True)
        async with chunks:
            async for chunk in chunks:
                for choice in chunk.choices:
                    pieces.append(choice.delta.content or "")
                    finished = finished or choice.finish_reason == "stop"
        return "".join(pieces) if finished else None
