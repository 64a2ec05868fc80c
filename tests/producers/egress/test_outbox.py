"""The outbox: what waits long, whoever tries it again, and backends that are away meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sdqueue_producers import Ambiguous, Bucket, Caps, Permanent, RetryAfter

from sdqueue.errors import BrokerUnavailable, StoreUnavailable
from tests.producers.egress.platform import server_error
from tests.producers.egress.test_crashes import at_every_step
from tests.producers.egress.world import World, made_up


def test_a_process_may_die_at_every_step_with_replies_in_the_outbox() -> None:
    async def talk(world: World) -> None:
        world.platform.faults.append(RetryAfter(100, "HTTP 429"))
        for number in range(4):
            await world.say.final(f"t{number}", f"{number}")
        await asyncio.sleep(150)
        await world.say.final("t4", "4")

    def check(world: World) -> None:
        assert world.platform.texts() == ["0", "1", "2", "3", "4"]
        assert not world.state._outbox

    assert at_every_step(Caps(can_find=True), check, talk=talk) > 60


def test_two_processes_share_the_outbox_and_each_session_is_in_order() -> None:
    async def scenario() -> None:
        async with World(buckets=(Bucket("post:{address}", 5, 5.0),)) as world:
            world.platform.latency = 0.5
            for number in range(20):
                for session in "abcd":
                    await world.say.final(f"{session}{number}", f"{number}", session)
            world.platform.faults.extend(RetryAfter(70, "HTTP 429") for _ in range(4))
            async with world.egress(), world.egress():
                await asyncio.sleep(60)
                for session in "abcd":
                    await world.say.final(f"{session}20", "20", session)
                await world.settled()
            for session in "abcd":
                assert world.platform.texts(session) == [str(number) for number in range(21)]
            assert world.platform.most_in_flight == 1
            assert world.platform.most_busy == 4

    made_up(scenario)


def test_a_reply_of_a_session_that_waits_is_put_behind_though_the_platform_is_well_again() -> None:
    async def scenario() -> None:
        async with World() as world, world.egress():
            world.platform.faults.append(RetryAfter(1000, "HTTP 429"))
            await world.say.final("t1", "one")
            await asyncio.sleep(500)
            await world.say.final("t2", "two")
            await world.say.final("t3", "other", "other")
            await world.settled()
            assert world.platform.texts() == ["other", "one", "two"]

    made_up(scenario)


def test_a_rate_limit_that_was_hit_holds_all_who_share_it_and_nobody_else() -> None:
    async def scenario() -> None:
        async with World(buckets=(Bucket("workspace", 1000, 1.0), Bucket("post:{address}", 1000, 1.0))) as world:
            world.platform.faults.append(RetryAfter(30, "HTTP 429", bucket="post:a"))
            async with world.egress():
                began = world.clock()
                await world.say.final("t1", "one", "s1", address="a")
                await asyncio.sleep(1)
                await world.say.final("t2", "two", "s2", address="a")
                await world.say.final("t3", "three", "s3", address="b")
                await world.platform.until(lambda: world.platform.texts("b") == ["three"])
                assert world.clock() - began < 2
                await world.settled()
                assert world.clock() - began >= 30
            calls = [name for kind, name in world.platform.calls]
            assert calls[:2] == ["t1:0", "t3:0"]
            assert len(calls) == 4, "nobody has tried in vain"

    made_up(scenario)


class Away:
    """A backend that cannot be reached for a while."""

    def __init__(self, inner: Any, error: Exception, *names: str) -> None:
        self._inner, self._error, self._names = inner, error, names
        self.away = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def call(*args: Any, **named: Any) -> Any:
            if self.away:
                self.refused += 1
                raise self._error
            return await found(*args, **named)

        return call


def test_nothing_is_acknowledged_while_the_state_is_away_and_it_goes_on_by_itself() -> None:
    async def scenario() -> None:
        async with World() as world:
            inner = world.state
            names = ("get", "set", "add", "delete", "take", "parked", "park", "due", "unpark", "postpone")
            world.state = away = Away(inner, StoreUnavailable("no Redis"), *names)
            await world.say.final("t1", "one")
            async with world.egress():
                await world.settled()
                away.away = True
                await world.say.final("t2", "two")
                await asyncio.sleep(60)
                found = world.server._queue("t.replies.fake")
                assert [len(subscription._unacked) for subscription in found.subscriptions] == [1]
                assert world.platform.texts() == ["one"]
                assert world.notes.count("backend_away", backend="state") > 3
                away.away = False
                await world.settled()
            assert world.platform.texts() == ["one", "two"]

    made_up(scenario)


def test_a_letter_waits_for_a_broker_that_is_away() -> None:
    async def scenario() -> None:
        async with World() as world:
            inner = world.broker
            world.broker = away = Away(inner, BrokerUnavailable("no broker"), "publish")  # type: ignore[assignment]
            world.platform.faults.append(Permanent("gone", "gone"))
            await world.say.final("t1", "one")
            async with world.egress():
                away.away = True
                await asyncio.sleep(60)
                assert world.notes.count("backend_away", backend="broker") > 3
                away.away = False
                await world.settled()
            world.broker = inner
            assert [letter.name for letter in await world.letters()] == ["t1:0"]

    made_up(scenario)


def test_a_queue_that_cannot_be_had_is_asked_for_again() -> None:
    async def scenario() -> None:
        async with World() as world:
            inner = world.broker
            world.broker = away = Away(inner, BrokerUnavailable("no broker"), "subscribe")  # type: ignore[assignment]
            away.away = True
            async with world.egress():
                await world.say.final("t1", "one")
                await asyncio.sleep(60)
                assert world.notes.count("queue_lost", reason="no broker") > 3
                away.away = False
                await world.settled()
            assert world.platform.texts() == ["one"]

    made_up(scenario)


def test_an_observer_that_fails_surfaces() -> None:
    async def scenario() -> None:
        async with World() as world:
            egress = world.egress()

            class Broken:
                def __getattr__(self, name: str) -> Any:
                    def tell(**event: Any) -> None:
                        if name == "reply_delivered":
                            raise ZeroDivisionError("a bug")

                    return tell

            egress._observer = Broken()  # type: ignore[assignment]
            await world.say.final("t1", "one")
            async with egress:
                try:
                    await egress.wait_failed()
                except ZeroDivisionError:
                    return
            raise AssertionError("it did not")

    made_up(scenario)


FAULTS = st.sampled_from(["none", "none", "none", "500", "429", "long", "cut", "lost", "gone", "defect"])


def fault_of(word: str) -> Any:
    return {
        "500": server_error(),
        "429": RetryAfter(3, "HTTP 429", bucket="post:a"),
        "long": RetryAfter(200, "HTTP 429"),
        "cut": "cut",
        "lost": Ambiguous("?"),
        "gone": Permanent("gone", "gone"),
        "defect": ValueError("oops"),
    }.get(word)


@given(
    st.lists(FAULTS, max_size=40),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.3, 40.0])), min_size=1, max_size=15),
    st.lists(st.floats(0.0, 200.0), max_size=3),
    st.sampled_from(["find", "recognise"]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_fails_every_reply_is_shown_once_in_order_or_has_a_letter(
    faults: list[str], turns: list[tuple[str, float]], losses: list[float], kind: str
) -> None:
    """Failures at random, subscriptions lost at random, and processes that come and go."""

    async def scenario() -> None:
        recognises = kind == "recognise"
        caps = Caps(max_chars=10, idempotent=recognises, can_find=not recognises)
        async with World(caps, recognises=recognises, buckets=(Bucket("post:{address}", 3, 3.0),)) as world:
            world.platform.faults.extend(fault_of(word) for word in faults)
            world.platform.latency = 0.1

            async def lose() -> None:
                for wait in losses:
                    await asyncio.sleep(wait)
                    found = world.server._queue("t.replies.fake").subscriptions
                    if found:
                        world.server.lose(found[0])

            async with world.egress(), world.egress():
                trouble = asyncio.create_task(lose())
                for number, (session, pause) in enumerate(turns):
                    await world.say.final(f"t{number}", f"part {number:03}\n\nrest {number:03}", session)
                    await asyncio.sleep(pause)
                await trouble
                await world.settled()
            # A platform that says "gone" when it is asked for a message leaves it to the policy: to send again.
            unsure = world.notes.count("reply_ambiguous", outcome="resent")
            doubled = 0
            dead = {letter.name.partition(":")[0] for letter in await world.letters()}
            for session in "abc":
                numbers = [number for number, (whose, _) in enumerate(turns) if whose == session]
                texts = list(dict.fromkeys(world.platform.texts(session)))
                doubled += len(world.platform.texts(session)) - len(texts)
                expected = [
                    f"{part} {number:03}" for number in numbers if f"t{number}" not in dead for part in ("part", "rest")
                ]
                living = [text for text in texts if f"t{int(text[-3:])}" not in dead]
                assert living == expected
                assert [text[-3:] for text in texts] == sorted(text[-3:] for text in texts)
            assert doubled <= unsure

    made_up(scenario)


def test_sessions_whose_platform_hangs_leave_room_for_those_whose_platform_answers() -> None:
    """Given more sessions in the outbox than calls may be under way, all of an address that never answers."""

    async def scenario() -> None:
        async with World() as world, world.egress(parallel=4) as egress:

            async def hold(kind: str, address: str) -> None:
                if address == "hanging":
                    await asyncio.Event().wait()

            world.platform.faults.extend(RetryAfter(100, "HTTP 503") for _ in range(20))
            for number in range(20):
                await world.say.final(f"t{number}", "one", f"s{number}", address="hanging")
            await world.platform.until(lambda: len(world.platform.calls) == 20)
            world.platform.hold = hold
            await asyncio.sleep(130)
            assert egress._outbox._working
            for number in range(10):
                began = world.clock()
                await world.say.final(f"u{number}", f"{number}", "other")
                await world.platform.until(lambda number=number: len(world.platform.texts("other")) > number)
                assert world.clock() - began < 2
                await asyncio.sleep(20)

    made_up(scenario)
