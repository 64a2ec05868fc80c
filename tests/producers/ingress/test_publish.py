"""Turns are confirmed by the broker before the platform is answered, in order, and each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sdqueue_producers import Caps, MemoryState, Receipt, Request
from sdqueue_producers.ingress import order

from sdqueue.brokers import Broker, Message, SQLiteBroker, Topology
from sdqueue.brokers.rabbitmq import RabbitMQBroker
from sdqueue.errors import BrokerError
from tests.producers.ingress.front import Chat, body, served, turn
from tests.producers.ingress.withholding import AwayState, Withholding

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def one(number: int | str, session: str = "s") -> dict[str, str]:
    return {"session": session, "id": str(number), "text": f"text {number}"}


@pytest.fixture(params=["memory", "sqlite", "rabbitmq"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> AsyncIterator[Broker | None]:
    topology = Topology(namespace, partitions=4)
    match request.param:
        case "memory":
            yield None
            return
        case "sqlite":
            broker: Broker = SQLiteBroker(topology, tmp_path / "broker.db")
        case _:
            broker = RabbitMQBroker(request.getfixturevalue("amqp_url"), topology)
    async with broker:
        await broker.apply()
        yield broker


async def test_a_request_becomes_turns_in_order_and_is_answered(broker: Broker | None) -> None:
    async with served(Chat(), broker=broker) as front:
        answer = await front.http.post("/chat", content=body(*(one(n) for n in range(20))))

        assert (answer.status_code, answer.text) == (200, "kept")
        got = await front.got(20)
        assert [turn.id for turn in got] == [str(n) for n in range(20)]
        assert (got[3].session_id, got[3].text, got[3].channel) == ("s", "text 3", "chat")
        assert [e["turn_id"] for e in front.seen.of("turn_published")] == [str(n) for n in range(20)]
        (answered,) = front.seen.of("request_answered")
        assert (answered["channel"], answered["status"], answered["reason"]) == ("chat", 200, "")


async def test_an_answer_is_kept_though_no_egress_has_run_yet(broker: Broker | None) -> None:
    """Given an ingress that is up before any egress of its channel has made the queue of replies, when a turn is
    answered at once, then the answer waits for the egress: the broker drops replies that no queue takes."""
    async with served(Chat(), broker=broker) as front:
        assert (await front.http.post("/chat", content=body(one(1)))).status_code == 200
        topology = front.broker.topology
        await front.broker.publish(topology.replies, "chat.final.0000", Message(b"{}"))
        queue = await front.broker.declare_egress("chat")
        assert (await front.broker.queue_state(queue)).depth == 1


async def test_nothing_is_sent_before_the_confirm() -> None:
    async with Withholding() as broker, served(Chat(), broker=broker, consume=False) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        said = body(one(1))
        writer.write(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

        # Given: the broker has the turn and has not said so
        await broker.taken.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await reader.read(1)
        assert not front.seen.events

        # When it confirms, then the answer goes out
        broker.confirm.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert [name for name, _ in front.seen.events] == ["turn_published", "request_answered"]
        writer.close()


async def test_without_a_confirm_the_platform_is_told_to_send_again_within_its_deadline() -> None:
    chat = Chat(Caps(ack_deadline_s=1.0))
    async with Withholding() as broker, served(chat, broker=broker, consume=False) as front:
        answer = await front.http.post("/chat", content=body(one(1)))

        assert (answer.status_code, answer.text) == (503, "again")
        assert all(0 < within_s <= 0.8 for within_s in broker.within_s)  # the rest is for the way of the answer
        assert [e["turn_id"] for e in front.seen.of("turn_unconfirmed")] == ["1"]
        assert front.seen.of("request_answered")[0]["reason"] == "unconfirmed"

        # When the platform sends it again, it is no repeat
        broker.confirm.set()
        assert (await front.http.post("/chat", content=body(one(1)))).status_code == 200
        assert broker.asked == ["1", "1"]


async def test_what_was_confirmed_before_a_failure_is_not_published_again() -> None:
    async with Withholding() as broker, served(Chat(), broker=broker) as front:
        broker.confirm.set()
        broker.refuse = {"2"}
        three = body(one(1), one(2), one(3))
        assert (await front.http.post("/chat", content=three)).status_code == 503
        assert broker.asked == ["1", "2"]

        broker.refuse = set()
        assert (await front.http.post("/chat", content=three)).status_code == 200
        assert broker.asked == ["1", "2", "2", "3"]
        assert [e["turn_id"] for e in front.seen.of("turn_repeated")] == ["1"]


async def test_a_client_that_goes_away_leaves_a_turn_that_is_published_and_remembered() -> None:
    async with Withholding() as broker, served(Chat(), broker=broker) as front:
        said = body(one(1))
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        await broker.taken.wait()
        writer.transport.abort()
        broker.confirm.set()

        await front.got(1)
        assert (await front.http.post("/chat", content=said)).status_code == 200
        assert broker.asked == ["1"]


async def test_a_repeat_is_answered_well_and_not_published(broker: Broker | None) -> None:
    async with served(Chat(), broker=broker) as front:
        for _ in range(4):
            assert (await front.http.post("/chat", content=body(one(1)))).text == "kept"
        await front.http.post("/chat", content=body(one(2)))
        assert [turn.id for turn in await front.got(2)] == ["1", "2"]
        assert len(front.seen.of("turn_repeated")) == 3


async def test_a_turn_known_by_an_alias_is_a_repeat() -> None:
    async with served(Chat()) as front:
        await front.http.post("/chat", content=body(one("a"), aliases=["client-1"]))
        answer = await front.http.post("/chat", content=body(one("b"), aliases=["client-1"]))
        assert answer.text == "kept"
        await front.http.post("/chat", content=body(one("client-1")))  # the id that was an alias
        assert [turn.id for turn in await front.got(1)] == ["a"]
        assert len(front.seen.of("turn_published")) == 1


async def test_two_copies_at_the_same_moment_become_one_turn() -> None:
    async with served(Chat()) as front:
        answers = await asyncio.gather(*(front.http.post("/chat", content=body(one(1))) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(front.seen.of("turn_published")) == 1


@pytest.mark.parametrize("hanging", [False, True])
async def test_a_state_that_is_away_neither_loses_nor_refuses_turns(hanging: bool) -> None:
    async with served(Chat(), state=AwayState(hanging=hanging)) as front:
        for n in (1, 2):
            assert (await front.http.post("/chat", content=body(one(n)))).status_code == 200
        assert [turn.id for turn in await front.got(2)] == ["1", "2"]
        assert {e["backend"] for e in front.seen.of("backend_away")} == {"state"}


async def test_turns_are_remembered_for_as_long_as_the_settings_say() -> None:
    now = 1000.0
    state = MemoryState(clock=lambda: now)
    async with served(Chat(), state=state) as front:
        await front.http.post("/chat", content=body(one(1)))
        assert await state.get(["chat:seen:1"]) == ["1"]
        now += 24 * 3600 + 1
        assert await state.get(["chat:seen:1"]) == [None]


async def test_requests_of_a_session_keep_the_order_in_which_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the first one's sender is looked up for longer."""
    monkeypatch.setattr(order, "LONGEST_WAIT_S", 30.0)
    chat, looking, slow = Chat(), asyncio.Event(), asyncio.Event()

    async def before(request: Request) -> None:
        if b'"0"' in request.body:
            looking.set()
            await slow.wait()

    chat.before = before
    async with served(chat) as front:
        posts = [asyncio.create_task(front.http.post("/chat", content=body(one(0))))]
        await looking.wait()
        for n in range(1, 10):
            posts.append(asyncio.create_task(front.http.post("/chat", content=body(one(n)))))
            while len(chat.requests) <= n:
                await asyncio.sleep(0.001)
        slow.set()
        await asyncio.gather(*posts)
        assert [turn.id for turn in await front.got(10)] == [str(n) for n in range(10)]


