"""``sdqueue topology``: the exchanges and queues on the broker, and the schemas of what travels through them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from sdqueue.backends import open_broker, redis_url, topology_of
from sdqueue.brokers import Broker, Topology
from sdqueue.channels import channel_names
from sdqueue.cli.options import BROKER, STORE, Given, JsonOption, require_shared_broker, takes_settings
from sdqueue.cli.reshard import reshard
from sdqueue.cli.schemas import WIRE_SCHEMAS, schema_text
from sdqueue.consumer.assignment import Roles, assign
from sdqueue.consumer.membership import RedisPool
from sdqueue.errors import ConfigurationError, TopologyMissing
from sdqueue.settings import Settings
from sdqueue.urls import mask

app = typer.Typer(help="Declare and look at the exchanges and queues on the broker.", no_args_is_help=True)


@app.command("apply")
@takes_settings(*BROKER, "channels")
async def apply(
    given: Given,
    timeout: Annotated[float, typer.Option(help="Seconds to reach the broker and declare everything.")] = 30.0,
) -> None:
    """Declare everything that is missing. What fits is left alone; what does not is named, and nothing is changed.

    With channels, the queues of their replies as well: consumers and producers that run with --no-apply need no right
    to declare anything.

    Examples:

        sdqueue topology apply --channels slack,webhook
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    channels = channel_names(settings.channels)
    async with open_broker(settings) as broker:
        await broker.apply(timeout=timeout)
        for channel in channels:
            await broker.declare_egress(channel, timeout=timeout)
    replies = f", replies are kept for {', '.join(channels)}" if channels else ""
    print(
        f"{settings.namespace}: {settings.partitions} partitions are declared on {mask(settings.broker_url)}{replies}"
    )


@app.command("show")
@takes_settings(*BROKER)
async def show(given: Given, as_json: JsonOption = False) -> None:
    """Show the queues with the number of messages that wait in each, without those that are being worked on.

    The exit code is 1 when something is missing.
    """
    settings = Settings.load(**given)
    require_shared_broker(settings)
    async with open_broker(settings) as broker:
        product = await broker.describe()
        depths = await _depths(broker)
        try:
            await broker.check()
            complete = True
        except TopologyMissing:
            complete = False
    complete = complete and None not in depths.values()
    if as_json:
        exchanges = [{"name": e.name, "kind": e.kind, "alternate": e.alternate} for e in broker.topology.exchanges]
        shown = {"broker": product, "complete": complete, "exchanges": exchanges, "queues": depths}
        print(json.dumps(shown, indent=2))
    else:
        _print_table(broker, product, depths)
    if not complete:
        raise TopologyMissing(
            f"namespace {settings.namespace!r} is not complete on {mask(settings.broker_url)}; run `sdqueue topology "
            "apply`, or start a consumer, which does the same"
        )


async def _depths(broker: Broker) -> dict[str, int | None]:
    places = asyncio.Semaphore(8)

    async def depth(queue: str) -> int | None:
        async with places:
            try:
                return await broker.depth(queue)
            except TopologyMissing:
                return None

    names = [queue.name for queue in broker.topology.queues]
    return dict(zip(names, await asyncio.gather(*map(depth, names)), strict=True))


def _print_table(broker: Broker, product: str, depths: dict[str, int | None]) -> None:
    topology = broker.topology
    partitions = [depths[topology.partition_queue(p)] for p in range(topology.partitions)]
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("queue", no_wrap=True)
    table.add_column("waiting", justify="right")
    busy = {name: depth for name, depth in depths.items() if depth or depth is None or name in _always(broker)}
    for name, depth in busy.items():
        table.add_row(name, "missing" if depth is None else str(depth))
    print(product)
    Console().print(table, markup=False)
    empty = sum(depth == 0 for depth in partitions)
    print(f"{topology.turns}.*: {topology.partitions} partitions, {empty} of them empty and not listed")
    for exchange in topology.exchanges:
        print(f"exchange {exchange.name} ({exchange.kind})")


def _always(broker: Broker) -> tuple[str, str]:
    return broker.topology.unrouted, broker.topology.dead


app.command("reshard")(reshard)


@app.command("owners")
@takes_settings(*BROKER, *STORE)
async def owners(given: Given, as_json: JsonOption = False) -> None:
    """Show which consumer owns each queue, which one stands by for it, and which are subscribed to it.

    While consumers come and go, the last column still shows the old ones; two seconds later it should show the owner
    and the standby, and nobody else.
    """
    settings = Settings.load(**given)
    url = redis_url(settings)
    if url is None:
        raise ConfigurationError(
            f"SDQUEUE_STORE_URL is {mask(settings.store_url)}: only consumers on Redis know each other and have an "
            "assignment; without it, they share the queues as the broker gives them out"
        )
    topology = topology_of(settings)
    async with RedisPool(topology, url) as pool:
        sighting = await pool.look()
    members = sighting.members
    if sighting.epoch is not None:
        topology = Topology(settings.namespace, sighting.epoch.partitions)
    staying = [member for member, seen in members.items() if not seen.says.leaving]
    roles = assign(topology.partition_queues, staying, shared=[topology.unrouted]) if staying else {}
    subscribed = {
        queue: sorted(member for member, seen in members.items() if queue in seen.says.subscribed)
        for queue in topology.turn_queues
    }
    if as_json:
        queues = [
            {"queue": queue, "owner": r.owner, "standby": r.standby, "subscribed": subscribed[queue]}
            for queue, r in ((queue, roles[queue]) for queue in topology.turn_queues if roles)
        ]
        print(json.dumps({"members": sorted(members), "queues": queues}, indent=2))
    else:
        _print_owners(sorted(members), roles, subscribed)


def _print_owners(members: list[str], roles: dict[str, Roles], subscribed: dict[str, list[str]]) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("queue", "owner", "standby", "subscribed"):
        table.add_column(column, no_wrap=column == "queue", overflow="fold")
    for queue, names in subscribed.items() if roles else ():
        table.add_row(queue, roles[queue].owner, roles[queue].standby or "", ", ".join(names))
    if roles:
        Console().print(table, markup=False)
    print(f"{len(members)} consumers{': ' if members else ''}{', '.join(members)}")


@app.command("schema")
def schema(
    name: Annotated[str | None, typer.Argument(help=f"{' or '.join(WIRE_SCHEMAS)}. Default: both.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the files into this folder instead of printing.", file_okay=False)
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Compare with the files in this folder; exit code 1 if they differ.")
    ] = None,
) -> None:
    """Print the JSON Schemas of turns and replies.

    Example: sdqueue topology schema inbound-turn > inbound-turn.json
    """
    if name is not None and name not in WIRE_SCHEMAS:
        raise ConfigurationError(f"no schema {name!r}; there are {', '.join(WIRE_SCHEMAS)}")
    texts = {n: schema_text(n) for n in WIRE_SCHEMAS if name in (None, n)}
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
    for schema_name, text in texts.items():
        if write is not None:
            (write / f"{schema_name}.json").write_text(text, encoding="utf-8")
        elif check is not None:
            _compare(check / f"{schema_name}.json", text)
        else:
            print(text, end="")


def _compare(path: Path, text: str) -> None:
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != json.loads(text):
        print(
            f"{path} is not the schema of this release; write it with `sdqueue topology schema --write {path.parent}`"
        )
        raise typer.Exit(1)
