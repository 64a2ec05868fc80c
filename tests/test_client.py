"""The client: send, ask and stream; over a broker that loses, repeats and goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from sdqueue.agents import MemoAgent
from sdqueue.brokers import Delivery, MemoryBroker, MemoryServer, Message, OnDelivery, Topology
from sdqueue.brokers.memory import MemorySubscription
from sdqueue.client import Client
from sdqueue.consumer import Consumer
from sdqueue.errors import (
    BrokerUnavailable,
    ConfigurationError,
    InvalidTurn,
    ReplyError,
    ReplyTimeout,
    TopologyMissing,
    TurnFailed,
)
from sdqueue.messages import InboundTurn, OutboundReply, ReplyKind
from sdqueue.sessions import SessionWorker
from sdqueue.settings import Settings
from tests.simulation.loop import VirtualLoop

TOPOLOGY = Topology("client", partitions=4)


class Watched(MemoryBroker):
    """A broker that remembers its private reply queues, and does what a test wants before it confirms."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(TOPOLOGY, server)
        self.reply_queues: list[MemorySubscription] = []
        self.checks = 0
        self.before_confirm: Callable[[Message], Awaitable[None]] | None = None

    async def check(self, *, timeout: float = 10.0) -> None:
        self.checks += 1
        await super().check(timeout=timeout)

    async def subscribe_replies(self, on_delivery: OnDelivery, *, timeout: float = 10.0) -> MemorySubscription:
        subscription = await super().subscribe_replies(on_delivery, timeout=timeout)
        self.reply_queues.append(subscription)
        return subscription

    async def publish(self, exchange: str, routing_key: str, message: Message, *, timeout: float = 10.0) -> None:
        await super().publish(exchange, routing_key, message, timeout=timeout)
        if self.before_confirm is not None:
            await self.before_confirm(message)


