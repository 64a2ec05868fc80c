"""What KEDA will hear: the query of its rabbitmq trigger, made with the manifest's own words on a real RabbitMQ.

KEDA's scaler (pkg/scalers/rabbitmq_scaler.go) asks ``/api/queues/<vhost>`` with the pattern as ``name``, refuses an
answer of several pages, and adds up ``messages``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest

from sdqueue.brokers import Message, RabbitMQBroker, Topology
from sdqueue.messages import InboundTurn, partition_of, routing_key
from tests.conftest import system_of
from tests.deploy.manifests import FOLDER, Installation, render
from tests.servers.kinds import RABBITMQ
from tests.servers.process import free_port
from tests.servers.rabbitmq import LocalRabbitMQ

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(240)]

VHOST = "sdqueue"


class Management:
    """RabbitMQ with its management, and KEDA's user."""

    def __init__(self, server: LocalRabbitMQ, port: int) -> None:
        self.url = server.url
        self._address = f"http://127.0.0.1:{port}"
        self._metadata: dict[str, str] = Installation(render(FOLDER / "overlays" / "large")).get(
            "ScaledObject", "sdqueue-consumer"
        )["spec"]["triggers"][0]["metadata"]

    async def asked(self, **changed: str) -> httpx.Response:
        """As KEDA asks; ``changed`` are other words in the manifest."""
        metadata = self._metadata | changed
        assert metadata["useRegex"] == "true"
        query = f"page=1&use_regex=true&pagination=false&name={quote_plus(metadata['queueName'])}"
        query += f"&page_size={metadata['pageSize']}"
        async with httpx.AsyncClient(auth=("sdqueue-monitor", "monitor"), timeout=30) as http:
            return await http.get(f"{self._address}/api/queues/{quote(VHOST)}?{query}")

    async def backlog(self, **changed: str) -> int:
        """What KEDA makes of the answer.

        Raises:
            LookupError: it refuses it.
        """
        metadata = self._metadata | changed
        answer = await self.asked(**changed)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = json.loads(answer.text)
        if page["page_count"] > 1:
            raise LookupError("regex matches more queues than can be recovered at once")
        assert metadata["operation"] == "sum"
        field = "messages_ready" if metadata["excludeUnacknowledged"] == "true" else "messages"
        return sum(queue.get(field, 0) for queue in page["items"])

    async def settled(self, wanted: int, **changed: str) -> int:
        """The backlog as soon as it is what is wanted; the figures are some seconds old."""
        async with asyncio.timeout(60):
            while (found := await self.backlog(**changed)) != wanted:
                await asyncio.sleep(0.5)
        return found


class LocalManagement(LocalRabbitMQ):
    """A private RabbitMQ with its management, where KEDA's user may look and do nothing else."""

    @property
    def url(self) -> str:
        """Its address, with the virtual host of deploy/security."""
        return f"{super().url}{VHOST}"

    def _environment(self) -> dict[str, str]:
        plugins = self.folder / "plugins"
        plugins.write_text("[rabbitmq_management].\n")
        return super()._environment() | {"RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins)}


def _user(name: str, password: str, tags: str) -> dict[str, str]:
    salt = b"salt"
    hashed = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    return {"name": name, "password_hash": hashed, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": tags}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalManagement, int]]:
    """One for the tests here, and the port of its management."""
    server, port = LocalManagement(tmp_path_factory.mktemp("management"), system_of(RABBITMQ)), free_port()
    all_rights, none = ({"configure": p, "write": p, "read": p, "vhost": VHOST} for p in (".*", "^$"))
    definitions = {
        "vhosts": [{"name": VHOST}],
        "users": [_user("guest", "guest", "administrator"), _user("sdqueue-monitor", "monitor", "monitoring")],
        "permissions": [{"user": "guest", **all_rights}, {"user": "sdqueue-monitor", **none}],
    }
    (server.folder / "definitions.json").write_text(json.dumps(definitions))
    (server.folder / "conf.d").mkdir()
    (server.folder / "conf.d" / "management.conf").write_text(
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
        f"load_definitions = {server.folder / 'definitions.json'}\n"
    )
    yield server, port
    server.close()


@pytest.fixture
async def management(node: tuple[LocalManagement, int]) -> AsyncIterator[Management]:
    """It, with nothing in it."""
    server, port = node
    await server.start()
    yield Management(server, port)
    async with httpx.AsyncClient(auth=("guest", "guest"), base_url=f"http://127.0.0.1:{port}/api", timeout=60) as http:
        rights = (await http.get(f"/vhosts/{VHOST}/permissions")).json()
        (await http.delete(f"/vhosts/{VHOST}")).raise_for_status()
        (await http.put(f"/vhosts/{VHOST}")).raise_for_status()
        for each in rights:
            (await http.put(f"/permissions/{VHOST}/{each['user']}", json=each)).raise_for_status()


async def test_the_turns_of_all_partitions_are_counted_and_nothing_else(management: Management) -> None:
    """Given turns in all 64 partitions and in unrouted, some taken ahead; and replies, dead letters, others."""
    topology, url = Topology(), management.url
    async with RabbitMQBroker(url, topology) as broker, RabbitMQBroker(url, Topology("other")) as other:
        await broker.apply()
        await broker.declare_egress("slack")
        await other.apply()
        assert await management.settled(0) == 0
        sent = 0
        partitions = set()
        while len(partitions) < topology.partitions or sent < 400:
            turn = InboundTurn(session_id=f"s-{sent}", text="hello", id=f"t-{sent}")
            partition = partition_of(turn.session_id, topology.partitions)
            partitions.add(partition)
            message = Message(turn.to_bytes(), message_id=turn.id)
            key = routing_key(partition) if sent % 10 else "somebody else's key"
            await broker.publish(topology.turns, key, message, timeout=10)
            sent += 1
        message = Message(b"{}", message_id="elsewhere")
        await broker.publish(topology.replies, "slack.final.0000", message, timeout=10)
        await broker.publish(topology.dead, "", message, timeout=10)
        await other.publish("other.turns", "0000", message, timeout=10)

        assert await management.settled(sent) == sent

        taken = asyncio.Queue[object]()
        queue = topology.partition_queues[0]
        async with asyncio.timeout(30):
            subscription = await broker.subscribe(queue, taken.put_nowait, prefetch=200)
            await taken.get()
        ready = sent - await broker.depth(queue) - 1
        assert ready < sent
        assert await management.settled(sent) == sent  # what a consumer has taken ahead still counts
        async with asyncio.timeout(60):
            while await management.backlog(excludeUnacknowledged="true") == sent:
                await asyncio.sleep(0.5)  # and would not, if it were left out
        await subscription.close()


async def test_what_does_not_fit_a_page_is_an_error_and_not_a_smaller_sum(management: Management) -> None:
    """So KEDA falls back to the number of consumers that there are; and RabbitMQ has no longer pages than 500."""
    async with RabbitMQBroker(management.url, Topology()) as broker:
        await broker.apply()
        with pytest.raises(LookupError):
            await management.backlog(pageSize="64")
        assert (await management.asked(pageSize="501")).status_code == 400
        assert await management.settled(0) == 0
