"""Nothing is ever lost: whatever is not put back or thrown away is in the queue again, wherever a command stops."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from sdqueue.brokers import Message, RabbitMQBroker, SQLiteBroker
from sdqueue.brokers.memory import MemoryBroker
from sdqueue.brokers.rabbitmq.wire import ack_frame
from sdqueue.deadletters import DeadLetter, LetterFilter
from sdqueue.errors import BrokerUnavailable, PublishRejected
from tests.deadletters.office import Office, ids

NAMES = [f"t{n}" for n in range(6)]
Fault = Callable[[], Awaitable[None]]


async def refuse() -> None:
    raise PublishRejected("full")


async def fail() -> None:
    raise BrokerUnavailable("away")


async def cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def arm(office: Office, monkeypatch: pytest.MonkeyPatch, at: int, fault: Fault, *, after: bool) -> None:
    """Let the publish of this number meet a fault, before or after the broker has the message."""
    publish, count = office.broker.publish, 0

    async def faulty(exchange: str, routing_key: str, message: Message, **options: Any) -> None:
        nonlocal count
        count += 1
        if count - 1 == at and not after:
            await fault()
        await publish(exchange, routing_key, message, **options)
        if count - 1 == at and after:
            await fault()

    monkeypatch.setattr(office.broker, "publish", faulty)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fault", [refuse, fail, cancel])
@pytest.mark.parametrize("at", [0, 3, 5])
async def test_a_replay_that_stops_leaves_what_it_has_not_done(
    office: Office, monkeypatch: pytest.MonkeyPatch, at: int, fault: Fault, after: bool
) -> None:
    """And one that is repeated puts the rest back; a turn that was put back twice is marked as the same replay."""
    for n, name in enumerate(NAMES):
        await office.bury(name, minute=n)
    done: list[DeadLetter] = []
    with monkeypatch.context() as patch:
        arm(office, patch, at, fault, after=after)
        task = asyncio.create_task(office.letters.replay(LetterFilter(), on_done=done.append))
        await asyncio.wait({task})
    assert task.cancelled() or isinstance(task.exception(), (PublishRejected, BrokerUnavailable))
    assert ids(done) == NAMES[:at]
    assert await office.names() == NAMES[at:]

    assert ids((await office.letters.replay(LetterFilter())).letters) == NAMES[at:]
    back = await office.put_back()
    assert [message.message_id for message in back] == NAMES[: at + after] + NAMES[at:]
    assert {message.headers["sdqueue-replay"] for message in back} == {1}
    assert await office.names() == []


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_whenever_it_is_cancelled_every_letter_is_somewhere(office: Office, steps: int) -> None:
    """After so many steps of the event loop; the discarding first, and then the replaying, at the same moment."""
    for n, name in enumerate(NAMES):
        await office.bury(name, minute=n)
    thrown: list[DeadLetter] = []
    put: list[DeadLetter] = []
    for work in (
        office.letters.discard(LetterFilter(), limit=2, on_done=thrown.append),
        office.letters.replay(LetterFilter(), on_done=put.append),
    ):
        task = asyncio.create_task(work)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() or task.exception() is None
    left = await office.names()
    back = [message.message_id for message in await office.put_back()]
    assert {*left, *back, *ids(thrown)} == set(NAMES)
    assert set(ids(put)) <= set(back)
    assert not set(ids(thrown)) & {*left, *back}
    assert len(left) == len(set(left))


async def test_letters_of_a_lost_connection_are_left_alone(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the queue again, and may be in somebody else's hands."""
    for n, name in enumerate(NAMES):
        await office.bury(name, minute=n)

    async def lose() -> None:
        subscriptions = list(office.broker._subscriptions)  # type: ignore[attr-defined]  # every broker has them
        lose_all(office)
        async with asyncio.timeout(30):
            await asyncio.gather(*(subscription.wait_lost() for subscription in subscriptions))

    done: list[DeadLetter] = []
    with monkeypatch.context() as patch:
        arm(office, patch, 2, lose, after=True)
        with pytest.raises(BrokerUnavailable, match="lost while"):
            await office.letters.replay(LetterFilter(), on_done=done.append)
    assert ids(done) == NAMES[:3]
    assert [message.message_id for message in await office.put_back()] == NAMES[:3]
    assert set(NAMES[2:]) <= set(await office.names())


def lose_all(office: Office) -> None:
    """The broker ends every subscription of the one process."""
    match office.broker:
        case MemoryBroker() as broker:
            for subscription in list(broker._subscriptions):
                broker.server.lose(subscription)
        case RabbitMQBroker() as rabbitmq:
            for one in list(rabbitmq._subscriptions):
                channel = one._channel
                assert channel is not None
                channel.send(ack_frame(channel.number, 2**40, multiple=False))  # there is no such delivery
        case _:
            path = cast("SQLiteBroker", office.broker).path
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE broker_entries SET owner = NULL")
            connection.execute("DELETE FROM broker_subscriptions")
            connection.execute("UPDATE broker_meta SET epoch = epoch + 1")
            connection.execute("COMMIT")
            connection.close()
