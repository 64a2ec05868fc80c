"""Dead letters on every broker: looked through without a loss, put back, thrown away."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from sdqueue.brokers import Message, Subscription, Topology
from sdqueue.deadletters import Batch, DeadLetter, LetterFilter, reading
from sdqueue.deadletters.reading import Reading
from sdqueue.errors import BrokerUnavailable, TopologyMissing
from tests.deadletters.office import NOON, Office, ids, key_of

# Looking


async def test_an_empty_queue_has_no_letters(office: Office) -> None:
    assert await office.letters.list() == Batch((), matching=0, waiting=0, alone=True)


async def test_letters_are_listed_in_order_and_stay(office: Office) -> None:
    for n in range(5):
        await office.bury(f"t{n}", minute=n, error=f"error {n}", trace="bot.py:3 in answer\nKeyError", consumer="c")
    for _ in range(3):
        letters = (await office.letters.list()).letters
        assert ids(letters) == ["t0", "t1", "t2", "t3", "t4"]
    why = letters[1].why
    assert (why.reason, why.error, why.trace) == ("agent-failed", "error 1", "bot.py:3 in answer\nKeyError")
    assert (why.attempts, why.session_id, why.channel, why.consumer) == (3, "s", "default", "c")
    assert (why.routing_key, why.died_at) == ("0001", NOON + timedelta(minutes=1))
    assert json.loads(letters[1].message.body)["text"] == "of t1"
    await office.expect_depth(office.topology.dead, 5)


async def test_only_letters_that_fit_are_listed(office: Office) -> None:
    await office.bury("a", "s1", minute=0, reason="timeout", channel="slack")
    await office.bury("b", "s2", minute=1, reason="poison", channel="slack")
    await office.bury("c", "s1", minute=2, reason="poison")
    await office.put(b"junk", {})

    async def found(**wanted: Any) -> list[str]:
        return ids((await office.letters.list(LetterFilter(**wanted))).letters)

    assert await found(session_id="s1") == ["a", "c"]
    assert await found(channel="slack") == ["a", "b"]
    assert await found(reason="poison") == ["b", "c"]
    assert await found(reason="poison", session_id="s1") == ["c"]
    assert await found(reason="unknown") == [(await office.letters.list()).letters[0].name]
    assert await found(names=frozenset({"b", "nobody"})) == ["b"]
    assert await found(since=NOON + timedelta(minutes=1)) == ["b", "c"]
    assert await found(until=NOON + timedelta(minutes=1)) == ["a"]
    assert await found(since=NOON, until=NOON) == []


async def test_a_limit_takes_the_oldest(office: Office) -> None:
    """Those that died first, in whatever order they lie: readers that were killed may have mixed them up."""
    for n in (3, 8, 1, 6, 0, 5, 9, 2, 7, 4):
        await office.bury(f"t{n}", reason="odd" if n % 2 else "even", minute=n)
    found = await office.letters.list(LetterFilter(reason="odd"), limit=2)
    assert (ids(found.letters), found.matching, found.waiting) == (["t1", "t3"], 5, 10)
    assert (await office.letters.list(limit=0)).letters == ()
    assert len(await office.names()) == 10


async def test_a_letter_is_read_whoever_has_put_it_there(office: Office) -> None:
    """One of the broker's own, whose turn its body names; two of somebody else; one with nonsense in our headers."""
    death = {"reason": "delivery_limit", "queue": "q", "routing-keys": ["0003"], "time": NOON.isoformat(), "count": 1}
    turn = {"id": "t1", "session_id": "s1", "text": "x", "channel": "slack"}
    await office.put(json.dumps(turn).encode(), {"x-death": [death]})
    await office.put(b"\xff\xfe", {"sdqueue-replay": "many"}, key="elsewhere")
    await office.put(b"", {"x-death": "nonsense"}, message_id="m1", content_type=None)
    await office.put(b"[1]", {"sdqueue-reason": 5, "sdqueue-turn-id": "forged"})

    bytes_, named, forged, broker = (await office.letters.list()).letters

    assert (broker.name, broker.why.session_id, broker.why.channel) == ("t1", "s1", "slack")
    assert (broker.why.reason, broker.why.queue, broker.why.routing_key) == ("delivery_limit", "q", "0003")
    assert broker.why.died_at == NOON
    assert (bytes_.why.reason, bytes_.why.routing_key, bytes_.why.died_at) == ("unknown", "elsewhere", None)
    assert bytes_.message.body == b"\xff\xfe"
    assert (named.name, named.why.reason) == ("m1", "unknown")
    assert (forged.why.reason, forged.why.turn_id) == ("unreadable", "")
    names = [letter.name for letter in (bytes_, forged)]
    assert names == ids((await office.others.list()).letters)[0:3:2], "the same for another reader"
    assert all(name.startswith("letter-") for name in names)
    assert ids((await office.letters.list(LetterFilter(names=frozenset(names)))).letters) == names


