"""deploy/security: each user can do its job over TLS, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiormq
import httpx
import pytest
from aiormq.exceptions import ChannelAccessRefused
from redis.exceptions import NoPermissionError
from sdqueue_producers.state import RedisState

from sdqueue import BrokerUnavailable, Client, RabbitMQBroker, StoreUnavailable
from sdqueue.brokers import Topology
from sdqueue.settings import Settings
from tests.cli.place import Place, Result, expect_end, expect_line
from tests.cli.producing import delivered, expect_lines, install, producer, say
from tests.conftest import system_of
from tests.deploy.forbidden import ADMINISTRATION, EVERYBODY, NOT_ALSO, NOT_IN_REDIS
from tests.deploy.secured import ROLES, Secured, make
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


@pytest.mark.timeout(600)  # two dozen processes start
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
    """What Redis has refused, but for the name that redis-py tells when it connects, and what the doctor may ask."""
    async with secured.client("admin") as admin:
        entries = await admin.acl_log()
    told = [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]
    return [entry for entry in told if not entry.endswith((" client|setinfo", " info"))]


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
    one = httpx.Limits(max_keepalive_connections=0)  # the server hangs up on who shows a wrong password
    who = (f"sdqueue-{role}", word)
    async with httpx.AsyncClient(auth=who, verify=context, trust_env=False, timeout=20, limits=one) as http:
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


# TLS


def trusting(other: Path) -> dict[str, tuple[Callable[[Secured, str], str], str]]:
    """Ways to connect that must fail: how the address is changed, and what is said about it."""

    def authority(secured: Secured, url: str) -> str:
        return url.replace(str(secured.made / "producer" / "ca.pem"), str(other / "authority" / "ca.pem"))

    return {
        "an authority of somebody else's": (authority, "is not from an authority that is trusted here"),
        "no authority": (lambda _, url: url.partition("?")[0], "is not from an authority that is trusted here"),
        "a file that is not there": (lambda _, url: url.replace("ca.pem", "no.pem"), "names for TLS is not there"),
        "another name": (lambda _, url: url.replace("@127.0.0.1", "@127.0.0.2"), "is for other names"),
        "no TLS": (
            lambda _, url: url.partition("?")[0].replace("amqps:", "amqp:").replace("rediss:", "redis:"),
            "the port may want TLS",
        ),
    }


WAYS: Final = tuple(trusting(Path()))


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_that_cannot_be_trusted_is_refused_and_told(
    secured: Secured, tmp_path: Path, way: str
) -> None:
    make(tmp_path / "other")
    change, told = trusting(tmp_path / "other")[way]
    await expect_distrust(change(secured, secured.url("producer", "broker")), told)
    await expect_distrust(change(secured, secured.url("producer", "store")), told)


async def expect_distrust(url: str, told: str) -> None:
    """See that an address is not used, and what is said about it, without its password."""
    for _ in range(10):  # there is nothing to say yet where the time is over before the first attempt is
        with pytest.raises((BrokerUnavailable, StoreUnavailable)) as refused:
            await reach(url)
        said = str(refused.value)
        if told in said:
            break
    assert told in said
    assert re.search("@127.0.0.[12]", said)
    assert urlsplit(url).password not in said


async def reach(url: str) -> None:
    """Ask RabbitMQ or Redis something."""
    if url.startswith("amqp"):
        async with RabbitMQBroker(url, Topology()) as broker:
            await broker.describe(timeout=1.5)
    else:
        async with contextlib.aclosing(RedisState(url)) as state:
            await state.get(["slack:x"])


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(secured: Secured, version: ssl.TLSVersion) -> None:
    ports = (secured.rabbitmq.port, secured.rabbitmq.management_port, secured.redis.port)
    for port in ports:
        await handshake(secured, port, ssl.TLSVersion.TLSv1_2)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(secured, port, version)


async def handshake(secured: Secured, port: int, version: ssl.TLSVersion) -> None:
    """Connect by this version of TLS and no other."""
    context = ssl.create_default_context(cafile=str(secured.made / "authority" / "ca.pem"))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # otherwise it is the client that refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of old versions
        context.minimum_version = context.maximum_version = version
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.close()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        await writer.wait_closed()


async def test_an_expired_certificate_is_refused_and_told(tmp_path: Path) -> None:
    """A server of the test's own shows it, since neither of the real ones minds its own certificate's age."""
    make(tmp_path, "--redis", "127.0.0.1", "--days", "-1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "redis" / "server.pem", tmp_path / "redis" / "server.key")
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        query = f"{tmp_path}/authority/ca.pem"
        told = "the server's certificate has expired"
        await expect_distrust(f"amqps://u:secret@127.0.0.1:{port}/?cafile={query}", told)
        await expect_distrust(f"rediss://u:secret@127.0.0.1:{port}/0?ssl_ca_certs={query}", told)


# Rights that are missing


async def test_a_producer_waits_for_a_queue_that_only_an_operator_may_make(site: Site) -> None:
    env = site.as_("producer", SDQUEUE_OPENAI_KEYS='{"me": "a-long-random-secret"}')
    arguments = ("producer", "--channels", "openai", "--producer-port", "0", "--no-apply")
    process = await site.start(*arguments, env=env)
    await expect_log(process, "run `sdqueue topology apply --channels openai`")
    await site.done("operator", "topology", "apply", "--channels", "openai")
    await expect_line(process, " ready: ")


async def test_a_process_that_may_not_declare_says_so_and_ends(site: Site) -> None:
    for arguments in (("consumer",), ("producer", "--channels", "pub", "--producer-port", "0")):
        install(site) if arguments[0] == "producer" else None
        ended = await site.run(*arguments, env=site.as_(arguments[0]))
        assert ended.code == 1
        assert f"does not let user 'sdqueue-{arguments[0]}' configure the exchange 'sdqueue.dead'" in ended.err
        assert "start this with --no-apply" in ended.err
        assert "Traceback" not in ended.err


async def test_a_consumer_that_loses_its_rights_goes_on_when_it_has_them_again(site: Site) -> None:
    """Rights are asked for when a queue is subscribed and when a channel first publishes, so connections are closed."""
    rabbitmq = site.secured.rabbitmq
    process = await site.start("consumer", "--no-apply", "--agent", "answers:answer", env=site.as_("consumer"))
    await expect_line(process, " ready: ")
    (rights,) = [p for p in rabbitmq.definitions()["permissions"] if p["user"] == "sdqueue-consumer"]
    mine = ("set_permissions", "-p", "sdqueue", "sdqueue-consumer")
    async with client(site.secured) as asking:
        for write, read, told in (
            (rights["write"], "^$", "does not let user 'sdqueue-consumer' read from the queue 'sdqueue.turns."),
            ("^$", rights["read"], "does not let user 'sdqueue-consumer' write to the exchange 'sdqueue.replies'"),
        ):
            await rabbitmq.ctl(*mine, "^$", write, read)
            await rabbitmq.ctl("close_all_connections", "--vhost", "sdqueue", "rights have changed")
            turn_id = await asking.send(f"lost-{read}", "hello")
            await expect_log(process, told)
            await rabbitmq.ctl(*mine, "^$", rights["write"], rights["read"])
            assert (await asking.ask(f"lost-{read}", "hello", id=turn_id)).text == "re hello"


async def test_the_doctor_names_the_rights_that_are_missing(site: Site) -> None:
    ill = await site.run("doctor", "--role", "consumer", env=site.as_("monitor"))
    assert ill.code == 1
    assert "a consumer must be able to write to the exchange 'sdqueue.replies'; write to" in ill.out
    assert re.findall(r"^FAIL  (\w+)", ill.out, re.MULTILINE) == ["permissions", "store", "lock"]
    assert "`ACL LOG` has the command and the key" in ill.out


async def expect_log(process: asyncio.subprocess.Process, words: str) -> None:
    """Wait until a process logs it."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            if words in line.decode():
                return
    raise AssertionError(f"{words!r} was never logged")


async def test_clients_must_show_a_certificate_where_that_is_asked_for(tmp_path: Path) -> None:
    system = system_of(REDIS)
    both = Secured(tmp_path, system_of(RABBITMQ), system, ("--client-certificates",))
    try:
        await both.start()
        for role in ("producer", "consumer"):
            async with RabbitMQBroker(both.url(role, "broker"), Topology()) as broker:
                assert "RabbitMQ" in await broker.describe()
        async with contextlib.aclosing(RedisState(both.url("producer", "store"))) as state:
            assert await state.get(["slack:x"]) == [None]
        for kind in ("broker", "store"):
            url = re.sub("&(ssl_)?(certfile|keyfile)=[^&]*", "", both.url("producer", kind))
            await expect_distrust(url, "a certificate of its clients")
    finally:
        both.close()
