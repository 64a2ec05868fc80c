"""A conversation in which every turn has a process of its own, through RabbitMQ and Redis.

Each process is forked from one that has only imported what it needs, takes the turns that it is told to expect, and
ends. So none of them has seen anything of the conversation but what the one before it has saved.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, Final

from sdqueue.agents import load_agent_factory
from sdqueue.backends import open_broker, open_membership, opened_sessions
from sdqueue.client import Client
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.messages import OutboundReply
from sdqueue.observe import Observer
from sdqueue.sessions import InMemorySessionStore, SessionRecord, SessionWorker
from sdqueue.settings import Settings
from tests.nursery import NURSERY

SESSION: Final = "s"
PARTITIONS: Final = 1
PATIENCE_S: Final = 100.0
"""Seconds for a turn in a process of its own; the first one waits for all imports of all such processes."""


@dataclass(frozen=True)
class Said:
    """What came of a turn: its final text and metadata, and what its deltas said together where it was streamed.

    Not each by itself: a consumer joins those that come quickly.
    """

    text: str
    metadata: Mapping[str, Any]
    deltas: str = ""


@dataclass(frozen=True)
class Script:
    """A conversation.

    Parameters:
        texts: what the customer says.
        notes: by the number of a turn, from 1, what the agent is told before it.
        streamed: numbers of turns whose answers come in pieces.
    """

    texts: Sequence[str]
    notes: Mapping[int, str] = field(default_factory=dict)
    streamed: frozenset[int] = frozenset()


async def in_one_process(script: Script, agent: str) -> tuple[list[Said], SessionRecord]:
    """The conversation with one agent, which stays in memory from the first to the last turn.

    Parameters:
        script: what is said.
        agent: the name of its factory, as ``--agent`` takes it.

    Returns:
        The answers, and what is saved in the end.
    """
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=load_agent_factory(agent), store=store)
    answers = []
    for number, text in enumerate(script.texts, 1):
        async with worker.acquire(SESSION) as handle:
            if note := script.notes.get(number):
                handle.assist(note)
            if number not in script.streamed:
                result = await handle.turn(text)
                answers.append(Said(result.text, _lasting(result.metadata)))
                continue
            chunks = [chunk async for chunk in await handle.turn(text, stream=True)]
            deltas = "".join(chunk.text or "" for chunk in chunks)
            turn = next((chunk.turn for chunk in chunks if chunk.turn is not None), None)
            answers.append(
                Said(deltas, {}, deltas) if turn is None else Said(turn.text, _lasting(turn.metadata), deltas)
            )
    record = await store.load(SESSION)
    assert record is not None
    return answers, record


async def in_many_processes(
    script: Script, agent: str, *, amqp_url: str, redis_url: str, namespace: str
) -> tuple[list[Said], SessionRecord]:
    """The same conversation, with a process for every turn and for every note.

    Parameters:
        script: what is said.
        agent: the name of its factory.
        amqp_url, redis_url: the servers.
        namespace: all names of the conversation in them begin with this.

    Returns:
        The answers, and what is stored in the end.
    """
    settings = Settings.load(
        broker_url=amqp_url, store_url=redis_url, namespace=namespace, partitions=PARTITIONS, agent=agent, prefetch=1
    )
    async with opened_sessions(settings) as (store, _), open_broker(settings) as broker:
        await broker.apply()
        replies: list[list[OutboundReply]] = []
        async with Client.from_settings(settings) as client:
            for number, text in enumerate(script.texts, 1):
                if note := script.notes.get(number):
                    await client.send(SESSION, note, kind="assist")
                    await _taken(settings)
                async with asyncio.TaskGroup() as both:
                    asked = both.create_task(_ask(client, text, number in script.streamed))
                    both.create_task(_taken(settings))
                replies.append(asked.result())
        record = await store.load(SESSION)
        assert record is not None
    assert len({final.metadata["consumer"] for *_, final in replies}) == len(replies), "a process took two turns"
    return [_said(some) for some in replies], record


async def _ask(client: Client, text: str, stream: bool) -> list[OutboundReply]:
    if stream:
        return [reply async for reply in client.stream(SESSION, text, timeout=PATIENCE_S)]
    return [await client.ask(SESSION, text, timeout=PATIENCE_S)]


def _said(replies: list[OutboundReply]) -> Said:
    *deltas, final = replies
    assert [reply.kind for reply in replies] == ["delta"] * len(deltas) + ["final"]
    return Said(final.text, _lasting(final.metadata), "".join(reply.text for reply in deltas))


def _lasting(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run: how long it took, and who answered."""
    return {name: value for name, value in metadata.items() if name not in ("latency_ms", "consumer")}


async def _taken(settings: Settings) -> None:
    """Let a new process take one turn."""
    given = {name: getattr(settings, name) for name in Settings.model_fields if settings.origin(name) == "argument"}
    process: BaseProcess = NURSERY.Process(target=take_one_turn, args=(json.dumps(given), dict(os.environ)))
    process.start()
    try:
        await asyncio.to_thread(process.join, PATIENCE_S)
        assert process.exitcode == 0, f"the process of the turn ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
        process.close()


def take_one_turn(given: str, environ: Mapping[str, str]) -> None:
    """Be a consumer until a turn is settled. Runs in a process of its own."""
    os.environ.clear()
    os.environ.update(environ)
    asyncio.run(_serve(Settings.load(**json.loads(given))))


class _Once(Observer):
    def __init__(self) -> None:
        self.settled: list[str] = []
        self.stop = lambda: None

    def turn_settled(self, *, state: str, **_: Any) -> None:
        self.settled.append(state)
        self.stop()


async def _serve(settings: Settings) -> None:
    once = _Once()
    async with opened_sessions(settings) as (store, locks), open_broker(settings) as broker:
        worker = SessionWorker(agent_factory=load_agent_factory(settings.agent), store=store, lock_backend=locks)
        options = ConsumerOptions.from_settings(settings)
        consumer = Consumer(
            broker, worker, options, observer=once, membership=open_membership(settings, name=options.name)
        )
        once.stop = consumer.stop
        await consumer.run()
    assert once.settled == ["completed"], once.settled
