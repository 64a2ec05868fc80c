"""``sdqueue doctor``: reaches everything that the settings name, and says what to do where it cannot."""

from __future__ import annotations

import asyncio
import json
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final
from uuid import uuid4

import typer

from sdqueue.agents import AgentFactory, AgentRoutes, LLMAgentFactory, as_agent, parse_routes
from sdqueue.backends import default_lock_url, open_broker, opened_sessions
from sdqueue.brokers import Broker, Delivery, Message, RabbitMQBroker, egress_queue
from sdqueue.channels import channel_names
from sdqueue.cli.options import BROKER, KEYS, STORE, Given, JsonOption, agents_of, takes_settings
from sdqueue.cli.roles import Role, rights_of
from sdqueue.client import Client
from sdqueue.errors import AccessRefused, ConfigurationError, SdqueueError, StoreUnavailable, TopologyMismatch
from sdqueue.sessions import LockBackend, SessionRecord, SessionStore
from sdqueue.settings import Settings, needed_extras
from sdqueue.urls import mask

LIBRARIES: Final = ("sdqueue", "aio-pika", "redis", "hiredis", "pydantic", "pydantic-settings", "tenacity", "structlog")

SHOWN: Final = 5
"""So many missing rights are named."""

RELEASED: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""No clock that is right shows an earlier time."""

CLOCK_TOLERANCE_S: Final = 2.0
"""Retention and expiry compare times of different machines; a second or two between them does no harm."""


@dataclass(frozen=True)
class Finding:
    """What was seen of one thing, and where it is wrong, what to do."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


