"""``sdqueue producer``: the process between chat platforms and the queue."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from prometheus_client import CollectorRegistry

from sdqueue.brokers import Broker
from sdqueue.cli.notifying import Notifier
from sdqueue.cli.options import BROKER, KEYS, STORE, Given, require_shared_broker, takes_settings
from sdqueue.cli.preparing import endpoints, prepared
from sdqueue.consumer.options import default_name
from sdqueue.errors import ConfigurationError
from sdqueue.observe.logs import configure_logging
from sdqueue.settings import Settings, needed_extras

if TYPE_CHECKING:
    from sdqueue_producers.observer import ProducerObserver

SETTINGS = (
    *BROKER, "apply", *STORE, *KEYS, "stream_url", "stream_entries", "stream_ttl_s", "channels", "producer_host",
    "producer_port", "producer_state_url", "on_ambiguous", "public_url", "max_body_bytes", "request_timeout_s",
    "max_text_bytes", "turn_timeout_s", "kept_ids_s", "grace_s", "metrics_port", "blocked_limit_s",
    "log_level", "log_format",
)  # fmt: skip


class Half(StrEnum):
    """A part of a producer that may run alone."""

    INGRESS = "ingress"
    EGRESS = "egress"


@takes_settings(*SETTINGS)
async def producer(
    given: Given,
    only: Annotated[
        Half | None, typer.Option(help="Only take what platforms send, or only deliver replies. Default: both.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Who it is, in logs. Default: host and process.")] = None,
) -> None:
    """Connect chat platforms to the queue until SIGTERM or SIGINT.

    What platforms send becomes turns, and is answered when the broker has them for good; replies are delivered. A first
    signal lets requests and deliveries in flight end within the grace period, a second one ends them at once. Start as
    many as you like: they share what they have seen and delivered. A broker that is not up yet is waited for; what
    comes meanwhile is answered with 503, so that the platform sends it again.

    With **--only**, both halves of a channel must run somewhere, with the same settings: replies wait in the channel's
    queue until an egress takes them.

    Examples:

        sdqueue producer --channels slack,webhook

        SDQUEUE_BROKER_URL=amqp://rabbit SDQUEUE_STORE_URL=redis://redis sdqueue producer --channels slack --only egress
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    try:
        from sdqueue_producers.process import Parts, Producer
        from sdqueue_producers.registry import parse_channels, settings_of
    except ModuleNotFoundError as error:
        extras = needed_extras(name.strip() for name in settings.channels.split(","))
        raise ConfigurationError(
            f"producers need the package {error.name}, which is not installed: pip install {extras}"
        ) from None
    channels = parse_channels(settings.channels)
    configure_logging(settings.log_level, settings.log_format)
    log = structlog.get_logger()
    of_channels = [found for name in channels if (found := settings_of(name)) is not None]
    if unknown := [*Settings.unknown_variables(), *(v for found in of_channels for v in found.unknown_variables())]:
        log.warning("variables that are no settings have no effect", variables=unknown)
    name = name or default_name()
    parts = Parts(channels, ingress=only is not Half.EGRESS, egress=only is not Half.INGRESS)
    notifier = Notifier.take()
    with endpoints(settings) as (health, registry), notifier.beating(health.look):
        running = Producer(settings, parts, name, _observer(registry, name))
        health.begun(running.look)

        def stop() -> None:
            notifier.stopping(settings.grace_s)
            health.stopping()
            running.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        where = ""

        async def prepare(broker: Broker, stopping: asyncio.Event) -> bool:
            return await prepared(broker, stopping, settings, channels)

        def listening(url: str) -> None:
            nonlocal where
            where = f", {url}"
            log.info("listening", url=url)

        def ready() -> None:
            what = f"{f'{only} of ' if only else ''}{', '.join(channels)}{where}"
            print(f"producer {name} ready: {what}", flush=True)
            notifier.ready(f"ready: {what}")

        await running.run(prepare, listening, ready)
    print(f"producer {name} stopped", flush=True)


def _observer(registry: CollectorRegistry | None, name: str) -> ProducerObserver:
    from sdqueue_producers.logs import ProducerLogs
    from sdqueue_producers.metrics import ProducerMetrics
    from sdqueue_producers.observer import ProducerObservers

    observers: list[ProducerObserver] = [ProducerLogs(name)]
    if registry is not None:
        observers.append(ProducerMetrics(registry))
    return ProducerObservers(*observers)