class Pool:
    """Stands in for consumers: takes the turns, and answers when the test says so."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.arrived: asyncio.Queue[tuple[InboundTurn, Delivery]] = asyncio.Queue()

    async def start(self) -> None:
        for partition in range(TOPOLOGY.partitions):
            await self.broker.subscribe(TOPOLOGY.partition_queue(partition), self._take, prefetch=100)

    def _take(self, delivery: Delivery) -> None:
        turn = InboundTurn.decode(delivery.message.body, message_id=delivery.message.message_id)
        delivery.subscription.ack(delivery)
        self.arrived.put_nowait((turn, delivery))

    async def next(self) -> tuple[InboundTurn, Delivery]:
        async with asyncio.timeout(60):
            return await self.arrived.get()

    async def reply(
        self, turn: InboundTurn, delivery: Delivery, text: str, *, kind: ReplyKind = "final", part: str = "0"
    ) -> None:
        metadata: dict[str, JsonValue] = {}
        body = OutboundReply(
            id=f"{turn.id}:{part}", turn_id=turn.id or "", session_id=turn.session_id, seq=1, kind=kind, text=text,
            metadata=metadata,
        ).to_bytes()  # fmt: skip
        assert delivery.message.reply_to
        await self.broker.publish(
            "", delivery.message.reply_to, Message(body, message_id=f"{turn.id}:{part}", correlation_id=turn.id)
        )


@pytest.fixture
async def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
async def broker(server: MemoryServer) -> AsyncIterator[Watched]:
    async with Watched(server) as broker:
        await broker.apply()
        yield broker


@pytest.fixture
async def pool(server: MemoryServer, broker: Watched) -> AsyncIterator[Pool]:
    async with MemoryBroker(TOPOLOGY, server) as other:
        pool = Pool(other)
        await pool.start()
        yield pool


@pytest.fixture
async def client(broker: Watched) -> AsyncIterator[Client]:
    async with Client(broker) as client:
        yield client
        assert client._questions == {}, "a question was left behind"


async def test_send_returns_the_id_of_a_turn_that_the_broker_has(client: Client, pool: Pool) -> None:
    before = datetime.now(UTC)

    turn_id = await client.send("user-42", "hello")

    turn, delivery = await pool.next()
    assert turn.id == delivery.message.message_id == turn_id
    assert (turn.session_id, turn.text, turn.kind, turn.stream) == ("user-42", "hello", "message", False)
    assert turn.created_at is not None
    assert before <= turn.created_at <= datetime.now(UTC)
    assert delivery.message.reply_to is None
    assert delivery.queue == "client.turns.0003"


async def test_everything_that_a_turn_may_carry_arrives(client: Client, pool: Pool) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await client.send(
        "a", "x", id="t1", channel="slack", address={"thread": 7}, sender="U1", kind="assist", metadata={"k": [1]},
        deadline_s=2.5, stream=True, headers={"traceparent": trace},
    )  # fmt: skip

    turn, delivery = await pool.next()
    assert turn.model_dump(exclude={"created_at"}) == {
        "session_id": "a", "text": "x", "id": "t1", "channel": "slack", "address": {"thread": 7}, "sender": "U1",
        "kind": "assist", "metadata": {"k": [1]}, "stream": True, "deadline_s": 2.5,
    }  # fmt: skip
    assert delivery.message.headers["traceparent"] == trace


async def test_many_questions_at_once_each_get_their_own_answer(client: Client, pool: Pool, broker: Watched) -> None:
    async def answer_backwards() -> None:
        arrived = [await pool.next() for _ in range(50)]
        for turn, delivery in reversed(arrived):
            await pool.reply(turn, delivery, f"re {turn.text}")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer_backwards())
        asked = [tasks.create_task(client.ask(f"s{i % 7}", f"m{i}", timeout=60)) for i in range(50)]

    assert [task.result().text for task in asked] == [f"re m{i}" for i in range(50)]
    assert (len(broker.reply_queues), broker.checks) == (1, 1)


async def test_an_error_reply_is_raised_or_returned(client: Client, pool: Pool) -> None:
    async def fail() -> None:
        await pool.reply(*await pool.next(), "the agent failed", kind="error")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        with pytest.raises(TurnFailed, match="the agent failed") as raised:
            await client.ask("a", "x", timeout=60)
    assert raised.value.reply.kind == "error"
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        assert (await client.ask("a", "x", timeout=60, raise_on_error=False)).text == "the agent failed"


async def test_a_stream_gives_each_delta_once_and_ends_with_the_final_reply(client: Client, pool: Pool) -> None:
    async def answer() -> None:
        turn, delivery = await pool.next()
        assert turn.stream
        for part, text in (("0.1.0", "one "), ("0.1.0", "one "), ("0.1.1", "two")):
            await pool.reply(turn, delivery, text, kind="delta", part=part)
        await pool.reply(turn, delivery, "one two")
        await pool.reply(turn, delivery, "one two")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer())
        replies = [(r.kind, r.text) async for r in client.stream("a", "x", timeout=60)]

    assert replies == [("delta", "one "), ("delta", "two"), ("final", "one two")]


def test_a_stream_may_take_longer_than_its_timeout_but_not_be_silent_so_long() -> None:
    """``timeout`` is the longest silence: six pieces, each well within it, take longer than it together."""
    told: list[str] = []
    loop = VirtualLoop()

    async def scenario() -> None:
        async with MemoryBroker(TOPOLOGY) as broker, Client(broker) as client:
            await broker.apply()
            pool = Pool(broker)
            await pool.start()

            async def answer() -> None:
                turn, delivery = await pool.next()
                for n in range(6):
                    await asyncio.sleep(0.5)
                    await pool.reply(turn, delivery, str(n), kind="delta", part=f"0.1.{n}")

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(answer())
                with pytest.raises(ReplyTimeout, match=r"within 0\.6 s"):  # noqa: PT012 -- it is raised while iterating
                    async for reply in client.stream("a", "x", timeout=0.6):
                        told.append(reply.text)

    began = loop.time()
    loop.run_until_complete(scenario())
    assert told == list("012345")
    assert loop.time() - began == pytest.approx(6 * 0.5 + 0.6)


async def test_leaving_a_stream_early_forgets_the_question(client: Client, pool: Pool) -> None:
    async def answer() -> None:
        turn, delivery = await pool.next()
        await pool.reply(turn, delivery, "one", kind="delta", part="0.1.0")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer())
        replies = client.stream("a", "x", timeout=60)
        async for reply in replies:
            assert reply.text == "one"
            break
        await replies.aclose()

    assert client._questions == {}


async def test_no_answer_is_a_timeout_that_names_the_turn(client: Client, pool: Pool) -> None:
    with pytest.raises(ReplyTimeout, match="id='t7'") as raised:
        await client.ask("a", "x", id="t7", timeout=0.05)
    assert raised.value.turn_id == "t7"
    assert client._questions == {}


async def test_a_cancelled_question_leaves_nothing_behind_and_disturbs_nobody(client: Client, pool: Pool) -> None:
    given_up = asyncio.create_task(client.ask("a", "x", id="given-up"))
    kept = asyncio.create_task(client.ask("a", "y", id="kept"))
    arrived = {turn.id: (turn, delivery) for turn, delivery in [await pool.next(), await pool.next()]}

    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert list(client._questions) == ["kept"]

    await pool.reply(*arrived["given-up"], "too late")
    await pool.reply(*arrived["kept"], "in time")
    assert (await kept).text == "in time"


async def test_the_same_turn_asked_twice_at_once_answers_both(client: Client, pool: Pool) -> None:
    first = asyncio.create_task(client.ask("a", "x", id="same", timeout=60))
    second = asyncio.create_task(client.ask("a", "x", id="same", timeout=60))
    arrived = [await pool.next(), await pool.next()]

    for turn, delivery in arrived:
        await pool.reply(turn, delivery, "once")

    assert (await first).id == (await second).id == "same:0"


async def test_a_lost_reply_queue_asks_again_under_the_same_id(
    client: Client, pool: Pool, broker: Watched, server: MemoryServer
) -> None:
    """Interleaving: the question is out, the connection is cut, and the answer goes to a queue that is no more."""
    asked = asyncio.create_task(client.ask("a", "x", timeout=60))
    turn, delivery = await pool.next()

    server.lose(broker.reply_queues[0])

    again, redelivered = await pool.next()
    assert again.id == turn.id
    assert redelivered.message.reply_to == broker.reply_queues[1].queue != delivery.message.reply_to
    await pool.reply(again, redelivered, "answered")
    assert (await asked).text == "answered"


async def test_many_questions_share_the_new_reply_queue(
    client: Client, pool: Pool, broker: Watched, server: MemoryServer
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.ask(f"s{i}", "x", id=f"t{i}", timeout=60)) for i in range(20)]
        for _ in range(20):
            await pool.next()
        server.lose(broker.reply_queues[0])
        for _ in range(20):
            turn, delivery = await pool.next()
            await pool.reply(turn, delivery, f"re {turn.id}")

    assert [task.result().text for task in asked] == [f"re t{i}" for i in range(20)]
    assert len(broker.reply_queues) == 2


async def test_a_reply_queue_lost_before_the_confirm_is_not_forgotten(
    client: Client, pool: Pool, broker: Watched, server: MemoryServer
) -> None:
    """Interleaving: the turn is queued with the old ``reply_to``; the queue is lost; only then comes the confirm.

    Whoever looked for the loss only while waiting for the reply would wait for ever.
    """

    async def lose(message: Message) -> None:
        broker.before_confirm = None
        server.lose(broker.reply_queues[0])
        for _ in range(5):
            await asyncio.sleep(0)

    broker.before_confirm = lose
    asked = asyncio.create_task(client.ask("a", "x", timeout=60))
    first, _ = await pool.next()
    again, delivery = await pool.next()
    await pool.reply(again, delivery, "answered")

    assert again.id == first.id
    assert (await asked).text == "answered"


async def test_a_broker_that_does_not_confirm_is_unavailable_after_the_time_given(
    client: Client, broker: Watched
) -> None:
    async def never(message: Message) -> None:
        await asyncio.Event().wait()

    broker.before_confirm = never
    with pytest.raises(BrokerUnavailable, match=r"did not confirm turn 't1' within 0\.05 s"):
        await client.send("a", "x", id="t1", timeout=0.05)
    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        await client.ask("a", "x", timeout=0.05)


async def test_closing_the_client_ends_every_question(broker: Watched, pool: Pool) -> None:
    """One waits for its reply, another for the broker's confirm."""

    async def hold(message: Message) -> None:
        if message.message_id == "unconfirmed":
            held.set()
            await asyncio.Event().wait()

    held = asyncio.Event()
    broker.before_confirm = hold
    async with Client(broker) as client:
        waiting = [asyncio.create_task(client.ask("a", "x", id=i)) for i in ("confirmed", "unconfirmed")]
        await pool.next()
        await pool.next()
        await held.wait()

    for task in waiting:
        with pytest.raises(ReplyError, match="was closed before turn"):
            await task
    assert client._questions == {}
    with pytest.raises(ReplyError, match="client is closed"):
        await client.ask("a", "x")
    with pytest.raises(ReplyError, match="client is closed"):
        await client.send("a", "x")


