"""``sdqueue consumer``: the process that answers turns."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import structlog
import typer
from prometheus_client import CollectorRegistry

from sdqueue.agents import load_agents
from sdqueue.backends import open_broker, open_membership, open_worker, opened_delta_log, opened_sessions, redis_url
from sdqueue.brokers import Broker
from sdqueue.cli.notifying import Notifier
from sdqueue.cli.options import EVERYTHING, Given, agents_of, require_shared_broker, takes_settings
from sdqueue.cli.preparing import endpoints, prepared
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.consumer.processes import supervise
from sdqueue.errors import ConfigurationError
from sdqueue.observe import Observer, Observers
from sdqueue.observe.health import ASK_S, Health, Readiness
from sdqueue.observe.logs import LogObserver, configure_logging
from sdqueue.observe.metrics import MetricsObserver
from sdqueue.sessions import SessionStore
from sdqueue.settings import Settings
from sdqueue.urls import mask

PROBED: Final = "sdqueue health"
"""A session that nobody has, and that is looked for to see whether the store answers."""


@takes_settings(*EVERYTHING)
async def consumer(
    given: Given,
    processes: Annotated[int, typer.Option(min=1, help="Run so many processes and replace those that die.")] = 1,
    name: Annotated[str | None, typer.Option(help="Who it is, in logs and replies. Default: host and process.")] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Answer turns until SIGTERM or SIGINT.

    A first signal lets running turns end within the grace period, a second one ends them at once; what was not
    answered is delivered to another consumer, in order. Start as many as you like, on as many machines: they share
    the partitions. A broker that is not up yet is waited for.

    Examples:

        sdqueue consumer --agent mybot:make_agent

        SDQUEUE_BROKER_URL=amqp://rabbit SDQUEUE_STORE_URL=redis://redis sdqueue consumer --processes 4
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    configure_logging(settings.log_level, settings.log_format)
    if unknown := Settings.unknown_variables():
        structlog.get_logger().warning("variables that are no settings have no effect", variables=unknown)
    notifier = Notifier.take()
    if processes > 1:
        with notifier.beating():
            await _supervise(settings, processes, name, notifier)
    else:
        await _serve(settings, name, supervised, notifier)


async def _supervise(settings: Settings, processes: int, name: str | None, notifier: Notifier) -> None:
    if name is not None:
        raise ConfigurationError(f"--name {name} cannot name {processes} processes; leave it out")
    if settings.metrics_port:
        raise ConfigurationError(
            f"SDQUEUE_METRICS_PORT is {settings.metrics_port}, which {processes} processes cannot share; "
            "start them one by one with a port each, or set it to 0"
        )
    load_agents(settings.agent)  # a name that is wrong is told once, here
    for option in Settings.model_fields:
        if settings.origin(option) == "argument":
            # In the environment and not in the arguments, which every user of the machine can read.
            os.environ[f"SDQUEUE_{option.upper()}"] = str(getattr(settings, option))
    log = structlog.get_logger()
    notifier.ready(f"keeps {processes} processes")
    code = await supervise(
        [sys.executable, "-m", "sdqueue.cli", "consumer", "--supervised"],
        processes=processes,
        on_exit=lambda pid, code, wait_s: log.error("consumer died", pid=pid, code=code, started_again_in_s=wait_s),
        on_stop=lambda: notifier.stopping(settings.grace_s),
    )
    if code:
        raise typer.Exit(1)


async def _serve(settings: Settings, name: str | None, supervised: bool, notifier: Notifier) -> None:
    with endpoints(settings) as (health, registry), notifier.beating(health.look):
        await _answer(settings, name, supervised, health, registry, notifier)


async def _answer(
    settings: Settings,
    name: str | None,
    supervised: bool,
    health: Health,
    registry: CollectorRegistry | None,
    notifier: Notifier,
) -> None:
    options = ConsumerOptions.from_settings(settings, name=name)
    broker = open_broker(settings, name=f"sdqueue consumer {options.name}")
    async with (
        agents_of(settings) as agents,
        opened_sessions(settings) as (store, locks),
        opened_delta_log(settings) as delta_log,
        broker,
    ):
        worker = open_worker(settings, agents, store=store, locks=locks)
        running = Consumer(
            broker,
            worker,
            options,
            observer=_observer(registry, options.name),
            membership=open_membership(settings, name=options.name),
            delta_log=delta_log,
        )
        stopping = asyncio.Event()

        def stop() -> None:
            notifier.stopping(settings.grace_s)
            stopping.set()
            health.stopping()
            running.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        if supervised:
            await _when_standard_input_ends(stop)
        health.begun(Readiness(lambda: ["starting"], broker=lambda: _reach(broker)).look)
        if await prepared(broker, stopping, settings):
            health.begun(_readiness(settings, broker, store, running).look)
            pooled = redis_url(settings) is not None
            what = f"agent {settings.agent or '(built-in)'}, store {mask(settings.store_url)}"
            await _run(running, pooled, what, notifier)
    print(f"consumer {options.name} stopped", flush=True)


async def _when_standard_input_ends(stop: Callable[[], None]) -> None:
    """Stop with the supervisor, which holds the other end: even SIGKILL closes it."""

    class Watch(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            stop()

    await asyncio.get_running_loop().connect_read_pipe(Watch, sys.stdin)


async def _run(running: Consumer, pooled: bool, what: str, notifier: Notifier) -> None:
    async def tell() -> None:
        await running.ready()
        share = running.share
        have = f"{share.partitions} partitions"
        if pooled:
            have = f"owner of {share.owned} of {share.partitions} partitions, standby for {share.standby}"
        print(f"consumer {running.options.name} ready: {have}, {what}", flush=True)
        notifier.ready(f"ready: {have}, {what}")

    telling = asyncio.create_task(tell())
    try:
        await running.run()
    finally:
        telling.cancel()
        await asyncio.wait({telling})


def _readiness(settings: Settings, broker: Broker, store: SessionStore, running: Consumer) -> Readiness:
    """Whether it takes work: by what the consumer knows, and where it would learn of a trouble late, by asking.

    A broker that hangs is known from its heartbeats only after 25 s. The Redis of a pool is asked twice a second as it
    is; any other store has to be.
    """
    asked: dict[str, Callable[[], Awaitable[object]]] = {"broker": lambda: _reach(broker)}
    if redis_url(settings) != settings.store_url:
        asked["store"] = lambda: store.load(PROBED)
    return Readiness(running.obstacles, **asked)


async def _reach(broker: Broker) -> None:
    await broker.queue_state(broker.topology.unrouted, timeout=ASK_S)


def _observer(registry: CollectorRegistry | None, name: str) -> Observer:
    observers: list[Observer] = [LogObserver(name)]
    if registry is not None:
        observers.append(MetricsObserver(registry))
    return Observers(*observers)
