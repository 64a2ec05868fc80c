"""A process with an egress, whose channel talks to a platform over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from types import TracebackType
from typing import Any, Self

import aiohttp
from sdqueue_producers import Address, Ambiguous, BaseChannel, Caps, Outgoing, RetryAfter, Sent
from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.state.redis import RedisState

from sdqueue.brokers import RabbitMQBroker, Topology


class HttpChannel(BaseChannel):
    """Posts messages to ``url``; what it can do is given."""

    name = "fake"

    def __init__(self, url: str, caps: Caps) -> None:
        self.caps = caps
        self._url = url

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def deliver(self, address: Address, outgoing: Outgoing) -> Sent:
        await self._post("deliver", address, outgoing)
        return Sent()

    async def find(self, address: Address, outgoing: Outgoing) -> Sent | None:
        return Sent() if (await self._post("find", address, outgoing))["found"] else None

    async def _post(self, path: str, address: Address, outgoing: Outgoing) -> Any:
        body = {"address": address, "key": outgoing.key, "text": outgoing.text}
        try:
            async with self._http.post(f"{self._url}/{path}", json=body) as response:
                if response.status == 429:
                    raise RetryAfter(float(response.headers["Retry-After"]), "HTTP 429")
                if response.status != 200:
                    raise RetryAfter(None, f"HTTP {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Ambiguous(repr(error)) from error


async def main(amqp_url: str, redis_url: str, namespace: str, url: str, caps: str) -> None:
    state = RedisState(redis_url, namespace=namespace)
    channel = HttpChannel(url, Caps(**json.loads(caps)))
    options = EgressOptions(ask_again_s=0.2, in_place_s=1.0, poll_s=0.1, lease_s=5.0)
    broker = RabbitMQBroker(amqp_url, Topology(namespace, partitions=4))
    async with broker, channel, Egress(channel, broker, state, options) as egress:
        print("ready", flush=True)
        await egress.wait_failed()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