async def test_a_lookup_that_hangs_holds_up_others_for_a_moment_only() -> None:
    chat, looking = Chat(), asyncio.Event()

    async def before(request: Request) -> None:
        if b"hang" in request.body:
            looking.set()
            await asyncio.Event().wait()

    chat.before = before
    async with served(chat, grace_s=0) as front:
        hanging = asyncio.create_task(front.http.post("/chat", content=body(one("hang"))))
        await looking.wait()
        assert (await front.http.post("/chat", content=body(one(1)))).status_code == 200
        assert not hanging.done()
        hanging.cancel()


async def test_sessions_do_not_wait_for_each_other() -> None:
    async with Withholding() as broker, served(Chat(), broker=broker, consume=False) as front:
        posts = [asyncio.create_task(front.http.post("/chat", content=body(one(n, f"s{n}")))) for n in range(5)]
        async with asyncio.timeout(30):
            while len(broker.asked) < 5:
                await asyncio.sleep(0.001)
        broker.confirm.set()
        assert {p.status_code for p in await asyncio.gather(*posts)} == {200}


async def test_a_turn_behind_one_that_is_not_confirmed_is_not_published_before_it() -> None:
    chat = Chat()
    async with Withholding() as broker, served(chat, broker=broker, consume=False) as front:
        first = asyncio.create_task(front.http.post("/chat", content=body(one(1))))
        await broker.taken.wait()
        second = asyncio.create_task(front.http.post("/chat", content=body(one(2))))
        while len(chat.requests) < 2:
            await asyncio.sleep(0.001)
        assert broker.asked == ["1"]
        broker.give_up.set()
        assert {(await first).status_code, (await second).status_code} == {503}


async def test_the_trace_context_of_a_request_travels_with_its_turns() -> None:
    async with served(Chat()) as front:
        headers = {"traceparent": PARENT, "tracestate": "a=b"}
        await front.http.post("/chat", content=body(one(1)), headers=headers)
        for n, wrong in enumerate(
            ["", "00-0-0-01", PARENT.replace("0af7", "xxxx"), PARENT + "-more", "ff" + PARENT[2:]]
        ):
            await front.http.post(
                "/chat", content=body(one(f"w{n}")), headers={"traceparent": wrong, "tracestate": "a=b"}
            )
        await front.got(6)
        assert dict(front.deliveries[0].message.headers) == {"traceparent": PARENT, "tracestate": "a=b"}
        assert [dict(d.message.headers) for d in front.deliveries[1:]] == [{}] * 5


async def test_a_receipt_without_a_request_takes_the_same_way() -> None:
    async with served(Chat()) as front:
        await front.ingress.submit(Receipt((turn(id="1"), turn(id="2"))))
        await front.ingress.submit(Receipt((turn(id="1"),)))
        await front.ingress.submit(Receipt())
        assert [t.id for t in await front.got(2)] == ["1", "2"]
        assert len(front.seen.of("turn_repeated")) == 1
        with pytest.raises(ValueError, match="channel 'other', which is not served"):
            await front.ingress.submit(Receipt((turn(id="3", channel="other"),)))


async def test_a_receipt_that_is_not_confirmed_raises() -> None:
    chat = Chat(Caps(ack_deadline_s=0.2))
    async with Withholding() as broker, served(chat, broker=broker, consume=False) as front:
        with pytest.raises(BrokerError):
            await front.ingress.submit(Receipt((turn(),)))
        broker.refuse = {"1"}
        with pytest.raises(BrokerError):
            await front.ingress.submit(Receipt((turn(),)))