async def test_closing_while_the_reply_queue_is_being_made_leaves_none(broker: Watched, server: MemoryServer) -> None:
    """Interleaving: the subscription is made, its caller is told to stop before it can note it down."""
    began = asyncio.Event()
    original = broker.subscribe_replies

    async def slow(on_delivery: OnDelivery, *, timeout: float = 10.0) -> MemorySubscription:
        began.set()
        await asyncio.sleep(0)
        return await original(on_delivery, timeout=timeout)

    broker.subscribe_replies = slow  # type: ignore[method-assign]  # the interleaving
    async with Client(broker) as client:
        asked = asyncio.create_task(client.ask("a", "x"))
        await began.wait()
    with pytest.raises(ReplyError):
        await asked

    assert [name for name in server._queues if "reply-to" in name] == []


async def test_without_a_topology_nothing_is_sent(server: MemoryServer) -> None:
    async with MemoryBroker(TOPOLOGY, server) as broker, Client(broker) as client:
        with pytest.raises(TopologyMissing, match="topology apply"):
            await client.send("a", "x")
        await broker.apply()
        assert await client.send("a", "x", id="now") == "now"


@pytest.mark.parametrize(
    ("session", "text", "options", "message"),
    [
        ("", "x", {}, "session_id"),
        ("s" * 257, "x", {}, "session_id"),
        ("a\nb", "x", {}, "control character"),
        (None, "x", {}, "session_id"),
        ("a", "x" * (256 * 1024 + 1), {}, "at most 262144"),
        ("a", "\ud800", {}, "text"),
        ("a", "x", {"channel": "No Such"}, "channel"),
        ("a", "x", {"kind": "shout"}, "kind"),
        ("a", "x", {"id": ""}, "id"),
        ("a", "x", {"deadline_s": -1}, "deadline_s"),
        ("a", "x", {"metadata": {"n": float("nan")}}, "metadata"),
        ("a", "x", {"metadata": {"n": object()}}, "metadata"),
        ("a", "x", {"address": {"n": "\ud800"}}, "address"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(
    client: Client, broker: Watched, session: Any, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidTurn, match=message):
        await client.send(session, text, **options)
    with pytest.raises(InvalidTurn, match=message):
        await client.ask(session, text, **options)
    assert broker.checks == 0


async def test_an_argument_that_a_turn_does_not_have_is_a_mistake(client: Client) -> None:
    with pytest.raises(TypeError, match="chanel"):
        await client.send("a", "x", chanel="x")  # type: ignore[call-arg]  # the mistake


async def test_a_reply_that_cannot_be_read_is_an_error(client: Client, pool: Pool) -> None:
    asked = asyncio.create_task(client.ask("a", "x", timeout=60))
    turn, delivery = await pool.next()
    assert delivery.message.reply_to
    await pool.broker.publish("", delivery.message.reply_to, Message(b"{", correlation_id=turn.id))
    with pytest.raises(ReplyError, match="cannot be read"):
        await asked


async def test_replies_without_a_question_are_ignored(client: Client, pool: Pool) -> None:
    asked = asyncio.create_task(client.ask("a", "x", timeout=60))
    turn, delivery = await pool.next()
    assert delivery.message.reply_to
    for correlation_id in (None, "somebody else's"):
        await pool.broker.publish("", delivery.message.reply_to, Message(b"{", correlation_id=correlation_id))
    await pool.reply(turn, delivery, "mine")
    assert (await asked).text == "mine"


async def test_from_settings_opens_and_closes_its_own_broker(tmp_path: Path) -> None:
    settings = Settings.load(broker_url=f"sqlite:///{tmp_path}/b.db", store_url="null://", partitions=2)
    async with Client.from_settings(settings) as client:
        with pytest.raises(TopologyMissing):
            await client.send("a", "x")
        await client._broker.apply()
        assert await client.send("a", "x", id="t") == "t"
    with pytest.raises(ConfigurationError, match="is 'broker_url' meant"):
        Client.from_settings(brokerurl="memory://")
    with pytest.raises(TypeError, match="not both"):
        Client.from_settings(settings, partitions=3)


async def test_asking_a_real_pool(broker: Watched, client: Client) -> None:
    worker = SessionWorker(agent_factory=MemoAgent)
    async with Consumer(broker, worker):
        await client.ask("ada", "my name is Ada", id="t1", timeout=60)
        first = await client.ask("ada", "what is my name?", id="t2", timeout=60)
        assert (first.text, first.seq) == ("Your name is Ada.", 2)
        assert await client.ask("ada", "what is my name?", id="t2", timeout=60) == first
        replies = [r async for r in client.stream("ada", "what is my name?", timeout=60)]

    assert "".join(r.text for r in replies[:-1]) == replies[-1].text == "Your name is Ada."


async def test_questions_survive_a_restart_of_the_broker(private_rabbitmq: Any, namespace: str) -> None:
    """Given questions on their way through RabbitMQ, when it restarts, then each gets its one answer."""
    server = await private_rabbitmq()
    settings = Settings.load(broker_url=server.url, store_url="null://", namespace=namespace, partitions=4)
    thinking = asyncio.Event()
    go_on = asyncio.Event()

    class Slow(MemoAgent):
        async def turn(self, text: str, *, stream: bool = False) -> Any:
            thinking.set()
            await go_on.wait()
            return await super().turn(text, stream=stream)

    async with Client.from_settings(settings) as client:
        await client._broker.apply()
        async with Consumer(client._broker, SessionWorker(agent_factory=Slow)), asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(client.ask(f"s{i}", f"m{i}", timeout=60)) for i in range(8)]
            await thinking.wait()
            await server.restart()
            go_on.set()

    assert [task.result().text for task in asked] == [f"Message 1 of this session: m{i}" for i in range(8)]
