"""deploy/security: each user can do its job over TLS, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiormq
import httpx
import pytest
from aiormq.exceptions import ChannelAccessRefused
from redis.exceptions import NoPermissionError

from sdqueue import Client, RabbitMQBroker
from sdqueue.brokers import Topology
from sdqueue.settings import Settings
from tests.cli.place import Place, Result, expect_end, expect_line
from tests.cli.producing import delivered, expect_lines, install, producer, say
from tests.conftest import system_of
from tests.deploy.forbidden import ADMINISTRATION, EVERYBODY, NOT_ALSO, NOT_IN_REDIS
from tests.deploy.secured import ROLES, Secured
from tests.producers.webhook.tools import LEAST, SECRET, signed_headers
from tests.servers.kinds import RABBITMQ, REDIS

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

PARTITIONS: Final = 4

AGENT: Final = """
import pathlib

async def answer(text, history):
    if text.startswith("break") and not pathlib.Path("repaired").exists():
        raise ValueError("no answer to that")
    yield "re "
    yield text
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"), system_of(RABBITMQ), system_of(REDIS))
    yield made
    made.close()


@pytest.fixture
async def secured(servers: Secured) -> Secured:
    """Both servers, with the topology as the operator has declared it."""
    await servers.start()
    async with RabbitMQBroker(servers.url("operator", "broker"), Topology(partitions=PARTITIONS)) as broker:
        await broker.apply()
        await broker.declare_egress("slack")
    return servers


