"""A dead turn that is put back runs again, once, and is told from a repeat of it."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable

import pytest

from sdqueue.brokers import Delivery
from sdqueue.deadletters import DeadLetter
from sdqueue.sessions import Retention, TurnOutcome
from tests.consumer.stand import Freeze, Puppet, Stand, in_pieces


class Flaky:
    """An agent's act that fails until it is repaired."""

    def __init__(self) -> None:
        self.broken = True
        self.ran = 0

    async def __call__(self, agent: Puppet) -> str:
        self.ran += 1
        if self.broken:
            raise ValueError("boom")
        return agent.plain("repaired")


async def put_back(stand: Stand, letter: Delivery) -> None:
    """What ``sdqueue dead replay`` does; the letter is left where it is."""
    dead = DeadLetter.read(letter)
    await stand.broker.publish(*dead.place(stand.topology), dead.revived())


async def test_it_runs_again_and_is_answered_under_a_reply_id_of_its_own(stand: Stand) -> None:
    flaky = Flaky()
    async with stand.running({"do": flaky}) as member:
        await stand.send("s", "before")
        await stand.send("s", "do", id="t")
        await stand.send("s", "behind")
        assert [reply.id for reply in await stand.expect_replies(3)] == ["t1:0", "t:0", "t3:0"]
        assert (await stand.record("s")).turns.get("t").state == "dead"  # type: ignore[union-attr]  # it is there
        flaky.broken = False
        await put_back(stand, stand.dead[0])
        answer = await stand.expect_reply("t")
        await stand.send("s", "do", id="t")  # its producer repeats it, as before its death
        await stand.expect_replies(5)
        assert [state for turn, state in member.watcher.settled if turn == "t"] == ["dead", "completed", "duplicate"]
    assert (answer.id, answer.kind, answer.text, answer.seq) == ("t:1", "final", "3. repaired", 3)
    assert stand.bodies[4] == stand.bodies[3]
    assert stand.answers("s") == ["1. before", "2. behind", "3. repaired"]
    outcome = (await stand.record("s")).turns.get("t")
    assert outcome is not None
    assert (outcome.state, outcome.replay) == ("completed", 1)
    assert flaky.ran == 2


async def test_a_letter_that_was_put_back_twice_makes_it_run_once(stand: Stand) -> None:
    """Whoever put it back died before the letter was taken away."""
    flaky = Flaky()
    async with stand.running({"do": flaky}) as member:
        await stand.send("s", "do", id="t")
        await stand.expect_dead()
        flaky.broken = False
        for _ in range(3):
            await put_back(stand, stand.dead[0])
        assert await member.watcher.expect_settled(4) == [("t", "dead"), ("t", "completed"), *[("t", "duplicate")] * 2]
    assert flaky.ran == 2
    assert [reply.id for reply in stand.replies] == ["t:0", "t:1", "t:1", "t:1"]
    assert len(set(stand.bodies)) == 2


async def test_two_letters_of_one_death_make_it_run_once(stand: Stand) -> None:
    """A consumer died between the letter and the session's memory of it, and the next one wrote another."""
    flaky = Flaky()
    async with stand.running({"do": flaky}) as first:
        frozen = first.faults.freeze("dead confirmed")
        await stand.send("s", "do", id="t")
        await frozen.expect_reached()
        first.stop_at_once()
    async with stand.running({"do": flaky}) as second:
        await stand.expect_dead(2)
        await second.watcher.expect_settled(1)
        flaky.broken, flaky.ran = False, 0
        for letter in stand.dead:
            await put_back(stand, letter)
        assert await second.watcher.expect_settled(3) == [("t", "dead"), ("t", "completed"), ("t", "duplicate")]
    assert flaky.ran == 1


