"""Deliveries of which nobody knows whether they arrived."""

from __future__ import annotations

from typing import Any

import pytest
from sdqueue_producers import Ambiguous, Caps, Permanent

from sdqueue.channels import OnAmbiguous
from tests.producers.egress.world import World, made_up

LOST = Ambiguous("the connection was cut before anything was sent, but who knows")


@pytest.mark.parametrize(
    ("caps", "policy", "fault", "shown", "outcome"),
    [
        (Caps(can_find=True), "resend", "cut", ["one", "two"], "found"),
        (Caps(can_find=True), "resend", LOST, ["one", "two"], "absent"),
        (Caps(can_find=True), "drop", LOST, ["one", "two"], "absent"),
        (Caps(idempotent=True), "drop", "cut", ["one", "two"], "repeated"),
        (Caps(idempotent=True), "drop", LOST, ["one", "two"], "repeated"),
        (Caps(), "resend", "cut", ["one", "one", "two"], "resent"),
        (Caps(), "resend", LOST, ["one", "two"], "resent"),
        (Caps(), "drop", "cut", ["one", "two"], "dropped"),
        (Caps(), "drop", LOST, ["two"], "dropped"),
    ],
)
def test_what_becomes_of_it(caps: Caps, policy: str, fault: Any, shown: list[str], outcome: str) -> None:
    async def scenario() -> None:
        async with World(caps, recognises=caps.idempotent) as world:
            world.platform.faults.append(fault)
            await world.say.final("t1", "one")
            await world.say.final("t2", "two")
            async with world.egress(on_ambiguous=OnAmbiguous(policy)):
                await world.settled()
            assert world.platform.texts() == shown
            assert [event["outcome"] for event in world.notes.of("reply_ambiguous")] == [outcome]

    made_up(scenario)


def test_a_platform_that_indexes_late_is_asked_a_second_time() -> None:
    async def scenario() -> None:
        async with World(Caps(can_find=True), indexed_after=1) as world:
            world.platform.faults.append("cut")
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["one"]
            assert [kind for kind, _ in world.platform.calls] == ["deliver", "find", "find"]

    made_up(scenario)


def test_a_repeat_says_so_to_a_receiver_that_recognises_it() -> None:
    async def scenario() -> None:
        async with World(Caps(idempotent=True), recognises=True) as world:
            egress = world.egress()
            world.platform.faults.extend([LOST, LOST])
            await world.say.final("t1", "one")
            async with egress:
                await world.settled()
            sent = egress._channel.outgoings  # type: ignore[attr-defined]
            assert [(outgoing.key, outgoing.again) for outgoing in sent] == [
                ("t1:0", False),
                ("t1:0", True),
                ("t1:0", True),
            ]

    made_up(scenario)


def test_a_platform_that_does_not_tell_leaves_it_to_the_policy() -> None:
    async def scenario() -> None:
        async with World(Caps(can_find=True)) as world:
            world.platform.faults.extend(["cut", Permanent("no-scope", "it may not look")])
            await world.say.final("t1", "one")
            async with world.egress(on_ambiguous=OnAmbiguous.DROP):
                await world.settled()
            assert world.platform.texts() == ["one"]
            assert world.notes.count("reply_ambiguous", outcome="dropped") == 1

    made_up(scenario)


def test_a_call_that_does_not_end_is_ambiguous() -> None:
    async def scenario() -> None:
        async with World(Caps(can_find=True)) as world:
            world.platform.latency = 100.0
            await world.say.final("t1", "one")
            async with world.egress(call_timeout_s=20.0):
                await world.platform.until(lambda: ("find", "t1:0") in world.platform.calls)
                world.platform.latency = 0.0
                await world.settled()
            assert world.platform.texts() == ["one"]

    made_up(scenario)


def test_a_defect_of_a_channel_is_told_and_what_it_was_to_deliver_is_tried_again() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.platform.faults.extend([ZeroDivisionError("oops"), KeyError("ts")])
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
            assert world.platform.texts() == ["one"]
            assert [event["error"] for event in world.notes.of("channel_defect")] == [
                "ZeroDivisionError('oops')",
                "KeyError('ts')",
            ]
            assert "platform.py" in world.notes.of("channel_defect")[0]["trace"]

    made_up(scenario)
