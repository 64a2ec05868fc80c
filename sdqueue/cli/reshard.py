"""``sdqueue topology reshard``: another number of partitions for a namespace that is in use."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Annotated

import typer

from sdqueue.backends import open_broker, open_session_keys, opened_sessions, redis_url
from sdqueue.brokers.topology import MAX_PARTITIONS, Topology
from sdqueue.cli.options import KEYS, STORE, Given, JsonOption, require_shared_broker, takes_settings
from sdqueue.consumer.membership import Pool, RedisPool
from sdqueue.errors import ConfigurationError
from sdqueue.resharding import Resharding, ReshardOptions, ReshardReport
from sdqueue.sessions import TurnBacklog
from sdqueue.sessions.stores.offers import offers
from sdqueue.settings import Settings
from sdqueue.urls import mask


@takes_settings("broker_url", "namespace", *STORE, *KEYS, "prefetch", "max_text_bytes")
async def reshard(
    given: Given,
    partitions: Annotated[int, typer.Option(min=1, max=MAX_PARTITIONS, help="The new number of partitions.")],
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that consumers may take to let go of the queues.")
    ] = ReshardOptions.patience_s,
    at_most: Annotated[
        int, typer.Option(min=0, help="Begin only where no more turns wait: all of them go through the store.")
    ] = ReshardOptions.at_most,
    as_json: JsonOption = False,
) -> None:
    """Change the number of partitions. Nothing is lost and no session gets out of order, and nothing must be stopped.

    Consumers that share a Redis stand still for about two seconds, more where many turns wait, and go on with the new
    number without a restart. Without Redis, stop them first. Producers may go on with the old number: what they publish
    is forwarded. Give them the new one when it suits.

    If it is interrupted, no turn is answered until it is run again with the same number.
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    options = ReshardOptions(settings.prefetch, settings.max_text_bytes, timeout, at_most)
    await _require_keys(settings)
    async with AsyncExitStack() as stack:
        store, _ = await stack.enter_async_context(opened_sessions(settings))
        if settings.store_url.startswith("memory:") or not offers(store, TurnBacklog):
            raise ConfigurationError(
                f"SDQUEUE_STORE_URL is {mask(settings.store_url)}: turns go through the store, so it must be "
                "the one that the consumers use, and one that keeps them: redis://, sqlite:///path.db or file:///dir"
            )
        broker = await stack.enter_async_context(open_broker(settings, name="sdqueue topology reshard"))
        url = redis_url(settings)
        pool: Pool | None = None
        if url is not None:
            pool = await stack.enter_async_context(RedisPool(Topology(settings.namespace, partitions), url))
        report = await Resharding(broker, store, partitions, pool=pool, options=options, say=_say).run()
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print("\n".join(_told(settings.namespace, report)))


async def _require_keys(settings: Settings) -> None:
    """Refuse to put turns plainly beside sealed sessions.

    Raises:
        ConfigurationError: sessions of the store have keys, and there is no master key.
        StoreUnavailable: the key store cannot be reached.
    """
    if settings.encryption_keys.get_secret_value():
        return
    keys = open_session_keys(settings)
    try:
        async for session_id in keys.sessions():
            raise ConfigurationError(
                f"sessions of this store are sealed, such as {session_id!r}, and turns would be put aside in plain "
                "text; set SDQUEUE_ENCRYPTION_KEYS as for the consumers"
            )
    finally:
        await keys.aclose()


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def _told(namespace: str, report: ReshardReport) -> list[str]:
    if report.before == report.after and not report.resumed:
        return [f"{namespace}: has {report.after} partitions already"]
    lines = [
        f"{namespace}: {report.after} partitions instead of {report.before}"
        + (", after an interruption" if report.resumed else ""),
        f"{report.kept} turns were put aside in their order, and are answered first; consumers stood still for "
        f"{report.held_s:.1f} s",
    ]
    if report.passed_on:
        lines.append(f"{report.passed_on} other messages (replays, refused turns, no turns) were put into the queues")
    lines.append(
        f"set SDQUEUE_PARTITIONS={report.after} for consumers and producers when it suits; until then, what producers "
        "publish under the old number is forwarded"
    )
    return lines
