"""The demo: three sessions, two consumers, and one of these killed in the middle of a turn.

Run it with ``make demo``. It uses the embedded backends in a temporary folder; no server and no network is needed.
The summary at the end is computed from what happened: from the turns that the broker confirmed, the replies that
came out, the sessions as they are stored, and the journal of the agents. The exit code is 0 only if it holds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sdqueue.backends import open_broker, opened_sessions
from sdqueue.brokers import Delivery
from sdqueue.client import Client
from sdqueue.messages import OutboundReply
from sdqueue.sessions import SessionStore
from sdqueue.settings import Settings

TIMEOUT_S = 50.0
CHANNEL = "demo"
EXAMPLES = Path(__file__).resolve().parent

SCRIPT = {
    "ada": [
        ("my name is Ada", "I will remember that your name is Ada."),
        ("my favourite colour is green", "I will remember that your favourite colour is green."),
        ("what is my name?", "Your name is Ada."),
        ("my favourite colour is red", "I will remember that your favourite colour is red."),
        ("what is my favourite colour?", "Your favourite colour is red."),
    ],
    "bob": [
        ("what is my name?", "You have not told me your name."),
        ("my name is Bob", "I will remember that your name is Bob."),
        ("what's my name?", "Your name is Bob."),
        ("what is my favourite colour?", "You have not told me your favourite colour."),
        ("what do you know about me?", "I know that your name is Bob."),
    ],
    "eve": [
        ("what do you know about me?", "You have not told me anything yet."),
        ("my dog is Rex", "I will remember that your dog is Rex."),
        ("hello", "Message 3 of this session: hello"),
        ("what is my dog?", "Your dog is Rex."),
        ("what is my name?", "You have not told me your name."),
    ],
}
"""What is said in each session, and what an agent that remembers it, and nothing of its neighbours, must answer."""

VICTIM = "ada-3"
"""The turn in the middle of which the consumer that runs it is killed."""


@dataclass
class Consumer:
    """A consumer process."""

    name: str
    process: asyncio.subprocess.Process


@dataclass
class Seen:
    """What happened."""

    sent: dict[str, list[str]] = field(default_factory=lambda: {session: [] for session in SCRIPT})
    replies: list[OutboundReply] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:5.1f} s  {text}", flush=True)

    def take(self, delivery: Delivery) -> None:
        reply = OutboundReply.decode(delivery.message.body)
        again = " (repeated, same id)" if any(r.id == reply.id for r in self.replies) else ""
        self.replies.append(reply)
        who = reply.metadata.get("consumer", "?")
        self.say(f"{reply.session_id} #{reply.seq}  consumer {who}: {reply.text}{again}")
        delivery.subscription.ack(delivery)
        self.changed.set()

    def unanswered(self) -> set[str]:
        return {turn for turns in self.sent.values() for turn in turns} - {r.turn_id for r in self.replies}


async def main() -> int:
    seen = Seen()
    with tempfile.TemporaryDirectory(prefix="sdqueue-demo-") as folder:
        data = Path(folder)
        settings = Settings.load(
            broker_url=f"sqlite:///{data / 'broker.db'}", store_url=f"sqlite:///{data / 'sessions.db'}", lock_url="",
            agent="thoughtful:make_agent", namespace="demo",
        )  # fmt: skip
        async with AsyncExitStack() as stack:
            consumers = [await start_consumer(stack, settings, data, name) for name in ("one", "two")]
            for consumer in consumers:
                await wait_ready(seen, consumer, data)
            broker = await stack.enter_async_context(open_broker(settings))
            client = await stack.enter_async_context(Client(broker))
            store, _ = await stack.enter_async_context(opened_sessions(settings))
            subscription = await broker.subscribe(await broker.declare_egress(CHANNEL), seen.take, prefetch=100)
            stack.push_async_callback(subscription.close)
            hit = asyncio.create_task(kill_in_the_middle(seen, consumers, data / "journal"))
            await asyncio.gather(*(converse(seen, client, session) for session in SCRIPT))
            await hit
            while seen.unanswered():
                seen.changed.clear()
                await seen.changed.wait()
            return 0 if await summarise(seen, store, data / "journal", hit.result()) else 1


async def start_consumer(stack: AsyncExitStack, settings: Settings, data: Path, name: str) -> Consumer:
    """Start ``sdqueue consumer`` as any deployment does: with settings in its environment."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("SDQUEUE_")},
        "SDQUEUE_BROKER_URL": settings.broker_url,
        "SDQUEUE_STORE_URL": settings.store_url,
        "SDQUEUE_NAMESPACE": settings.namespace,
        "SDQUEUE_PARTITIONS": str(settings.partitions),
        "SDQUEUE_AGENT": settings.agent,
        "DEMO_JOURNAL": str(data / "journal"),
        "DEMO_VICTIM": VICTIM,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(EXAMPLES), os.environ.get("PYTHONPATH")))),
    }
    with (data / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sdqueue.cli", "consumer", "--name", name,
            stdout=asyncio.subprocess.PIPE, stderr=log, env=environment, cwd=data,
        )  # fmt: skip
    stack.push_async_callback(end, process)
    return Consumer(name, process)


