"""A poison turn among many running ones, on real servers; as a module it prints what came of it.

python -m tests.consumer.poison_load amqp://localhost redis://localhost --sessions 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import crc32

from sdqueue import Client
from sdqueue.brokers import Delivery, RabbitMQBroker
from sdqueue.brokers.topology import Topology
from sdqueue.messages import DeadTurn, OutboundReply
from tests.consumer.stand import PATIENCE_S, Changes

TURNS = 3
DEADLY = "deadly"
POISON = ("s0", 2)
"""The session and the number of the turn that kills its process."""

JOURNAL = "POISON_LOAD_JOURNAL"
LONGEST_S = "POISON_LOAD_LONGEST_S"


async def agent(text: str, history: list[Any]) -> str:
    """Answer with the number of the turn in its conversation, after 0.2 s and more; or die."""
    number = len(history) // 2 + 1
    with open(os.environ[JOURNAL], "a") as journal:
        journal.write(f"{os.getppid()} {text}\n")
    longest = float(os.environ.get(LONGEST_S, "1"))
    # Spread evenly, and the same for every try of a turn.
    share = crc32(text.encode()) % 17 / 16
    await asyncio.sleep(0.2 + share * (longest - 0.2))
    if text == DEADLY:
        os._exit(1)
    return f"{number}. {text}"


@dataclass
class Outcome:
    """What was seen from outside.

    Parameters:
        wrong: everything that must not be.
        letters: the dead letters.
        seconds: from the first turn sent to the last one answered.
        after_death_s: from the first death of a consumer to that.
        deaths: consumers that died.
        suspects: turns that were run alone.
        alone: beginnings of turns in child processes.
        tries: beginnings of turns anywhere.
    """

    wrong: list[str]
    letters: list[DeadTurn]
    seconds: float
    after_death_s: float
    deaths: int
    suspects: int
    alone: int
    tries: int


class Ears:
    """Takes all replies and dead letters of a namespace."""

    def __init__(self) -> None:
        self.replies: dict[str, list[OutboundReply]] = {}
        self.bodies: dict[str, set[bytes]] = {}
        self.letters: list[DeadTurn] = []
        self.changes = Changes()

    def on_reply(self, delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        reply = OutboundReply.decode(delivery.message.body)
        if reply.id not in self.bodies:
            self.replies.setdefault(reply.turn_id, []).append(reply)
        self.bodies.setdefault(reply.id, set()).add(delivery.message.body)
        self.changes.wake()

    def on_dead(self, delivery: Delivery) -> None:
        delivery.subscription.ack(delivery)
        self.letters.append(DeadTurn.from_headers(delivery.message.headers))
        self.changes.wake()


async def play(
    amqp_url: str,
    redis_url: str,
    namespace: str,
    folder: Path,
    *,
    sessions: int,
    longest_s: float = 1.0,
    poisoned: bool = True,
    partitions: int = 16,
    within_s: float = 300.0,
) -> Outcome:
    """Send every session its turns, one of them deadly, to two supervised consumers, and look at what comes of it.

    Parameters:
        folder: for the journal and what the consumers print.
        sessions: how many, with three turns each.
        longest_s: the longest turn; they are spread evenly from 0.2 s.
        within_s: seconds after which what is missing counts as lost.
    """
    ears = Ears()
    topology = Topology(namespace, partitions)
    journal = folder / "journal"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")} | {
        "SDQUEUE_BROKER_URL": amqp_url,
        "SDQUEUE_STORE_URL": redis_url,
        "SDQUEUE_NAMESPACE": namespace,
        "SDQUEUE_PARTITIONS": str(partitions),
        "SDQUEUE_LOG_FORMAT": "json",
        JOURNAL: str(journal),
        LONGEST_S: str(longest_s),
    }
    turns = [(f"s{s}", n) for n in range(1, TURNS + 1) for s in range(sessions)]
    poison = POISON if poisoned else None
    async with RabbitMQBroker(amqp_url, topology) as broker:
        await broker.apply()
        await broker.subscribe(await broker.declare_egress("default"), ears.on_reply, prefetch=500)
        await broker.subscribe(topology.dead, ears.on_dead, prefetch=500)
        client = Client(broker)
        async with consumers(environment, folder / "log") as supervisor:
            started = time.time()
            for start in range(0, len(turns), 200):
                await asyncio.gather(
                    *(
                        client.send(
                            session, DEADLY if (session, n) == poison else f"{session} {n}", id=f"{session}.{n}"
                        )
                        for session, n in turns[start : start + 200]
                    )
                )
            with suppress(TimeoutError):  # what is missing is found below
                async with asyncio.timeout(within_s):
                    while len(ears.replies) < len(turns) or (poison and not ears.letters):
                        await ears.changes.next()
            ended = time.time()
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    died = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in log if line["event"] == "consumer died"]
    parents = [int(line.split()[0]) for line in journal.read_text().splitlines()]
    return Outcome(
        wrong=list(wrong_with(ears, turns, poison)),
        letters=ears.letters,
        seconds=ended - started,
        after_death_s=ended - min(died, default=ended),
        deaths=len(died),
        suspects=len({line["turn"] for line in log if line["event"].startswith("turn runs alone")}),
        alone=sum(parent != supervisor for parent in parents),
        tries=len(parents),
    )


@asynccontextmanager
async def consumers(environment: dict[str, str], log: Path) -> AsyncIterator[int]:
    """Two supervised consumers, ready; yields the supervisor's process id."""
    with log.open("wb") as errors:
        pool = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sdqueue.cli", "consumer", "--processes", "2"),
            *("--agent", "tests.consumer.poison_load:agent", "--grace-s", "5"),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
        assert pool.stdout is not None
        drained = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(2):
                    line = await pool.stdout.readline()
                    assert b"ready" in line, (line, log.read_text())
            drained = asyncio.create_task(pool.stdout.read())
            yield pool.pid
        finally:
            if pool.returncode is None:
                pool.terminate()
            await pool.wait()
            if drained is not None:
                await drained