class Site(Place):
    """A folder in which commands run as one of the users."""

    def __init__(self, folder: Path, stack: AsyncExitStack, secured: Secured) -> None:
        super().__init__(folder, stack)
        self.secured = secured
        (folder / "answers.py").write_text(AGENT)

    def as_(self, role: str, **more: str) -> dict[str, str]:
        """The environment of a role."""
        return {
            "SDQUEUE_SECRETS_DIR": str(self.secured.made / role), "SDQUEUE_PARTITIONS": str(PARTITIONS),
            "SDQUEUE_LOG_FORMAT": "json",
        } | more  # fmt: skip

    async def done(self, role: str, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """A command of a role that ends well."""
        result = await self.run(*arguments, env=self.as_(role, **(env or {})))
        assert result.code == 0, result
        return result


@pytest.fixture
async def site(tmp_path: Path, secured: Secured) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(tmp_path, stack, secured)


# What each may do


async def test_each_user_can_do_its_job(site: Site) -> None:
    """Turns in and out, streamed, asked, dead, replayed, discarded and moved to other partitions; nobody is refused."""
    secured = site.secured
    async with secured.client("admin") as admin:
        await admin.acl_log_reset()
    refusals = refused_by_rabbitmq(secured)
    install(site)
    applied = await site.done("operator", "topology", "apply", "--channels", "pub,webhook")
    assert "replies are kept for pub, webhook" in applied.out
    consumer = await site.start("consumer", "--no-apply", "--agent", "answers:answer", env=site.as_("consumer"))
    await expect_line(consumer, " ready: ")
    webhook = json.dumps({"crm": {"secrets": [SECRET]}})
    produce = site.as_("producer", SDQUEUE_WEBHOOK_ENDPOINTS=webhook, SDQUEUE_APPLY="false")
    _, url = await producer(site, "--channels", "pub,webhook", env=produce)

    # A platform's turn, and its reply by the egress.
    assert await say(url, "s1", 1) == 200
    await expect_lines(site.folder, "delivered", 1)
    assert [text for _, _, text in delivered(site.folder)] == ["re s1.1"]
    # A platform that waits for the answer on its request; and one that asks for it later.
    assert await say(url, "s2", 1, path="/hold") == 200
    assert (await posted(url, "hello"))["text"] == "re hello"

    # An application that asks, and one that reads a streamed answer again.
    async with client(secured) as asking:
        assert (await asking.ask("s3", "hello")).text == "re hello"
        turn_id = "streamed-1"
        said = [reply async for reply in asking.stream("s3", "more", id=turn_id)]
        assert [reply.kind for reply in said][-1] == "final"
        again = [reply async for reply in asking.read_stream("s3", turn_id)]
        assert "".join(reply.text for reply in again if reply.kind == "delta") == "re more"
    assert (await site.done("producer", "send", "s3", "once more", "--wait")).out.strip().endswith("re once more")

    # Dead turns.
    for name in ("break one", "break two"):
        await site.run("send", "s4", name, "--wait", env=site.as_("producer"))
    letters = json.loads((await site.done("operator", "dead", "list", "--json")).out)
    assert len(letters["letters"] if isinstance(letters, dict) else letters) == 2
    (site.folder / "repaired").write_text("")
    await site.done("operator", "dead", "replay", "--all", "--limit", "1")
    await site.done("operator", "dead", "discard", "--all", "--yes")

    # More partitions, while all of them run.
    await site.done("operator", "topology", "reshard", "--partitions", "6")
    assert await say(url, "s1", 2) == 200
    await site.done("operator", "topology", "reshard", "--partitions", str(PARTITIONS))
    assert await say(url, "s1", 3) == 200
    seen = await expect_lines(site.folder, "delivered", 4)
    assert len(seen) == 4

    # Whoever looks.
    await site.done("monitor", "topology", "show")
    owners = json.loads((await site.done("monitor", "topology", "owners", "--json")).out)
    assert len(owners["members"]) == 1
    for role in ("producer", "consumer", "operator", "monitor"):
        checked = await site.done(role, "doctor", "--role", role, "--json")
        assert json.loads(checked.out)["ok"]

    consumer.terminate()
    assert await expect_end(consumer) == 0
    assert await denials(secured) == []
    assert refused_by_rabbitmq(secured) == refusals


def client(secured: Secured) -> Client:
    """An application that talks to the pool as the producer."""
    given = {"broker_url": secured.url("producer", "broker"), "store_url": secured.url("producer", "store")}
    return Client.from_settings(Settings.load(**given, partitions=PARTITIONS))


async def posted(url: str, text: str) -> dict[str, Any]:
    """A signed message to the webhook, and what has become of it."""
    body = json.dumps(LEAST | {"text": text}).encode()
    headers = signed_headers(body, id_="evt_1") | {"prefer": "respond-async"}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        answer = await http.post(f"{url}/webhook/crm", content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        async with asyncio.timeout(20):
            while True:
                status = await http.get(f"{url}/webhook/crm/turns/evt_1", headers=signed_headers(b"", id_="evt_1"))
                if status.status_code == 200:
                    found: dict[str, Any] = status.json()
                    return found.get("reply") or found
                assert status.status_code == 202
                await asyncio.sleep(0.05)


async def denials(secured: Secured) -> list[str]:
    """What Redis has refused, but for the name of its library that redis-py tells when it connects."""
    async with secured.client("admin") as admin:
        entries = await admin.acl_log()
    told = [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]
    return [entry for entry in told if "client|setinfo" not in entry]


def refused_by_rabbitmq(secured: Secured) -> list[str]:
    """The refusals that RabbitMQ has logged."""
    logs = "".join(path.read_text() for path in (secured.rabbitmq.folder / "logs").glob("*.log"))
    return re.findall(r".*access_refused.*|.*ACCESS_REFUSED.*", logs)


# What none may do


@pytest.mark.parametrize("role", ROLES)
async def test_whatever_else_a_user_tries_on_the_broker_is_refused(secured: Secured, role: str) -> None:
    allowed = []
    async with aiormq.connect(secured.url(role, "broker")) as connection:
        for what, attempt in {**EVERYBODY, **NOT_ALSO[role]}.items():
            try:
                await attempt(await connection.channel())
            except ChannelAccessRefused:
                continue
            except Exception as error:  # whatever else it is, no right was missing
                allowed.append(f"{what}: {error!r}")
            else:
                allowed.append(what)
    assert allowed == []


@pytest.mark.parametrize("role", ROLES)
async def test_no_user_gets_into_another_vhost(secured: Secured, role: str) -> None:
    await secured.rabbitmq.ctl("add_vhost", f"other-{role}")
    with pytest.raises((aiormq.exceptions.AMQPError, ConnectionError)):
        await aiormq.connect(secured.url(role, "broker").replace("/sdqueue?", f"/other-{role}?"))


async def test_there_is_no_guest_and_no_administrator(secured: Secured) -> None:
    users = json.loads(await secured.rabbitmq.ctl("list_users", "--formatter", "json"))
    assert {user["user"]: user["tags"] for user in users} == {
        "sdqueue-producer": [], "sdqueue-consumer": [], "sdqueue-operator": [], "sdqueue-monitor": ["monitoring"],
    }  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
async def test_only_the_monitor_sees_the_management_pages_and_changes_nothing_there(
    secured: Secured, role: str
) -> None:
    word = (secured.made / "passwords" / f"sdqueue-{role}").read_text()
    base = f"https://127.0.0.1:{secured.rabbitmq.management_port}/api"
    context = ssl.create_default_context(cafile=str(secured.made / "authority" / "ca.pem"))
    async with httpx.AsyncClient(auth=(f"sdqueue-{role}", word), verify=context, trust_env=False, timeout=20) as http:
        looked = await http.get(f"{base}/queues/sdqueue/sdqueue.dead")
        assert looked.status_code == (200 if role == "monitor" else 401)
        taken = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
        message = {"properties": {}, "routing_key": "0001", "payload": "{}", "payload_encoding": "string"}
        for method, path, body in (
            ("GET", "definitions", None),  # it has the hashes of passwords
            ("GET", "users", None),
            ("PUT", "users/intruder", {"password": "x", "tags": "administrator"}),
            ("PUT", "permissions/sdqueue/sdqueue-monitor", {"configure": ".*", "write": ".*", "read": ".*"}),
            ("PUT", "policies/sdqueue/all", {"pattern": ".*", "definition": {"max-length": 1}}),
            ("PUT", "queues/sdqueue/sdqueue.mine", {"durable": True}),
            ("DELETE", "queues/sdqueue/sdqueue.dead", None),
            ("DELETE", "queues/sdqueue/sdqueue.dead/contents", None),
            ("POST", "queues/sdqueue/sdqueue.dead/get", taken),
            ("POST", "exchanges/sdqueue/sdqueue.turns/publish", message),
        ):
            answer = await http.request(method, f"{base}/{path}", json=body)
            refused = answer.status_code in (401, 403) or "ACCESS_REFUSED" in answer.text
            assert refused, (method, path, answer.status_code, answer.text)


@pytest.mark.parametrize("role", ROLES)
async def test_whatever_else_a_user_tries_on_redis_is_refused(secured: Secured, role: str) -> None:
    allowed = []
    async with secured.client(role) as redis:
        for command in (*ADMINISTRATION, *NOT_IN_REDIS[role]):
            try:
                answer = await redis.execute_command(*command.split(" "))
            except NoPermissionError:
                continue
            except Exception as error:  # whatever else it is, no right was missing
                answer = error
            allowed.append(f"{command}: {answer!r}")
    assert allowed == []
