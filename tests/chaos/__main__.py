"""``python -m tests.chaos``: play scenarios and print what came of it; ``make chaos`` calls this."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from tests.chaos.checker import Findings, check
from tests.chaos.plan import FLOOD
from tests.chaos.producer import quiet
from tests.chaos.report import Result, as_markdown, as_text
from tests.chaos.scenarios import ALL
from tests.chaos.servers import BROKERS, STORES, CannotRun, Servers, private_servers
from tests.chaos.stage import Scenario, Stage


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Attack real consumers and check them.")
    parser.add_argument("scenarios", nargs="*", help=f"default: all of {', '.join(ALL)}")
    parser.add_argument("--seed", type=int, default=1, help="everything random comes from it")
    parser.add_argument("--seconds", type=float, help="of load; default: what each scenario needs")
    parser.add_argument("--broker", default="rabbitmq", help=f"which broker to start: {', '.join(BROKERS)}")
    parser.add_argument("--store", default="redis", help=f"which store to start: {', '.join(STORES)}")
    parser.add_argument("--mutant", help="give all consumers this defect, to see it found")
    parser.add_argument("--markdown", action="store_true", help="print the table for the documentation too")
    parser.add_argument("--keep", action="store_true", help="keep logs, journals and evidence of clean scenarios too")
    given = parser.parse_args()
    unknown = [name for name in given.scenarios if name not in ALL]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(ALL)}")
    return given


async def main() -> int:
    """Play, print, and return the exit code: 0 only when every promise was kept."""
    given = arguments()
    quiet()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix="sdqueue-chaos-"))
    results: list[Result] = []
    try:
        async with private_servers(given.broker, given.store, folder / "servers") as (servers, products):
            print(f"{products}; seed {given.seed}", flush=True)
            for name in given.scenarios or ALL:
                why_not = ALL[name].cannot_run(servers)
                if why_not:
                    print(f"\n{name}: NOT RUN: {why_not}", flush=True)
                else:
                    results.append(await play(given, ALL[name], servers, folder / name))
    except CannotRun as why:
        print(f"NOT RUN: {why}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(folder / "servers", ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # fails where something was kept
        if results:
            print(f"\n{as_text(results)}")
        if given.markdown:
            print(f"\n{as_markdown(results)}")
    return 0 if all(result.clean for result in results) else 1


async def play(given: argparse.Namespace, scenario: Scenario, servers: Servers, folder: Path) -> Result:
    """One scenario, told when it is over."""
    if given.seconds is not None:
        scenario = dataclasses.replace(scenario, load=dataclasses.replace(scenario.load, seconds=given.seconds))
    print(f"\n{scenario.name}: {scenario.what}", flush=True)
    started = time.monotonic()
    stage = Stage(scenario, servers, folder, seed=given.seed, mutant=given.mutant)
    try:
        evidence = await stage.play()
    except Exception as error:
        traceback.print_exception(error, file=sys.stdout)
        print(f"  BROKEN: could not be played to its end; logs and journals: {folder}", flush=True)
        return Result(scenario.name, Findings(0), [repr(error)], time.monotonic() - started)
    await stage.clear()
    findings = check(evidence)
    others = {mark: s for mark, s in findings.stalls_s.items() if not mark.startswith(f"{FLOOD}.")}
    result = Result(
        scenario.name,
        findings,
        stage.pool.defects(),
        max(others.values(), default=0.0),
        time.monotonic() - started,
    )
    if stage.done:
        print(f"  done: {', '.join(stage.done)}")
    for line in [*findings.details, *result.defects]:
        print(f"  ! {line}")
    print(f"  {'clean' if result.clean else 'BROKEN'}: {findings.sent} sent in {result.seconds:.0f} s", flush=True)
    if others:
        longest = max(others, key=lambda mark: others[mark])
        at_s = next(s.confirmed_at for s in evidence.sent if s.mark == longest) - stage.producer.started_at
        ranked = sorted(others.values())
        print(
            f"  stalls: p50 {ranked[len(ranked) // 2]:.2f} s, p99 {ranked[int(0.99 * len(ranked))]:.2f} s, longest "
            f"{result.longest_s:.1f} s (turn {longest}, confirmed {at_s:.1f} s after the start)"
            f"{', without the flooding session' if scenario.load.flood else ''}"
        )
    if result.clean and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / "evidence.pickle").write_bytes(pickle.dumps(evidence))
        print(f"  logs, journals and evidence: {folder}")
    return result


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted; everything that was started has ended")