def wrong_with(ears: Ears, turns: list[tuple[str, int]], poison: tuple[str, int] | None) -> Iterator[str]:
    """Everything that must not be: turns unanswered, answered twice or otherwise, condemned or out of order."""
    for session, n in turns:
        turn = f"{session}.{n}"
        replies = ears.replies.get(turn, [])
        if len(replies) != 1:
            yield f"{turn} has {len(replies)} replies: {[(r.id, r.kind, r.text) for r in replies]}"
            continue
        (reply,) = replies
        if (session, n) == poison:
            if (reply.kind, reply.metadata.get("reason")) != ("error", "poison"):
                yield f"the poison {turn} was answered: {reply}"
            continue
        # A dead turn leaves nothing in the conversation.
        place = n - 1 if poison and session == poison[0] and n > poison[1] else n
        if (reply.kind, reply.text, reply.seq) != ("final", f"{place}. {session} {n}", place):
            yield f"{turn} should be number {place}: {reply}"
    for reply_id, bodies in ears.bodies.items():
        if len(bodies) > 1:
            yield f"reply {reply_id} went out with different contents: {bodies}"
    expected = [f"{poison[0]}.{poison[1]}"] if poison else []
    if sorted({letter.turn_id for letter in ears.letters}) != expected:
        yield f"dead letters are {[(x.turn_id, x.reason, x.error) for x in ears.letters]}, not of {expected}"


async def main() -> None:
    """Play it, print the figures, and fail where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("amqp_url")
    parser.add_argument("redis_url")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--longest-s", type=float, default=1.0)
    parser.add_argument("--innocent", action="store_true", help="without the poison, to compare")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = await play(
            given.amqp_url,
            given.redis_url,
            f"load-{secrets.token_hex(4)}",
            Path(folder),
            sessions=given.sessions,
            longest_s=given.longest_s,
            poisoned=not given.innocent,
        )
    for name, value in asdict(outcome).items():
        print(f"{name:>14}: {value}")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    asyncio.run(main())