async def wait_ready(seen: Seen, consumer: Consumer, data: Path) -> None:
    assert consumer.process.stdout is not None
    line = (await consumer.process.stdout.readline()).decode().strip()
    if not line:
        raise RuntimeError(f"consumer {consumer.name} did not start:\n{(data / f'{consumer.name}.log').read_text()}")
    seen.say(f"{line} (process {consumer.process.pid})")


async def converse(seen: Seen, client: Client, session: str) -> None:
    """Say everything of a session at once, without waiting for answers: keeping the order is the queue's work."""
    for number, (text, _) in enumerate(SCRIPT[session], start=1):
        turn_id = await client.send(session, text, id=f"{session}-{number}", channel=CHANNEL)
        seen.sent[session].append(turn_id)


async def kill_in_the_middle(seen: Seen, consumers: list[Consumer], journal: Path) -> bool:
    """Kill the process that runs the chosen turn while it does. Returns whether it was hit in the middle."""
    # The journal is a file of other processes: there is no event to wait for.
    while not (begun := [pid for event, turn, pid in read(journal) if (event, turn) == ("started", VICTIM)]):  # noqa: ASYNC110 -- see above
        await asyncio.sleep(0.01)
    victim = next(c for c in consumers if c.process.pid == begun[0])
    victim.process.send_signal(signal.SIGKILL)
    await victim.process.wait()
    hit = ("ended", VICTIM, begun[0]) not in read(journal)
    where = "in the middle of" if hit else "too late for"
    seen.say(f"consumer {victim.name} was killed (SIGKILL, process {begun[0]}) {where} turn {VICTIM}")
    return hit


def read(journal: Path) -> list[tuple[str, str, int]]:
    if not journal.exists():
        return []
    lines = (line.split() for line in journal.read_text(encoding="utf-8").splitlines())
    return [(event, turn, int(pid)) for event, turn, pid in lines]


async def summarise(seen: Seen, store: SessionStore, journal: Path, hit: bool) -> bool:
    """Count what went wrong, from what was stored and what came out, and say it."""
    sent = [turn for turns in seen.sent.values() for turn in turns]
    answers: dict[str, dict[str, str]] = {}
    for reply in seen.replies:
        answers.setdefault(reply.turn_id, {})[reply.id] = reply.text
    lost = sum(turn not in answers for turn in sent)
    doubled = sum(len(replies) - 1 for replies in answers.values())
    disordered = wrong = 0
    for session, script in SCRIPT.items():
        record = await store.load(session)
        heard = [m.content for m in record.chat_ctx.items if m.role == "user"] if record else []
        said = [text for text, _ in script]
        lost += len(Counter(said) - Counter(heard))
        doubled += (Counter(heard) - Counter(said)).total()
        disordered += sum(a != b for a, b in zip(heard, said, strict=False))
        arrived = list(dict.fromkeys((r.seq, r.turn_id) for r in seen.replies if r.session_id == session))
        disordered += sum(a != b for a, b in zip(arrived, enumerate(seen.sent[session], start=1), strict=False))
        expected = {turn: answer for turn, (_, answer) in zip(seen.sent[session], script, strict=True)}
        wrong += sum(
            r.text != expected[r.turn_id] or r.kind != "final" for r in seen.replies if r.session_id == session
        )
    starts = Counter(turn for event, turn, _ in read(journal) if event == "started")
    again = [turn for turn, count in starts.items() if count > 1]
    print(
        f"\nturns sent {len(sent)}, replies {len(answers)}, lost {lost}, doubled {doubled}, out of order {disordered}\n"
        f"wrong answers {wrong}; started again after the kill: {', '.join(again) or 'none'}; "
        f"answered by {', '.join(sorted({str(r.metadata.get('consumer')) for r in seen.replies}))}"
    )
    holds = hit and len(answers) == len(sent) == sum(map(len, SCRIPT.values()))
    return holds and lost == doubled == disordered == wrong == 0


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(5):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


async def bounded() -> int:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await main()
    except TimeoutError:
        print(f"\nthe demo was not done within {TIMEOUT_S:g} s", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(bounded()))
