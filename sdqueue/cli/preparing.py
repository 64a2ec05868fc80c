"""What the long-running commands do before they are ready: wait for the broker, and answer probes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import structlog
from prometheus_client import CollectorRegistry

from sdqueue.backends import redis_url
from sdqueue.brokers import Broker, Topology, egress_queue
from sdqueue.consumer.membership import RedisPool
from sdqueue.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch, TopologyMissing
from sdqueue.observe.endpoints import served
from sdqueue.observe.health import Health
from sdqueue.settings import Settings

LONGEST_WAIT_S = 5.0
"""Longest wait between two tries to reach a broker that is not up yet."""


async def prepared(broker: Broker, stopping: asyncio.Event, settings: Settings, channels: Sequence[str] = ()) -> bool:
    """Wait until the broker is there with its topology; ``False`` where the process is to stop meanwhile.

    Parameters:
        broker: entered by the caller.
        stopping: set when the process is to stop.
        settings: whether what is missing is declared, or waited for.
        channels: those whose replies must have a queue; where it is to be declared, their producer does that.

    Raises:
        TopologyMismatch: what is there does not fit.
        AccessRefused: the user may not declare; waiting will not help.
    """
    log = structlog.get_logger()
    wait_s = 0.2
    stop = asyncio.create_task(stopping.wait())
    try:
        while not stopping.is_set():
            attempt = asyncio.create_task(broker.apply() if settings.apply else _complete(broker, channels))
            await asyncio.wait({attempt, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not attempt.done():
                attempt.cancel()
                await asyncio.wait({attempt})
                return False
            try:
                attempt.result()
            except (BrokerUnavailable, TopologyMissing) as error:
                log.warning("the broker is not ready, trying again", error=str(error))
                await asyncio.wait({stop}, timeout=wait_s * random.uniform(0.5, 1))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            except TopologyMismatch:
                if not await _is_resharded(broker, settings):
                    raise
                return True
            else:
                return True
        return False
    finally:
        stop.cancel()


async def _complete(broker: Broker, channels: Sequence[str]) -> None:
    await broker.check()
    for channel in channels:
        await egress_queue(broker, channel, declare=False)


async def _is_resharded(broker: Broker, settings: Settings) -> bool:
    """Whether another number of partitions is what the pool of this consumer has changed to, or is changing to.

    Then the consumer goes on with that, so that it may be restarted before its settings are brought up to date.

    Raises:
        TopologyMismatch: the broker has neither number.
        StoreUnavailable: Redis cannot be asked.
    """
    url = redis_url(settings)
    if url is None:
        return False
    async with RedisPool(broker.topology, url) as pool:
        epoch = (await pool.look()).epoch
    if epoch is None:
        return False
    log = structlog.get_logger()
    if epoch.target is not None:
        log.warning("the number of partitions is being changed, waiting for the end of it", partitions=epoch.target)
        return True
    broker.topology = Topology(settings.namespace, epoch.partitions)
    await broker.check()
    log.warning(
        "the number of partitions was changed; SDQUEUE_PARTITIONS is out of date",
        partitions=epoch.partitions,
        setting=settings.partitions,
    )
    return True


@contextmanager
def endpoints(settings: Settings) -> Iterator[tuple[Health, CollectorRegistry | None]]:
    """The health of this process, and where metrics are registered, served on ``SDQUEUE_METRICS_PORT`` while the block
    lasts; where that is not set, nothing is served and there is no registry.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    with Health(settings.blocked_limit_s) as health, ExitStack() as stack:
        registry = None
        if settings.metrics_port:
            registry = CollectorRegistry()
            try:
                stack.enter_context(served(settings.metrics_port, registry, health))
            except OSError as error:
                raise ConfigurationError(
                    f"SDQUEUE_METRICS_PORT: cannot serve on {settings.metrics_port}: {error}"
                ) from None
        yield health, registry
