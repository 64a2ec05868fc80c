"""``topology reshard`` as people run it, without Redis and with."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.place import Place, expect_end, expect_line

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other


async def test_on_sqlite_consumers_are_stopped_and_go_on_in_order(place: Place) -> None:
    consumer = await place.consumer()
    refused = await place.run("topology", "reshard", "--partitions", "7")
    assert refused.code == 1
    assert "stop them and run the same command again" in refused.err
    assert (await place.run("send", "a", "my name is Ada", "--wait")).code == 0
    consumer.send_signal(signal.SIGTERM)
    await expect_end(consumer)

    await place.run("send", "a", "what is my name?", "--id", "t1")
    await place.run("send", "a", "second", "--id", "t2")
    done = await place.run("topology", "reshard", "--partitions", "7")
    assert done.code == 0, done.err
    assert "sdqueue: 7 partitions instead of 4\n2 turns were put aside" in done.out
    assert "SDQUEUE_PARTITIONS=7" in done.out
    assert "unbinding all keys" in done.err
    assert (await place.run("topology", "reshard", "--partitions", "7")).out == "sdqueue: has 7 partitions already\n"

    old = await place.run("send", "a", "x")
    assert old.code == 1
    assert "set SDQUEUE_PARTITIONS=7" in old.err
    new = ("--partitions", "7")
    consumer = await place.start("consumer", *new)
    await expect_line(consumer, "ready: 7 partitions")
    assert (await place.run("send", "a", "third", "--wait", *new)).out == "Message 4 of this session: third\n"
    assert (await place.run("send", "a", "", "--id", "t1", "--wait", *new)).out == "Your name is Ada.\n"
    assert (await place.run("send", "a", "", "--id", "t2", "--wait", *new)).out == "Message 3 of this session: second\n"


async def test_a_store_that_keeps_nothing_for_the_consumers_is_refused(place: Place) -> None:
    await place.run("topology", "apply")
    for url in ("memory://", "null://"):
        refused = await place.run("topology", "reshard", "--partitions", "7", "--store-url", url)
        assert refused.code == 2
        assert url in refused.err


async def test_consumers_on_redis_go_on_with_the_new_number_and_may_be_restarted_with_the_old(
    place: Place, amqp_url: str, redis_url: str, namespace: str
) -> None:
    broker = ("--broker-url", amqp_url, "--namespace", namespace)
    shared = (*broker, "--store-url", redis_url)
    first = await place.start("consumer", "--name", "first", *shared)
    await expect_line(first, "ready: owner of 4 of 4 partitions")
    done = await place.run("topology", "reshard", "--partitions", "6", "--json", *shared)
    assert done.code == 0, done.err
    assert {"before": 4, "after": 6, "resumed": False}.items() <= json.loads(done.out).items()

    six = (*broker, "--partitions", "6")
    assert (await place.run("send", "u", "hello", "--wait", *six)).out == "Message 1 of this session: hello\n"
    first.send_signal(signal.SIGTERM)
    assert first.stderr is not None
    assert "the number of partitions was changed" in (await first.stderr.read()).decode()
    await expect_end(first)

    again = await place.start("consumer", "--name", "again", *shared)
    await expect_line(again, "ready: owner of 6 of 6 partitions")
    owners = json.loads((await place.run("topology", "owners", "--json", *shared)).out)
    assert len(owners["queues"]) == 7
    assert (await place.run("send", "u", "hello", "--wait", *six)).out == "Message 2 of this session: hello\n"
    again.send_signal(signal.SIGTERM)
    assert again.stderr is not None
    assert "SDQUEUE_PARTITIONS is out of date" in (await again.stderr.read()).decode()