@takes_settings(*BROKER, *STORE, *KEYS, "agent", "channels", "producer_state_url")
async def doctor(
    given: Given,
    role: Annotated[
        Role | None,
        typer.Option(help="Only what a process of this kind does, and its rights. Default: everything."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that each check may take.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Check the broker, its topology and permissions, the store, the lock, the agent, versions and the clock.

    With channels, also what their producers need: the settings of each, and the state that they share.

    With a role it looks at what a process of that kind reaches, and on RabbitMQ at each right that it needs: for users
    that may do their job and nothing else, as in deploy/security.

    Nothing is left behind: it writes a session of its own and deletes it, and sends a message to a private queue.
    It declares nothing that is missing. The exit code is 1 when anything fails.
    """
    settings = Settings.load(**given)
    findings = [Finding("settings", True, "are complete and fit together"), _versions(), _clock()]
    findings += await _check_broker(settings, timeout, role)
    if role in (None, Role.CONSUMER, Role.OPERATOR):
        findings += await _check_sessions(settings, timeout)
    if role in (None, Role.CONSUMER):
        findings.append(await _guarded("agent", lambda: _check_agent(settings), timeout, "see SDQUEUE_AGENT"))
    if settings.channels and role in (None, Role.PRODUCER):
        findings += await _check_producers(settings, timeout)
    ok = all(f.ok for f in findings)
    if as_json:
        print(json.dumps({"ok": ok, "checks": [asdict(f) for f in findings]}, indent=2))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<12} {finding.detail}")
            if finding.advice:
                print(f"{'':<19}-> {finding.advice}")
    if not ok:
        raise typer.Exit(1)


def _versions() -> Finding:
    found = [f"Python {platform.python_version()}"]
    missing = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            missing.append(library)
    if missing:
        return Finding(
            "versions", False, f"not installed: {', '.join(missing)}", "install sdqueue with pip, not by copying"
        )
    return Finding("versions", True, ", ".join(found))


def _clock() -> Finding:
    now = datetime.now(UTC)
    if now < RELEASED:
        return Finding("clock", False, f"says {now:%Y-%m-%d %H:%M} UTC, which is in the past", "run an NTP client")
    return Finding("clock", True, f"says {now:%Y-%m-%d %H:%M:%S} UTC")


async def _check_broker(settings: Settings, timeout: float, role: Role | None) -> list[Finding]:
    url = mask(settings.broker_url)
    findings: list[Finding] = []
    try:
        async with open_broker(settings, name="sdqueue doctor") as broker:
            steps: list[tuple[str, Callable[[], Awaitable[str]], str]] = [
                ("broker", lambda: _reach(broker, url, timeout), f"start it, or set SDQUEUE_BROKER_URL; now {url}"),
                ("topology", lambda: _fits(broker, settings, timeout, role), "run `sdqueue topology apply`"),
                ("permissions", lambda: _may(broker, settings, timeout, role), "see deploy/security/README.md"),
            ]
            for name, step, advice in steps:
                findings.append(await _guarded(name, step, timeout, advice))
                if name == "broker" and not findings[-1].ok:
                    break
    except (SdqueueError, OSError) as error:
        findings.append(Finding("broker", False, str(error), "see SDQUEUE_BROKER_URL"))
    return findings


async def _reach(broker: Broker, url: str, timeout: float) -> str:
    return f"{await broker.describe(timeout=timeout)} at {url}"


async def _fits(broker: Broker, settings: Settings, timeout: float, role: Role | None) -> str:
    if settings.broker_url.startswith("memory:"):
        return "is made by each process for itself"
    await broker.check(timeout=timeout)
    topology = broker.topology
    places = asyncio.Semaphore(8)

    async def depth(queue: str) -> int:
        async with places:
            return await broker.depth(queue, timeout=timeout)

    # Looked at one by one first, so that declaring them again compares their properties and makes nothing new.
    depths = await asyncio.gather(*(depth(queue.name) for queue in topology.queues))
    if role in (None, Role.OPERATOR):
        await broker.apply(timeout=timeout)
    dead = depths[[queue.name for queue in topology.queues].index(topology.dead)]
    return f"{topology.partitions} partitions, {sum(depths) - dead} turns waiting, {dead} dead letters"


async def _may(broker: Broker, settings: Settings, timeout: float, role: Role | None) -> str:
    if role is None or not isinstance(broker, RabbitMQBroker):
        return await _round_trip(broker, timeout)
    channels = channel_names(settings.channels)
    rights = rights_of(role, broker.topology, channels)
    lacking = await broker.lacking(rights, timeout=timeout)
    if lacking:
        more = f", and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise AccessRefused(f"a {role} must be able to {'; '.join(map(str, lacking[:SHOWN]))}{more}")
    if role is Role.PRODUCER:
        await (await broker.subscribe_replies(lambda _: None, timeout=timeout)).close()
        for channel in channels:
            await egress_queue(broker, channel, declare=False, timeout=timeout)
    return f"has the {len(rights)} rights of a {role}" if rights else f"a {role} needs none"


async def _round_trip(broker: Broker, timeout: float) -> str:
    arrived = asyncio.Event()

    def take(_: Delivery) -> None:
        arrived.set()

    subscription = await broker.subscribe_replies(take, timeout=timeout)
    try:
        started = time.perf_counter()
        await broker.publish("", subscription.queue, Message(b"{}"), timeout=timeout)
        await arrived.wait()
        return f"a message to a private queue and back takes {(time.perf_counter() - started) * 1000:.1f} ms"
    finally:
        await subscription.close()


async def _check_sessions(settings: Settings, timeout: float) -> list[Finding]:
    url = mask(settings.store_url)
    lock_url = mask(settings.lock_url or default_lock_url(settings.store_url))
    probe = f"sdqueue-doctor-{uuid4().hex}"
    try:
        async with opened_sessions(settings) as (store, locks):
            findings = [
                await _guarded(
                    "store",
                    lambda: _write(store, probe, url),
                    timeout,
                    f"start it, or set SDQUEUE_STORE_URL; now {url}",
                ),
                await _guarded(
                    "lock",
                    lambda: _lock(locks, probe, lock_url),
                    timeout,
                    f"start it, or set SDQUEUE_LOCK_URL; now {lock_url}",
                ),
            ]
    except (SdqueueError, OSError) as error:
        return [Finding("store", False, str(error), "see SDQUEUE_STORE_URL and SDQUEUE_LOCK_URL")]
    if settings.store_url.startswith("redis"):
        findings.append(
            await _guarded(
                "redis", lambda: _look_at_redis(settings.store_url, timeout), timeout, "see its configuration"
            )
        )
    return findings


async def _write(store: SessionStore, probe: str, url: str) -> str:
    started = time.perf_counter()
    await store.save(probe, SessionRecord())
    try:
        kept = await store.load(probe) is not None
    finally:
        await store.delete(probe)
    if not kept and not url.startswith("null:"):
        raise StoreUnavailable("a session that was just saved is not found")
    milliseconds = (time.perf_counter() - started) * 1000
    return f"{url}: {'writes, reads and deletes' if kept else 'keeps nothing, as asked'}, {milliseconds:.1f} ms"


async def _lock(locks: LockBackend, probe: str, url: str) -> str:
    started = time.perf_counter()
    async with locks.acquire(probe):
        pass
    return f"{url}: takes and releases, {(time.perf_counter() - started) * 1000:.1f} ms"


async def _look_at_redis(url: str, timeout: float) -> str:
    from redis.exceptions import NoPermissionError

    from sdqueue.sessions.redis.connection import connect

    link = connect(url, None)
    try:
        info, clock = await link.execute([("INFO",), ("TIME",)], timeout)
    finally:
        await link.aclose()
    if isinstance(clock, BaseException):
        raise StoreUnavailable(f"{mask(url)}: {clock}")
    if isinstance(info, NoPermissionError):
        return "answers; this user may not look at its configuration"
    if isinstance(info, BaseException):
        raise StoreUnavailable(f"{mask(url)}: {info}")
    fields = dict(line.split(":", 1) for line in bytes(info).decode().splitlines() if ":" in line)
    ahead = time.time() - int(clock[0]) - int(clock[1]) / 1e6
    valkey = fields.get("valkey_version")  # its redis_version is that of the Redis it once was
    server = f"Valkey {valkey}" if valkey else f"Redis {fields.get('redis_version')}"
    said = [f"{server}, clock {ahead:+.2f} s from here"]
    if fields.get("aof_enabled") != "1":
        said.append("no append-only file: what it lost in a crash is forgotten")
    if fields.get("maxmemory_policy", "noeviction") not in ("noeviction", "volatile-ttl"):
        said.append(f"maxmemory-policy {fields['maxmemory_policy']} may throw sessions away; use noeviction")
    if abs(ahead) > CLOCK_TOLERANCE_S:
        raise ClockError(f"the clock of this machine is {ahead:+.1f} s from that of Redis; run an NTP client on both")
    return "; ".join(said)


class ClockError(SdqueueError):
    """Two machines disagree about the time."""


async def _check_agent(settings: Settings) -> str:
    async with agents_of(settings) as agents:
        if not isinstance(agents, AgentRoutes):
            return _described(agents, settings.agent)
        names = parse_routes(settings.agent)
        return ", ".join(_described(agents.factories[route], f"{route}={name}") for route, name in names.items())


async def _check_producers(settings: Settings, timeout: float) -> list[Finding]:
    advice = "see SDQUEUE_CHANNELS, and the settings of the channel"
    channels = await _guarded("channels", lambda: _make_channels(settings), timeout, advice)
    if not channels.ok:
        return [channels]
    advice = "start it, or set SDQUEUE_PRODUCER_STATE_URL; without, it is beside the store"
    return [channels, await _guarded("state", lambda: _remember(settings), timeout, advice)]


async def _make_channels(settings: Settings) -> str:
    try:
        from sdqueue_producers import ChannelContext, MemoryState, make_channel, parse_channels
    except ModuleNotFoundError as error:
        extras = needed_extras(name.strip() for name in settings.channels.split(","))
        raise ConfigurationError(f"the package {error.name} is missing: pip install {extras}") from None
    context = ChannelContext(settings, MemoryState(), Client(open_broker(settings)))
    names = parse_channels(settings.channels)
    for name in names:
        make_channel(name, context)  # it connects to nothing before it is entered
    return f"{', '.join(names)}: installed, and their settings will do"


async def _remember(settings: Settings) -> str:
    from sdqueue_producers import opened_state
    from sdqueue_producers.state.opening import default_state_url

    url = mask(settings.producer_state_url or default_state_url(settings.store_url))
    probe = f"doctor:{uuid4().hex}"
    async with opened_state(settings) as state:
        started = time.perf_counter()
        await state.add(probe, "1", ttl_s=60)
        found = await state.get([probe])
        await state.delete([probe])
    if found != ["1"]:
        raise StoreUnavailable(f"{url}: what was just written is not found")
    return f"{url}: writes, reads and deletes, {(time.perf_counter() - started) * 1000:.1f} ms"


def _described(factory: AgentFactory, name: str) -> str:
    try:
        agent = as_agent(factory())
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    missing = [attribute for attribute in ("turn", "chat_ctx", "load_chat_ctx") if not hasattr(agent, attribute)]
    if missing:
        raise TypeError(f"{name} builds a {type(agent).__name__} without {', '.join(missing)}")
    asks = ""
    if isinstance(factory, LLMAgentFactory):
        asks = f" that asks {factory.llm.model} at {mask(factory.llm.base_url)}"
    return f"{name or 'the built-in one'}: builds a {type(agent).__name__}{asks}"


async def _guarded(name: str, check: Callable[[], Awaitable[str]], timeout: float, advice: str) -> Finding:
    try:
        async with asyncio.timeout(timeout + 1):
            return Finding(name, True, await check())
    except TimeoutError as error:
        return Finding(name, False, str(error) or f"no answer within {timeout:g} s", advice)
    except TopologyMismatch as error:
        return Finding(name, False, str(error), "keep what exists, or take another SDQUEUE_NAMESPACE")
    except SdqueueError as error:
        return Finding(name, False, str(error), advice)
    except Exception as error:  # noqa: BLE001 -- the user's agent may raise anything, and the report must go on
        return Finding(name, False, f"{type(error).__name__}: {error}", advice)