async def test_what_dies_again_has_a_letter_that_counts_on(stand: Stand) -> None:
    flaky = Flaky()
    async with stand.running({"do": flaky}) as member:
        await stand.send("s", "do", id="t")
        await stand.expect_dead()
        await put_back(stand, stand.dead[0])
        letters = await stand.expect_dead(2)
        await member.watcher.expect_settled(2)
        assert [letter.replay for letter in letters] == [0, 1]
        flaky.broken, flaky.ran = False, 0
        await put_back(stand, stand.dead[0])  # an old letter that was left: it is not its death that counts
        await put_back(stand, stand.dead[1])
        assert [state for _, state in await member.watcher.expect_settled(4)] == [
            "dead", "dead", "duplicate", "completed",
        ]  # fmt: skip
    assert flaky.ran == 1
    assert [(reply.id, reply.kind) for reply in stand.replies] == [
        ("t:0", "error"),
        ("t:1", "error"),
        ("t:1", "error"),
        ("t:2", "final"),
    ]


async def test_what_was_answered_never_runs_again_whatever_a_message_says(stand: Stand) -> None:
    body = json.dumps({"session_id": "s", "text": "hello", "id": "t"}).encode()
    async with stand.running() as member:
        await stand.send_raw(body, "s")
        await stand.send_raw(body, "s", headers={"sdqueue-replay": 99})
        assert await member.watcher.expect_settled(2) == [("t", "completed"), ("t", "duplicate")]
    assert len(set(stand.bodies)) == 1


@pytest.mark.parametrize("forged", ["1", -1, True, 1.5, None, {"a": 1}, 2**62])
async def test_a_forged_number_is_no_replay(stand: Stand, forged: object) -> None:
    flaky = Flaky()
    body = json.dumps({"session_id": "s", "text": "do", "id": "t"}).encode()
    async with stand.running({"do": flaky}) as member:
        await stand.send_raw(body, "s")
        await stand.send_raw(body, "s", headers={"sdqueue-replay": forged})
        assert await member.watcher.expect_settled(2) == [("t", "dead"), ("t", "duplicate")]
    assert flaky.ran == 1


@pytest.mark.parametrize("state", ["superseded", "completed"])
async def test_a_letter_is_no_reason_to_repeat_what_ended_otherwise(stand: Stand, state: str) -> None:
    """A consumer died after the letter; the next one came to another end, such as an answer together with others."""
    flaky = Flaky()
    async with stand.running({"do": flaky}) as member:
        await stand.send("s", "do", id="t")
        await member.watcher.expect_settled(1)
        async with member.worker.acquire("s") as handle:
            ended = TurnOutcome("t", time.time(), (stand.bodies[0].decode(),), state)  # type: ignore[arg-type]  # one of them
            handle.remember(ended, Retention())
        await put_back(stand, stand.dead[0])
        assert (await member.watcher.expect_settled(2))[1] == ("t", "duplicate")
    assert flaky.ran == 1


async def test_of_a_turn_whose_id_alone_is_left_a_replay_runs_once(stand: Stand) -> None:
    """The session has had many turns since, before the letter was put back, and again after it."""
    flaky = Flaky()

    async def go_on() -> None:
        for n in range(3):
            await stand.expect_reply(await stand.send("s", f"{n}"))
        assert (await stand.record("s")).turns.get("t").replies is None  # type: ignore[union-attr]  # it is there

    async with stand.running({"do": flaky}, retention=Retention(replies=2)) as member:
        await stand.send("s", "do", id="t")
        await member.watcher.expect_settled(1)
        flaky.broken = False
        await go_on()
        await put_back(stand, stand.dead[0])
        assert (await stand.expect_reply("t")).id == "t:1"
        await go_on()
        await put_back(stand, stand.dead[0])
        await stand.send("s", "do", id="t")
        assert (await member.watcher.expect_settled(10))[-2:] == [("t", "duplicate")] * 2
    assert flaky.ran == 2


async def test_a_replay_that_is_cancelled_says_so_under_its_own_number(stand: Stand) -> None:
    reached = Freeze()

    async def hang(agent: Puppet) -> str:
        if not stand.dead:
            raise ValueError("boom")
        await reached()
        return "never"

    async with stand.running({"do": hang}) as member:
        await stand.send("s", "do", id="t")
        await stand.expect_dead()
        await put_back(stand, stand.dead[0])
        await reached.expect_reached()
        await stand.send("s", kind="cancel", id="stop")
        await stand.expect_reply("stop")
        assert member.watcher.settled == [("t", "dead"), ("t", "superseded"), ("stop", "completed")]
    assert [reply.id for reply in stand.replies] == ["t:0", "t:1", "stop:0"]
    outcome = (await stand.record("s")).turns.get("t")
    assert outcome is not None
    assert (outcome.state, outcome.replay, outcome.by) == ("superseded", 1, "stop")


