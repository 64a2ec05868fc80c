"""``topology``: what is declared, shown and refused."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.cli.place import PATIENCE_S, Place, expect_line

pytestmark = pytest.mark.timeout(300)  # many processes begin, one after the other


async def test_topology_is_applied_and_shown(place: Place) -> None:
    missing = json.loads((await place.run("topology", "show", "--json")).out)
    assert (missing["complete"], missing["queues"]["sdqueue.turns.0000"]) == (False, None)

    applied = await place.run("topology", "apply")
    assert (applied.code, applied.out) == (
        0,
        "sdqueue: 4 partitions are declared on sqlite:///.sdqueue/broker.db\n",
    )
    assert (await place.run("topology", "apply")).code == 0
    await place.run("send", "a", "x")  # partition 3 of 4
    shown = json.loads((await place.run("topology", "show", "--json")).out)
    assert (shown["complete"], shown["queues"]["sdqueue.turns.0003"]) == (True, 1)
    table = await place.run("topology", "show")
    assert re.search(r"sdqueue\.turns\.0003 +1 *\n", table.out)
    assert "4 partitions, 3 of them empty" in table.out

    other = await place.run("topology", "apply", "--partitions", "8")
    assert other.code == 1
    assert "4 partitions" in other.err


async def test_owners_shows_who_has_which_queue(place: Place, amqp_url: str, redis_url: str, namespace: str) -> None:
    shared = ("--broker-url", amqp_url, "--namespace", namespace, "--store-url", redis_url)
    assert "0 consumers" in (await place.run("topology", "owners", *shared)).out
    assert json.loads((await place.run("topology", "owners", "--json", *shared)).out) == {"members": [], "queues": []}

    first = await place.start("consumer", "--name", "first", *shared)
    await expect_line(first, "ready: owner of 4 of 4 partitions, standby for 0")
    second = await place.start("consumer", "--name", "second", *shared)
    await expect_line(second, "ready: owner of 2 of 4 partitions, standby for 2")

    async with asyncio.timeout(PATIENCE_S):
        while True:
            shown = json.loads((await place.run("topology", "owners", "--json", *shared)).out)
            if all(set(q["subscribed"]) == {q["owner"], q["standby"]} for q in shown["queues"]):
                break
    assert [member.partition(".")[0] for member in shown["members"]] == ["first", "second"]
    names = [queue["queue"] for queue in shown["queues"]]
    assert names == [f"{namespace}.unrouted", *(f"{namespace}.turns.{p:04d}" for p in range(4))]
    owners = [queue["owner"] for queue in shown["queues"][1:]]
    assert sorted(owners.count(member) for member in shown["members"]) == [2, 2]

    table = (await place.run("topology", "owners", *shared)).out
    assert re.search(rf"{namespace}\.turns\.0003 +{owners[3]} ", table)
    assert f"2 consumers: {', '.join(shown['members'])}" in table


async def test_without_redis_there_are_no_owners_to_show(place: Place) -> None:
    refused = await place.run("topology", "owners")
    assert refused.code == 2
    assert "only consumers on Redis" in refused.err
