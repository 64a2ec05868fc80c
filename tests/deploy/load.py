"""A load on a deployment, from inside of it: ``python -m tests.deploy.load``, in a container with its settings.

Sends the turns of many sessions by raw AMQP until standard input ends, waits for the answer to each, and prints what
was sent and what came as one line of JSON. Before that, a line with a number whenever so many turns are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from sdqueue.settings import Settings
from tests.chaos.plan import Load, Plan
from tests.chaos.producer import Producer, quiet
from tests.chaos.receiver import Receiver

NOTHING_UNUSUAL = {"flaky": 0.0, "anonymous": 0.0, "malformed": 0.0}


async def main() -> None:
    """Send, wait and print."""
    parser = argparse.ArgumentParser(description="Put a load on a deployment.")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--rate", type=float, default=60.0, help="turns a second, all sessions together")
    parser.add_argument("--seconds", type=float, default=300.0, help="of load at most")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds to wait for the last answers")
    given = parser.parse_args()
    quiet()
    settings = Settings.load()
    load = Load(given.sessions, given.rate, given.seconds, think_s=(0.05, 0.5), duplicates=0.05, **NOTHING_UNUSUAL)
    plan = Plan(load, partitions=settings.partitions, seed=1)
    receiver = Receiver([settings.broker_url], settings.namespace)
    producer = Producer([settings.broker_url], settings.namespace, plan)
    await receiver.open()
    sending = asyncio.create_task(producer.run())
    telling = asyncio.create_task(_tell(receiver))
    await asyncio.to_thread(sys.stdin.read)
    telling.cancel()
    producer.finish()
    ended_at = time.monotonic()
    await sending
    await _answered(receiver, {sent.mark for sent in producer.sent}, given.patience)
    await receiver.close()
    evidence = {
        "sent": [(sent.session, sent.mark, sent.confirmed_at) for sent in producer.sent],
        "replies": [(reply.mark, reply.id, reply.kind, reply.run, reply.at) for reply in receiver.replies],
        "letters": [letter.mark for letter in receiver.letters],
        "seconds": round(ended_at - producer.started_at, 1),
        "behind_s": round(time.monotonic() - ended_at, 1),
    }
    print(json.dumps(evidence), flush=True)


async def _tell(receiver: Receiver) -> None:
    told = 0
    while True:
        await receiver.changed.wait()
        receiver.changed.clear()
        if len(receiver.answered) >= told + 10:
            told = len(receiver.answered)
            print(told, flush=True)


async def _answered(receiver: Receiver, marks: set[str], patience: float) -> None:
    """Wait for an answer to each; what has none by then is lost, which is for the test to say."""
    deadline = time.monotonic() + patience
    while not marks <= receiver.answered and time.monotonic() < deadline:
        receiver.changed.clear()
        try:
            await asyncio.wait_for(receiver.changed.wait(), 1)
        except TimeoutError:
            continue


if __name__ == "__main__":
    asyncio.run(main())