async def test_pieces_of_a_replayed_answer_have_ids_of_their_own(stand: Stand) -> None:
    flaky = Flaky()

    async def stream(agent: Puppet) -> object:
        await flaky(agent)
        return in_pieces("one ", "two")

    async with stand.running({"do": stream}):
        await stand.send("s", "do", id="t", stream=True)
        await stand.expect_dead()
        flaky.broken = False
        await put_back(stand, stand.dead[0])
        answer = await stand.expect_reply("t")
    deltas = [reply.id for reply in stand.replies if reply.kind == "delta"]
    assert (answer.id, answer.text) == ("t:1", "one two")
    assert deltas
    assert all(name.startswith("t:1.") for name in deltas)


async def test_beginnings_are_counted_anew(stand: Stand) -> None:
    """It was poison, or near it; a repaired agent must not be suspected for what came before."""
    begun: list[int] = []
    flaky = Flaky()
    for _ in range(2):
        await stand.store.begin("s", "t")
    async with stand.running({"do": flaky}, isolate_after=5) as member:
        await stand.send("s", "do", id="t")
        await member.watcher.expect_settled(1)
        assert stand.begun("s") == {}
        flaky.broken = False
        begin: Callable[[str, str], Awaitable[int]] = stand.store.begin

        async def count(session_id: str, turn_id: str) -> int:
            begun.append(await begin(session_id, turn_id))
            return begun[-1]

        stand.store.begin = count  # type: ignore[method-assign]  # to look at what it says
        await put_back(stand, stand.dead[0])
        await stand.expect_reply("t")
    assert begun == [1]


async def test_a_replay_in_the_wrong_queue_is_forwarded_as_one(stand: Stand) -> None:
    flaky = Flaky()
    async with stand.running({"do": flaky}) as member:
        await stand.send("s", "do", id="t")
        await stand.expect_dead()
        flaky.broken = False
        await stand.broker.publish(stand.topology.turns, "no partition", DeadLetter.read(stand.dead[0]).revived())
        assert (await stand.expect_reply("t")).id == "t:1"
        assert [state for _, state in await member.watcher.expect_settled(3)] == ["dead", "forwarded", "completed"]


async def test_a_turn_without_identity_has_one_when_it_is_put_back(stand: Stand) -> None:
    flaky = Flaky()
    async with stand.running({"do": flaky}) as member:
        await stand.send_raw(b'{"session_id": "s", "text": "do"}', "s")
        (letter,) = await stand.expect_dead()
        flaky.broken = False
        for _ in range(2):
            await put_back(stand, stand.dead[0])
        await member.watcher.expect_settled(3)
    assert [reply.id for reply in stand.replies] == [f"{letter.turn_id}:{n}" for n in (0, 1, 1)]
    assert flaky.ran == 2


async def test_what_is_no_turn_dies_again_and_counts_on(stand: Stand) -> None:
    """A consumer that accepts longer texts runs it, under the number of the replay."""
    async with stand.running(max_text_bytes=3):
        await stand.send("s", "too long", id="t")
        await stand.expect_dead()
        await put_back(stand, stand.dead[0])
        letters = await stand.expect_dead(2)
        assert [letter.replay for letter in letters] == [0, 1]
        assert [reply.id for reply in await stand.expect_replies(2)] == ["t:0", "t:1"]
    async with stand.running():
        await put_back(stand, stand.dead[1])
        assert (await stand.expect_reply("t")).id == "t:2"


async def test_a_letter_tells_where_its_turn_came_from(stand: Stand) -> None:
    async with stand.running({"do": Flaky()}):
        await stand.send("s", "do", id="t", channel="default")
        (letter,) = await stand.expect_dead()
    partition = stand.partition("s")
    assert (letter.queue, letter.routing_key) == (stand.topology.partition_queue(partition), f"{partition:04d}")
    assert (letter.consumer, letter.channel, letter.session_id, letter.replay) == ("tester", "default", "s", 0)
    assert "ValueError" in letter.trace
    assert letter.died_at is not None
