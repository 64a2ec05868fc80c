"""``python -m tests.producers.table``: fill the table of producers; ``make producers`` calls this."""

from __future__ import annotations

import argparse
import asyncio
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.chaos.producer import quiet
from tests.chaos.servers import BROKERS, STORES, CannotRun, private_servers
from tests.nursery import NURSERY
from tests.producers.table.checker import Findings, check
from tests.producers.table.lives import RANDOM
from tests.producers.table.platforms import ALONE
from tests.producers.table.report import Result, as_markdown, as_text
from tests.producers.table.world import House, Plan, World
from tests.producers.table.wounded import POINTS

ENDS = (*POINTS, RANDOM)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.producers.table", description="Kill producers at every point, and check every platform."
    )
    parser.add_argument("platforms", nargs="*", help=f"default: all of {', '.join(ALONE)}")
    parser.add_argument("--points", nargs="+", default=list(ENDS), choices=ENDS, help="where they are killed")
    parser.add_argument("--seed", type=int, default=1, help="everything random comes from it")
    parser.add_argument("--kills", type=int, default=8, help="so often at each point")
    parser.add_argument("--messages", type=int, default=10, help="at least so many from each of three users")
    parser.add_argument("--seconds", type=float, default=300.0, help="longest time for the kills of one row")
    parser.add_argument("--broker", default="rabbitmq", help=f"which broker to start: {', '.join(BROKERS)}")
    parser.add_argument("--store", default="redis", help=f"which store to start: {', '.join(STORES)}")
    parser.add_argument("--markdown", action="store_true", help="print the table for the documentation too")
    parser.add_argument("--keep", action="store_true", help="keep logs, journals and observations of clean rows too")
    given = parser.parse_args()
    unknown = [name for name in given.platforms if name not in ALONE]
    if unknown:
        parser.error(f"no platform {', '.join(unknown)}; there are {', '.join(ALONE)}")
    return given


async def main() -> int:
    """Play every row, print, and return the exit code: 0 only when every promise was kept."""
    given = arguments()
    quiet()
    NURSERY.set_forkserver_preload(["tests.producers.table.wounded"])
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix="sdqueue-producers-"))
    results: list[Result] = []
    defects: list[str] = []
    try:
        async with private_servers(given.broker, given.store, folder / "servers") as (servers, products):
            print(f"{products}; seed {given.seed}", flush=True)
            async with House(servers.broker_url, servers.store_url, folder / "house", "table") as house:
                for platform in given.platforms or ALONE:
                    for point in given.points:
                        results.append(await play(given, house, platform, point, folder / f"{platform}-{point}"))
            defects = house.pool.defects()
    except CannotRun as why:
        print(f"NOT RUN: {why}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder / "servers", ignore_errors=True)
        if results:
            print(f"\n{as_text(results)}")
        if given.markdown:
            print(f"\n{as_markdown(results)}")
    for defect in defects:
        print(f"! consumer: {defect}")
    clean = all(result.clean for result in results) and not defects
    if clean and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"logs, journals and observations: {folder}")
    return 0 if clean else 1


async def play(given: argparse.Namespace, house: House, platform: str, point: str, folder: Path) -> Result:
    """One row."""
    plan = Plan(seed=given.seed, points=(point,), strikes=given.kills, messages=given.messages, at_most_s=given.seconds)
    started = time.monotonic()
    try:
        outcomes = await World(house, ALONE[platform], plan, folder).play()
    except Exception as error:
        traceback.print_exception(error, file=sys.stdout)
        findings = Findings(0, 0)
        findings.add("strange", f"could not be played to its end: {error!r}")
        return Result(platform, point, 0, findings, given.kills)
    outcome = outcomes[platform]
    (folder / "observations.pickle").write_bytes(pickle.dumps(outcome.observations))
    result = Result(platform, point, outcome.strikes.get(point, 0), check(outcome.observations), given.kills)
    told = ", ".join(f"{name} {count}" for name, count in sorted(outcome.observations.ambiguous.items()))
    print(
        f"{platform}, {point}: {'clean' if result.clean else 'BROKEN'}, {result.times} kills, {result.findings.sent} "
        f"sent in {time.monotonic() - started:.0f} s{f'; ambiguous: {told}' if told else ''}",
        flush=True,
    )
    if not result.clean:
        for line in result.findings.details:
            print(f"  ! {line}", flush=True)
    return result


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted; everything that was started has ended")
