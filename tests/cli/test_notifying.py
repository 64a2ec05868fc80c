"""What the service manager hears of a consumer and a producer: a socket of the test's in systemd's place."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdqueue.cli import notifying
from sdqueue.cli.notifying import CLEAN_UP_S, Notifier
from tests.cli.manager import Manager
from tests.cli.place import PATIENCE_S, Place, expect_began, expect_end

TELLING = """
import os
async def telling(text, history):
    return repr([name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG"))])
"""


@pytest.fixture(params=["path", "name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """On a socket with a path, and on one with a name, which containers and older releases of systemd have."""
    manager = Manager(str(tmp_path / "notify") if request.param == "path" else f"@sdqueue-test-{os.getpid()}")
    yield manager
    manager.close()


async def test_a_consumer_tells_that_it_is_ready_that_it_lives_and_how_long_its_end_may_take(
    place: Place, manager: Manager
) -> None:
    environment = manager.environment(WATCHDOG_USEC="200000", SDQUEUE_GRACE_S="50", SDQUEUE_AGENT="agents:endless")
    process = await place.start("consumer", env=environment)
    await manager.until("READY=1")
    assert "4 partitions, agent agents:endless" in await manager.until("STATUS=ready: ")
    await manager.until("WATCHDOG=1")
    await place.run("send", "one", "wait for ever")
    await expect_began(place, process)

    process.terminate()

    await manager.until("STOPPING=1")
    assert await manager.until("EXTEND_TIMEOUT_USEC=") == f"EXTEND_TIMEOUT_USEC={int((50 + CLEAN_UP_S) * 1e6)}"
    assert await manager.until("STATUS=") == "STATUS=stopping: what runs has 50 s to end"
    await manager.until("WATCHDOG=1")  # a long drain is alive
    process.terminate()
    assert await expect_end(process) == 0
    assert not [line for line in manager.waiting() if not line.startswith("WATCHDOG=1")]


async def test_a_producer_tells_that_it_is_ready_and_that_it_ends(place: Place, manager: Manager) -> None:
    environment = manager.environment(WATCHDOG_USEC="200000", SDQUEUE_OPENAI_KEYS='{"me": "a-long-random-secret"}')
    process = await place.start("producer", "--channels", "openai", "--producer-port", "0", env=environment)
    await manager.until("READY=1")
    assert (await manager.until("STATUS=ready: ")).startswith("STATUS=ready: openai, http://127.0.0.1:")
    await manager.until("WATCHDOG=1")
    process.terminate()
    await manager.until("STOPPING=1")
    assert await expect_end(process) == 0


async def test_of_several_processes_only_the_first_speaks(place: Place, manager: Manager) -> None:
    process = await place.start("consumer", "--processes", "2", env=manager.environment(WATCHDOG_USEC="200000"))
    await manager.until("READY=1")
    assert await manager.until("STATUS=") == "STATUS=keeps 2 processes"
    assert process.stdout is not None
    ready = 0
    async with asyncio.timeout(PATIENCE_S):
        while ready < 2:
            ready += b" ready: " in await process.stdout.readline()
    process.terminate()
    await manager.until("STOPPING=1")
    assert await expect_end(process) == 0
    assert not [line for line in [*manager.heard, *manager.waiting()] if line.startswith(("READY", "STOPPING"))]


async def test_what_is_wrong_with_the_settings_is_no_start(place: Place, manager: Manager) -> None:
    result = await place.run("consumer", env=manager.environment(SDQUEUE_AGENT="agents:missing"))
    assert result.code == 2
    assert "READY=1" not in manager.waiting()


async def test_agents_and_their_children_do_not_speak_for_the_service(place: Place, manager: Manager) -> None:
    (place.folder / "telling.py").write_text(TELLING)
    environment = manager.environment(WATCHDOG_USEC="9000000", SDQUEUE_AGENT="telling:telling")
    await place.start("consumer", env=environment)
    await manager.until("READY=1")
    assert (await place.run("send", "one", "who", "--wait")).out.strip() == "[]"


async def test_a_process_that_waits_for_its_servers_counts_as_started_after_a_while(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "UNREADY_S", 0.1)
    monkeypatch.setattr(notifying, "BEAT_S", 0.02)
    notifier = Notifier(manager.address)
    monkeypatch.setattr(notifying, "LOOK_S", 0.02)
    refusals = ["the broker\nis away", "the store too"]

    async def look() -> list[str]:
        return refusals

    with notifier.beating(look):
        assert await manager.until("") == "STATUS=not ready: the broker is away; the store too"
        assert await manager.until("") == "READY=1"
        refusals.clear()
        notifier.ready("ready: 4 partitions")
        assert await manager.until("") == "STATUS=ready: 4 partitions"
        refusals.append("the store is away")
        assert await manager.until("") == "STATUS=not ready: the store is away"
        refusals.clear()
        assert await manager.until("") == "STATUS=ready: 4 partitions"
        notifier.stopping(1)
        await manager.until("STATUS=stopping")
        refusals.append("stopping")
        await asyncio.sleep(0.1)
        assert manager.waiting() == []


async def test_a_blocked_loop_gives_no_sign_of_life(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    with Notifier(manager.address, watchdog_s=0.05).beating():
        await manager.until("WATCHDOG=1")
        manager.waiting()
        time.sleep(0.3)
        assert manager.waiting() == []
        await manager.until("WATCHDOG=1")


async def test_what_a_slow_listener_could_not_be_told_is_told_later(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    with notifier.beating():
        for number in range(1000):  # more than a socket holds
            notifier.ready(f"{number}")
        notifier.stopping(1)
        told = manager.waiting()
        assert "READY=1" in told
        assert "STOPPING=1" not in told
        await manager.until("STOPPING=1")


async def test_nothing_is_told_where_nobody_listens(tmp_path: Path) -> None:
    """Neither is it an error, nor is anything left where the listener was."""
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    for notifier in (Notifier(), Notifier(str(tmp_path / "gone"), watchdog_s=0.01)):
        with notifier.beating():
            notifier.ready("ready")
            await asyncio.sleep(0.02)
            notifier.stopping(1)
    assert errors == []
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(("pid", "watched"), [("ours", True), ("1", False), ("", True)])
async def test_signs_of_life_are_the_business_of_the_process_that_they_are_asked_of(
    manager: Manager, pid: str, watched: bool
) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000", "HOME": "/"}
    if pid:
        environ["WATCHDOG_PID"] = pid.replace("ours", str(os.getpid()))
    notifier = Notifier.take(environ)
    with notifier.beating():
        notifier.ready()
        await manager.until("READY=1")
        await asyncio.sleep(0.1)
    assert ("WATCHDOG=1" in manager.waiting()) is watched
    assert environ == {"HOME": "/"}


async def test_it_stops_with_the_block(manager: Manager) -> None:
    with Notifier(manager.address, watchdog_s=0.02).beating():
        await manager.until("WATCHDOG=1")
    manager.waiting()
    await asyncio.sleep(0.1)
    assert manager.waiting() == []
