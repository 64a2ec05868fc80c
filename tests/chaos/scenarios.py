"""The scenarios, by name: every row of the failure table alone, and at random together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from tests.chaos import faults
from tests.chaos.plan import Load
from tests.chaos.pool import Member
from tests.chaos.stage import Scenario, Stage
from tests.chaos.wounded import POINTS

Attack = Callable[[Stage], Awaitable[None]]

FULL: Final = {"SDQUEUE_PREFETCH": "10", "SDQUEUE_PARTITIONS": "4"}
"""Small windows, so that each is full while turns think."""

SLOW: Final = Load(sessions=60, rate=45, think_s=(0.2, 0.6))

CROWDED: Final = Load(sessions=12, rate=36, think_s=(0.25, 0.4), flaky=0.2)
"""Turns that come before the last one of their session is answered."""

HASTY: Final = {"SDQUEUE_LOCK_TTL_S": "3"}
"""Locks that end within a pause."""


async def nothing(stage: Stage) -> None:
    """Only the load."""
    await stage.at(1)


def repeated(*attacks: Attack, pause_s: float = 1.0) -> Attack:
    """One fault after the other as long as the load lasts."""

    async def attack(stage: Stage) -> None:
        await stage.at(0.1)
        for number in range(1000):
            if not stage.loading and number >= len(attacks):
                return
            await stage.do(attacks[number % len(attacks)])
            await asyncio.sleep(pause_s * stage.chance.uniform(0.5, 1.5))

    return attack


def crash_at(*points: str) -> Attack:
    """Die at these points between the steps of a turn, one consumer after the other. Then the load ends."""

    async def attack(stage: Stage) -> None:
        for point in points:
            before = stage.pool.alive
            wound = f"{point}:{stage.chance.randint(3, 10)}"
            mortal = await stage.start_wounded(wound)
            await asyncio.gather(stage.start(), stage.pool.stop(before))  # so that the mortal one has all the work
            if not await mortal.dead(within_s=20):
                raise RuntimeError(f"{mortal.name} did not die at {point!r}:\n{mortal.tail()}")
            await asyncio.sleep(2)  # the next one takes over, and answers what is left
        stage.producer.finish()

    return attack


async def asleep_at_save(stage: Stage) -> None:
    """Stop a consumer between its decision to save and the save; wake it when others have answered everything.

    What was not acknowledged is returned when the broker misses heartbeats, so its successor runs the same turns, and
    more of the same sessions. Earlier, the successor's next save could cover up what the sleeper does. The load ends
    when the sleeper has slept long enough.
    """
    before = stage.pool.alive
    sleeper = await stage.start_wounded(
        f"asleep:{stage.chance.randint(8, 15)}", SDQUEUE_BROKER_URL=f"{stage.servers.broker_url}?heartbeat=1"
    )
    await asyncio.gather(stage.start(), stage.pool.stop(before))
    if not await sleeper.stopped(within_s=20):
        raise RuntimeError(f"{sleeper.name} did not fall asleep:\n{sleeper.tail()}")
    sleeper.paused = True
    await asyncio.sleep(6)  # the broker misses heartbeats, and others go on with the session
    stage.producer.finish()
    await stage.answered()
    sleeper.resume()
    await asyncio.sleep(2)  # nothing tells from outside that its save was refused


async def scale(stage: Stage) -> None:
    """From one consumer to eight and down to two."""
    await stage.at(0.1)
    await stage.start(7)
    await stage.at(0.6)
    leaving: list[Member] = stage.pool.alive[:-2]
    await stage.pool.stop(leaving)
    await stage.at(1)


async def broker_with_backlog(stage: Stage) -> None:
    """Stop all consumers, let turns pile up, restart the broker, and start consumers while it is away; then kill it."""
    await stage.at(0.15)
    await stage.pool.stop(stage.pool.alive)
    await stage.at(0.35)
    restarting = asyncio.create_task(stage.do(faults.restart_broker))
    starting = asyncio.create_task(stage.start(2))
    await restarting
    await starting
    await stage.at(0.8)
    await stage.do(faults.crash_broker)


async def failover(stage: Stage) -> None:
    """A failover, once."""
    await stage.at(0.4)
    await stage.do(faults.fail_over)


async def emptied_store(stage: Stage) -> None:
    """FLUSHALL, once."""
    await stage.at(0.5)
    await stage.do(faults.empty_store)


async def poison(stage: Stage) -> None:
    """Turns that kill every process that runs them, under a supervisor that replaces what dies."""
    keeping = asyncio.create_task(stage.pool.keep(2))
    try:
        await stage.at(1)
        await asyncio.sleep(10)  # a suspect is begun three times
    finally:
        keeping.cancel()


async def mixture(stage: Stage) -> None:
    """Whatever comes, one to two at a time, under a supervisor."""
    keeping = asyncio.create_task(stage.pool.keep(2))
    try:
        await stage.at(0.05)
        while stage.loading:
            fault = stage.chance.choice(faults.MIXABLE)
            beside = stage.chance.choice((faults.kill, faults.replace, None))
            both = [fault] if beside is None else [fault, beside]
            await asyncio.gather(*(stage.do(one) for one in both))
            await asyncio.sleep(stage.chance.uniform(0.5, 3))
    finally:
        keeping.cancel()


ALL: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("calm", "", "nothing is done", nothing),
        Scenario(
            "kill_consumer", "1", "kill -9 in the middle of turns, full prefetch windows",
            repeated(faults.kill, pause_s=4), load=replace(SLOW, seconds=20), settings=FULL,
        ),
        Scenario(
            "pause_consumer", "2", "SIGSTOP for longer than lock and heartbeats live, then SIGCONT",
            repeated(faults.pause, pause_s=8), load=replace(SLOW, seconds=30), settings=HASTY, heartbeat_s=2,
        ),
        Scenario(
            "asleep_at_save", "2", "SIGSTOP just before a save is sent, SIGCONT when another has taken over",
            asleep_at_save, load=replace(SLOW, seconds=120), settings=HASTY,
        ),
        Scenario(
            "crash_points", "3", "kill -9 between lock, answer, save, publish, confirm and ack",
            crash_at(*POINTS), load=replace(SLOW, seconds=120),
        ),
        Scenario("flaky", "", "a fifth of the turns fail passingly, others of their sessions wait behind them",
                 nothing, load=CROWDED),
        Scenario(
            "scale", "4", "1 → 8 → 2 consumers", scale, consumers=1,
            load=Load(sessions=100, rate=60, seconds=30), settings={"SDQUEUE_PARTITIONS": "64"},
        ),
        Scenario("rolling", "4", "SIGTERM and a new one, again and again", repeated(faults.replace), load=SLOW),
        Scenario(
            "broker_restart", "5", "the broker restarts with a backlog, later it is killed",
            broker_with_backlog, load=Load(seconds=30), breaks=("broker",),
        ),
        Scenario(
            "node_killed", "5", "nodes of a cluster of three are killed and come back, one at a time",
            repeated(faults.crash_broker, pause_s=4), load=Load(seconds=30), breaks=("broker",), needs="cluster",
        ),
        Scenario(
            "close_connections", "6", "the broker closes all connections, again and again",
            repeated(faults.close_connections), load=replace(SLOW, seconds=16), breaks=("broker",),
        ),
        Scenario(
            "silent_network", "6", "the network of a consumer goes silent for 10 s, then delivers what it held",
            faults.silence, load=replace(SLOW, seconds=20), settings=HASTY,
        ),
        Scenario(
            "kill_successor", "7", "the successor dies while it replays, and its successor too",
            repeated(faults.kill_successor), load=replace(SLOW, seconds=16), settings=FULL,
        ),
        Scenario(
            "poison", "8", "turns whose agent calls os._exit every time", poison,
            load=Load(sessions=100, rate=100, seconds=12, think_s=(0.5, 1.5), deadly=2),
        ),
        Scenario(
            "store_away", "9", "Redis frozen for 5 s, restarted, killed",
            repeated(faults.pause_store, faults.restart_store, faults.crash_store, pause_s=3),
            load=Load(seconds=25), settings=HASTY, breaks=("store",),
        ),
        Scenario(
            "failover", "9", "the primary of Redis is killed, Sentinel promotes its replica",
            failover, load=Load(seconds=15), settings=HASTY, needs="sentinel",
        ),
        Scenario(
            "store_emptied", "9", "FLUSHALL in the middle",
            emptied_store, breaks=("store",),
        ),
        Scenario(
            "flood", "10", "one session sends 3,000 turns as fast as it can",
            nothing, load=Load(sessions=30, rate=30, seconds=20, flood=3000), settings={"SDQUEUE_PARTITIONS": "4"},
        ),
        Scenario(
            "memory_alarm", "10", "the broker blocks all publishers for 5 s",
            repeated(faults.alarm, pause_s=3), load=Load(seconds=20), breaks=("broker",),
        ),
        Scenario(
            "random", "1-10", "all of it at random, one or two at a time",
            mixture, load=Load(sessions=60, rate=40, seconds=60, think_s=(0.05, 0.5)), settings=HASTY,
            breaks=("broker", "store"), consumers=3,
        ),
    )
}  # fmt: skip