async def test_many_letters_are_read_and_return(office: Office) -> None:
    """Again and again, and in the order of the queue where the letters do not tell theirs."""
    names = await office.bury_many(2100)
    for _ in range(3):
        assert ids((await office.letters.list()).letters) == names
    found = await office.letters.list(LetterFilter(names=frozenset({names[-1]})))
    assert ids(found.letters) == [names[-1]]
    await office.expect_depth(office.topology.dead, 2100)


async def test_only_what_is_listed_stays_in_memory(office: Office) -> None:
    names = await office.bury_many(300)
    async with Reading(office.broker, LetterFilter(), limit=3, patience_s=10) as reading:
        assert ids(await reading.letters()) == names[:3]
        assert (len(reading._kept), len(reading._deliveries), reading.matching) == (3, 3, 300)


async def test_more_letters_than_a_broker_gives_one_reader_are_read_too(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where room becomes free in a window that was full."""
    monkeypatch.setattr(reading, "PREFETCH", 10)
    names = await office.bury_many(35)
    assert sorted(ids((await office.letters.list()).letters)) == names
    chosen = frozenset(names[::2])
    assert len((await office.letters.discard(LetterFilter(names=chosen))).letters) == 18
    assert len((await office.letters.replay(LetterFilter(), limit=12)).letters) == 12
    assert set(await office.names()) <= set(names) - chosen
    await office.expect_depth(office.topology.dead, 5)


# Several at once


async def test_two_readers_at_once_both_see_everything(office: Office) -> None:
    names = [f"t{n}" for n in range(30)]
    for n, name in enumerate(names):
        await office.bury(name, minute=n)
    seen = await asyncio.gather(*(letters.list() for letters in [office.letters, office.others] * 3))
    assert [ids(found.letters) for found in seen] == [names] * 6


async def test_what_another_process_has_in_hand_is_said_to_be_missing(office: Office) -> None:
    """It is waited for first."""
    await office.bury("t1")
    held = asyncio.Event()
    holding = await office.other.subscribe(office.topology.dead, lambda _: held.set(), prefetch=5)
    async with asyncio.timeout(20):
        await held.wait()
    await office.bury("t2")
    office.letters._patience_s = 0.3
    assert not (await office.letters.list()).alone

    office.letters._patience_s = 60
    waiting = asyncio.create_task(office.letters.list())
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    await holding.close()
    assert ids((await waiting).letters) == ["t1", "t2"]


async def test_letters_that_somebody_takes_just_then_do_not_hold_up_the_reader(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interleaving: three are counted, and before they can be had, somebody else has taken them."""
    for n in range(3):
        await office.bury(f"t{n}")
    subscribe = office.broker.subscribe
    taken: list[Message] = []

    async def late(*given: Any, **options: Any) -> Subscription:
        taken.extend(await office.drain(office.topology.dead))
        await office.bury("t3")
        return await subscribe(*given, **options)

    monkeypatch.setattr(office.broker, "subscribe", late)
    found = await office.letters.list()
    assert len(taken) == 3
    assert (ids(found.letters), found.waiting) == (["t3"], 3)


# Putting back


async def test_a_turn_is_put_back_under_its_own_id_and_its_letter_taken_away(office: Office) -> None:
    turn = {"id": "t1", "session_id": "s1", "text": "hello"}
    headers = {"traceparent": "00-a-b-01", "mine": 5, "sdqueue-hops": 5, "x-death": [{"reason": "expired"}]}
    headers |= {"x-first-death-reason": "expired", "x-last-death-queue": "q", "x-delivery-count": 7}
    await office.bury("before", "s1")
    (before,) = (await office.letters.list()).letters
    await office.put(json.dumps(turn).encode(), headers | before.why.model_copy(
        update={"turn_id": "t1", "session_id": "s1"}).headers(), reply_to="somebody", message_id="t1")  # fmt: skip

    done: list[DeadLetter] = []
    batch = await office.letters.replay(LetterFilter(names=frozenset({"t1"})), on_done=done.append)

    assert ids(batch.letters) == ids(done) == ["t1"]
    (message,) = await office.put_back("s1")
    assert (json.loads(message.body), message.message_id, message.reply_to) == (turn, "t1", "somebody")
    assert message.content_type == "application/json"
    assert dict(message.headers) == {
        "traceparent": "00-a-b-01",
        "mine": 5,
        "sdqueue-replay": 1,
        "sdqueue-replay-of": NOON.isoformat(),
    }
    assert await office.names() == ["before"]


async def test_all_are_put_back_in_order(office: Office) -> None:
    sessions = ["s1", "s2", "s3"]
    for n in range(30):
        await office.bury(f"t{n}", sessions[n % 3], minute=n)
    batch = await office.letters.replay(LetterFilter())
    assert ids(batch.letters) == [f"t{n}" for n in range(30)]
    for session in sessions:
        expected = [f"t{n}" for n in range(30) if key_of(sessions[n % 3]) == key_of(session)]
        found = [message.message_id for message in await office.put_back(session)]
        assert found in (expected, [])
    assert await office.names() == []


async def test_the_letter_of_a_replayed_turn_counts_on(office: Office) -> None:
    await office.bury("t1", replay=4)
    await office.letters.replay(LetterFilter())
    (message,) = await office.put_back()
    assert message.headers["sdqueue-replay"] == 5


async def test_what_names_no_session_goes_back_where_it_came_from(office: Office) -> None:
    """To be refused again, or read by a newer consumer; with an id from now on, so that it is recognised."""
    await office.put(b"junk", {"sdqueue-reason": "not-json", "sdqueue-error": "no",
                               "sdqueue-turn-id": "unreadable-1"}, key="0002")  # fmt: skip
    await office.put(b"more", {}, key="no partition")
    assert len((await office.letters.replay(LetterFilter())).letters) == 2
    (junk,) = await office.drain(office.topology.partition_queue(2))
    (more,) = await office.drain(office.topology.unrouted)
    assert (junk.body, junk.message_id, junk.headers["sdqueue-replay"]) == (b"junk", "unreadable-1", 1)
    assert (more.body, more.message_id) == (b"more", None)


async def test_a_turn_that_dies_again_at_once_is_not_put_back_for_ever(office: Office) -> None:
    """A new letter comes for every turn that is put back."""
    for n in range(5):
        await office.bury(f"t{n}")
    again: list[asyncio.Task[None]] = []
    batch = await office.letters.replay(
        LetterFilter(), on_done=lambda letter: again.append(asyncio.create_task(office.bury(letter.name, replay=1)))
    )
    await asyncio.gather(*again)
    assert len(batch.letters) == 5
    assert len(await office.names()) == 5


async def test_a_limit_puts_back_so_many(office: Office) -> None:
    for n in range(5):
        await office.bury(f"t{n}")
    assert len((await office.letters.replay(LetterFilter(), limit=2)).letters) == 2
    assert await office.names() == ["t2", "t3", "t4"]


# Throwing away


async def test_letters_are_thrown_away(office: Office) -> None:
    for n in range(5):
        await office.bury(f"t{n}", reason="odd" if n % 2 else "even")
    done: list[DeadLetter] = []
    assert len((await office.letters.discard(LetterFilter(reason="odd"), on_done=done.append)).letters) == 2
    assert ids(done) == ["t1", "t3"]
    assert await office.names() == ["t0", "t2", "t4"]
    assert await office.put_back() == []


async def test_without_a_topology_it_says_so(office: Office) -> None:
    elsewhere = Topology(f"{office.topology.namespace}.elsewhere", partitions=4)
    office.broker.topology = elsewhere
    for call in (office.letters.list(), office.letters.replay(LetterFilter()), office.letters.discard(LetterFilter())):
        with pytest.raises(TopologyMissing, match="topology apply"):
            await call


async def test_a_broker_that_is_not_open_is_said_so(office: Office) -> None:
    await office.broker.__aexit__(None, None, None)
    with pytest.raises(BrokerUnavailable):
        await office.letters.list()
