"""Several processes under one supervisor: a dead one is replaced, a stop reaches all."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from sdqueue.consumer import processes
from sdqueue.consumer.processes import supervise
from tests.consumer.stand import PATIENCE_S, Changes

LIVES = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def end(number, frame):
    (folder / f"{os.getpid()}.{signal.Signals(number).name}").touch()
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
(folder / f"{os.getpid()}.up").touch()
while True:
    time.sleep(60)
"""


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


async def files(folder: Path, pattern: str, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        while len(found := sorted(path.name for path in folder.glob(pattern))) < count:
            await asyncio.sleep(0.01)
    return found


def expect_gone(names: list[str]) -> None:
    for name in names:
        with pytest.raises(ProcessLookupError):
            os.kill(int(name.split(".")[0]), 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGTERM, 3)])
async def test_a_signal_reaches_all_processes_and_their_exit_code_comes_back(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = asyncio.create_task(supervise(command(LIVES, tmp_path, code), processes=3))
    up = await files(tmp_path, "*.up", 3)
    os.kill(os.getpid(), number)
    assert await run == code
    assert len(list(tmp_path.glob(f"*.{number.name}"))) == 3
    expect_gone(up)


async def test_a_dead_process_is_replaced_after_a_wait_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(processes, "LONGEST_WAIT_S", 0.04)
    ends: list[tuple[int, float]] = []
    changes = Changes()

    def on_exit(pid: int, code: int, wait_s: float) -> None:
        ends.append((code, wait_s))
        changes.wake()

    run = asyncio.create_task(supervise(command("import sys; sys.exit(7)"), processes=1, on_exit=on_exit))
    await changes.until(lambda: len(ends) >= 5, lambda: ends)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await run in (0, 7)
    assert ends[:5] == [(7, 0.01), (7, 0.02), (7, 0.04), (7, 0.04), (7, 0.04)]


async def test_a_process_that_lived_long_starts_over_with_the_shortest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(processes, "STABLE_S", 0.0)
    waits: list[float] = []
    changes = Changes()

    def on_exit(pid: int, code: int, wait_s: float) -> None:
        waits.append(wait_s)
        changes.wake()

    run = asyncio.create_task(supervise(command("pass"), processes=1, on_exit=on_exit))
    await changes.until(lambda: len(waits) >= 3, lambda: waits)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await run == 0
    assert waits[:3] == [0.01] * 3


async def test_only_the_dead_one_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_WAIT_S", 0.01)
    codes: list[int] = []
    run = asyncio.create_task(
        supervise(command(LIVES, tmp_path, 0), processes=2, on_exit=lambda pid, code, wait: codes.append(code))
    )
    first = await files(tmp_path, "*.up", 2)
    os.kill(int(first[0].split(".")[0]), signal.SIGKILL)
    up = await files(tmp_path, "*.up", 3)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await run == 0
    assert codes == [-9]
    expect_gone(up)


async def test_a_supervisor_that_is_cancelled_leaves_no_process_behind(tmp_path: Path) -> None:
    run = asyncio.create_task(supervise(command(LIVES, tmp_path, 0), processes=2))
    up = await files(tmp_path, "*.up", 2)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    expect_gone(up)


async def test_a_program_that_cannot_be_started_is_an_error_and_not_a_loop() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await supervise(["/no/such/program"], processes=2)
    assert raised.group_contains(FileNotFoundError)


async def test_the_handlers_of_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = asyncio.create_task(supervise(command(LIVES, tmp_path, 0), processes=1))
    await files(tmp_path, "*.up", 1)
    os.kill(os.getpid(), signal.SIGTERM)
    await run
    assert signal.getsignal(signal.SIGTERM) == before
