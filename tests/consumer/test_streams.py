"""Streamed turns, and everything that can come between their deltas: docs/decisions/0022 names each."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sdqueue.agents import StreamChunk, current_turn
from sdqueue.channels import DoubleTexting, PerChannel
from sdqueue.client import Client
from sdqueue.messages import OutboundReply
from sdqueue.sessions import AsyncioLockBackend, InMemorySessionStore, NullSessionStore
from sdqueue.streaming import BEGINNING, LogEntry, MemoryDeltaLog, StreamOffset
from tests.consumer.acting import AGENT, Acting
from tests.consumer.stand import PATIENCE_S, Puppet, Stand, Waiting, in_pieces

PROMPT_S = 0.5
"""Far above what a final reply takes that waits for nothing, far below every timeout that it might wait for."""


@pytest.fixture
def log() -> MemoryDeltaLog:
    return MemoryDeltaLog()


async def logged(log: MemoryDeltaLog, turn_id: str, *, session: str = "s") -> list[tuple[str, str]]:
    """Offset and text of everything in the log of a turn, when its end is there."""
    entries: Sequence[LogEntry] = ()
    async with asyncio.timeout(PATIENCE_S):
        while not entries or not entries[-1].offset.is_end:
            after = entries[-1].offset if entries else BEGINNING
            more = await log.read(session, turn_id, after=after, wait_s=PATIENCE_S)
            entries = [*entries, *(more or ())]
    return [(str(entry.offset), OutboundReply.decode(entry.body.encode()).text) for entry in entries]


def places(stand: Stand, turn_id: str) -> list[tuple[int, int, bool]]:
    """Attempt, index and restart of the deltas of a turn, as they arrived."""
    deltas = [reply.stream for reply in stand.replies if reply.turn_id == turn_id and reply.kind == "delta"]
    return [(place.attempt, place.index, place.restart) for place in deltas if place is not None]


class Halting:
    """Says one piece a start, its attempt; waits after it until it is told how to go on."""

    def __init__(self, *ends: str) -> None:
        self.ends = list(ends)
        self.said = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def __call__(self, _: Puppet) -> AsyncIterator[StreamChunk]:
        turn = current_turn()
        assert turn is not None
        return self._pieces(turn.attempt, self.ends.pop(0) if self.ends else "")

    async def _pieces(self, attempt: int, end: str) -> AsyncIterator[StreamChunk]:
        yield StreamChunk(f"{attempt} ")
        self.said.release()
        if end == "fail":
            raise ConnectionError("the model hung up")
        if end == "wait":
            await self.go_on.wait()
        yield StreamChunk(f"end of {attempt}")
        yield StreamChunk(done=True)


# An answer that starts over


async def test_another_attempt_in_place_starts_over(stand: Stand, log: MemoryDeltaLog) -> None:
    async with stand.running({"talk": Halting("fail", "fail")}, delta_log=log):
        turn = await stand.send("s", "talk", stream=True)
        final = await stand.expect_reply(turn)
    assert final.text == "3 end of 3"
    starts = [place for place in places(stand, turn) if place[1] == 0]
    assert starts == sorted(starts)
    assert starts[-1] == (3, 0, True)
    assert (1, 0, True) not in starts
    assert "".join(text for _, text in (await logged(log, turn))[:-1]) == final.text, "an earlier attempt is in the log"


async def test_after_a_shutdown_the_next_consumer_starts_over(stand: Stand, log: MemoryDeltaLog) -> None:
    """Its beginning was taken back in order, and yet it is not the first start."""
    act = Halting("wait")
    first = stand.member({"talk": act}, delta_log=log, grace_s=0.0)
    async with stand.started(first):
        turn = await stand.send("s", "talk", stream=True)
        await act.said.acquire()
        await stand.expect_reply(turn, kind="delta")
        first.stop_at_once()
    async with stand.running({"talk": act}, delta_log=log):
        final = await stand.expect_reply(turn)
    assert final.text == "2 end of 2"
    assert places(stand, turn)[:2] == [(1, 0, False), (2, 0, True)]
    assert stand.begun("s") == {}


async def test_what_a_consumer_says_that_was_overtaken_is_not_shown(stand: Stand, log: MemoryDeltaLog) -> None:
    """Given a consumer that has lost its queue and its lock, and does not know: its deltas come between the other's."""
    late, quick = Halting("wait"), Halting("wait")
    zombie = stand.member({"talk": late}, delta_log=log)
    saving = zombie.faults.freeze("save")
    async with stand.started(zombie), Client(stand.broker, delta_log=log) as client:
        seen: list[OutboundReply] = []

        async def listen() -> None:
            async for reply in client.stream("s", "talk", id="t"):
                seen.append(reply)
                stand.changes.wake()

        listening = asyncio.create_task(listen())
        await stand.changes.until(lambda: len(seen) == 1)
        owner = stand.member({"talk": quick}, delta_log=log, lock_backend=AsyncioLockBackend())
        async with stand.started(owner):
            zombie.cut_off()
            await stand.changes.until(lambda: len(seen) == 2)
            late.go_on.set()
            await saving.expect_reached()
            await stand.changes.until(lambda: any(reply.text == "end of 1" for reply in stand.replies))
            quick.go_on.set()
            await listening
            saving.go_on.set()  # which the store refuses
            await zombie.watcher.expect_settled(1)
    assert [(reply.kind, reply.text, reply.stream and reply.stream.restart) for reply in seen] == [
        ("delta", "1 ", False), ("delta", "2 ", True), ("delta", "end of 2", False), ("final", "2 end of 2", None),
    ]  # fmt: skip
    assert zombie.watcher.settled == [("t", "duplicate")]
    assert await logged(log, "t") == [("2-1", "2 "), ("2-2", "end of 2"), ("1048575-0", "2 end of 2")]


async def test_where_the_store_cannot_count_a_new_attempt_is_told_by_its_word() -> None:
    """With null:// every process begins at 1; ids of deltas are different all the same."""

    class Forgetful(InMemorySessionStore):
        begin = NullSessionStore.begin
        rewind = NullSessionStore.rewind

        async def rewind_started(self, session_id: str, turn_id: str) -> None:
            pass

    async with Stand(store=Forgetful()) as stand:
        act = Halting("wait")
        first = stand.member({"talk": act}, grace_s=0.0)
        async with stand.started(first):
            turn = await stand.send("s", "talk", stream=True)
            await stand.expect_reply(turn, kind="delta")
            first.stop_at_once()
        async with stand.running({"talk": act}):
            await stand.expect_reply(turn)
    ids = [reply.id for reply in stand.replies]
    assert len(set(ids)) == len(ids)


async def test_turns_that_were_collected_stream_as_the_last_of_them(stand: Stand, log: MemoryDeltaLog) -> None:
    """And when each is tried by itself in the end, the last one starts over, with a number of its own."""
    act, blocked = Halting(*["fail"] * 4), Waiting()
    options: dict[str, Any] = {"double_texting": PerChannel(DoubleTexting.COLLECT), "delta_log": log}
    async with stand.running({"wait": blocked, "talk": act}, **options) as member:
        await stand.send("s", "wait", id="0")
        await blocked.began.acquire()
        for n in "123":
            await stand.send("s", f"talk {n}", id=n, stream=True)
        await member.watcher.expect("turn_received", 4)
        blocked.go_on.set()
        finals = [await stand.expect_reply(n) for n in "123"]
    assert [final.text.split(" end of ")[0] for final in finals] == ["5", "1", "4"], (
        "numbers may be left out, but never come again"
    )
    starts = [place for place in places(stand, "3") if place[1] == 0]
    assert starts == [(1, 0, False), (2, 0, True), (3, 0, True), (4, 0, True)]
    assert (await logged(log, "3"))[-1] == ("1048575-0", "4 end of 4")
    assert stand.begun("s") == {}
    assert stand.store._begun == {}, "the starts of a turn outlive its outcome"


async def test_a_suspect_streams_from_its_child(stand: Stand, log: MemoryDeltaLog, tmp_path: Path) -> None:
    """Given a turn that goes on when its first pieces have been heard."""
    for _ in range(2):
        await stand.store.begin("s", "t")
    async with stand.running(Acting, agent=AGENT, delta_log=log):
        await stand.send("s", f"count {tmp_path / 'pid'}", id="t", stream=True)
        await stand.expect_reply("t", kind="delta")
        (tmp_path / "pid.go").touch()
        final = await stand.expect_reply("t")
    assert final.text == "".join(f"3:{n} " for n in range(1, 6))
    deltas = [reply for reply in stand.replies if reply.kind == "delta"]
    assert len(deltas) > 1, "it came in one piece"
    assert "".join(delta.text for delta in deltas) == final.text
    assert places(stand, "t") == [(3, n, n == 0) for n in range(len(deltas))]
    assert [text for _, text in await logged(log, "t")] == [*(delta.text for delta in deltas), final.text]


async def test_a_suspect_whose_child_dies_starts_over_in_the_next(
    stand: Stand, log: MemoryDeltaLog, tmp_path: Path
) -> None:
    """The first child had a turn before, so its death proves nothing."""
    marker = tmp_path / "pid"
    for turn in ("t0", "t1"):
        for _ in range(2):
            await stand.store.begin("s", turn)
    async with stand.running(Acting, agent=AGENT, delta_log=log):
        await stand.send("s", "x", id="t0")
        await stand.expect_reply("t0")
        await stand.send("s", f"count {marker}", id="t1", stream=True)
        await stand.changes.until(lambda: places(stand, "t1"))
        async with asyncio.timeout(PATIENCE_S):
            while not marker.exists():
                await asyncio.sleep(0.02)
        os.kill(int(marker.read_text()), signal.SIGKILL)
        final = await stand.expect_reply("t1")
    assert final.text == "".join(f"4:{n} " for n in range(1, 6))
    starts = [place for place in places(stand, "t1") if place[1] == 0]
    assert starts == [(3, 0, True), (4, 0, True)]
    assert "".join(text for _, text in (await logged(log, "t1"))[:-1]) == final.text


# How an answer ends for those who read it


async def test_a_turn_that_is_stopped_ends_its_stream_with_an_error(stand: Stand, log: MemoryDeltaLog) -> None:
    act = Halting("wait")
    options: dict[str, Any] = {"double_texting": PerChannel(DoubleTexting.INTERRUPT), "delta_log": log}
    async with stand.running({"talk": act}, **options):
        await stand.send("s", "talk", id="t", stream=True)
        await act.said.acquire()
        await stand.expect_reply("t", kind="delta")
        await stand.send("s", "other", id="u")
        error = await stand.expect_reply("t", kind="error")
        await stand.expect_reply("u")
    assert await logged(log, "t") == [("1-1", "1 "), ("1048575-0", error.text)]


async def test_a_dead_turn_ends_its_stream_and_its_replay_begins_another(stand: Stand, log: MemoryDeltaLog) -> None:
    async def fail(_: Puppet) -> Any:
        raise ValueError("no")

    async with stand.running({"talk": fail}, delta_log=log):
        await stand.send("s", "talk", id="t", stream=True)
        (why,) = await stand.expect_dead()
        error = await stand.expect_reply("t", kind="error")
        assert await logged(log, "t") == [("1048575-0", error.text)]
        letter = stand.dead[0].message
    async with stand.running({"talk": Halting()}, delta_log=log):
        await stand.send_raw(letter.body, "s", headers=why.replay_headers())
        await stand.expect_reply("t")
        found = await log.read("s", "t", after=StreamOffset.end(), wait_s=PATIENCE_S)
    assert found
    assert found[0].offset == StreamOffset.of(1, 0, replay=1)


async def test_a_consumer_that_dies_before_the_end_is_in_the_log_leaves_it_to_the_next(
    stand: Stand, log: MemoryDeltaLog
) -> None:
    first = stand.member({"talk": Halting()}, delta_log=log)
    frozen = first.faults.freeze("saved")
    async with stand.started(first):
        await stand.send("s", "talk", id="t", stream=True)
        await frozen.expect_reached()
        first.stop_at_once()
    assert [str(entry.offset) for entry in await log.read("s", "t", after=BEGINNING, wait_s=0) or ()] != []
    async with stand.running({"talk": Halting()}, delta_log=log) as second:
        await stand.expect_reply("t")
        assert await second.watcher.expect_settled(1) == [("t", "duplicate")]
        assert (await logged(log, "t"))[-1] == ("1048575-0", "1 end of 1")


async def test_a_turn_without_stream_leaves_nothing_in_the_log(stand: Stand, log: MemoryDeltaLog) -> None:
    async with stand.running(delta_log=log):
        await stand.send("s", "x", id="t")
        await stand.expect_reply("t")
    assert await log.read("s", "t", after=BEGINNING, wait_s=0) is None
    assert [reply.kind for reply in stand.replies] == ["final"]


# Nobody waits


@pytest.mark.usefixtures("clock")
async def test_a_broker_that_confirms_late_does_not_hold_up_the_final_reply(stand: Stand) -> None:
    async def talk(_: Puppet) -> Any:
        return in_pieces(*(f"{n} " for n in range(20)))

    member = stand.member({"talk": talk})
    confirms = [member.faults.freeze("reply confirmed") for _ in range(4)]
    async with stand.started(member):
        turn = await stand.send("s", "talk", stream=True)
        async with asyncio.timeout(PROMPT_S):
            final = await stand.expect_reply(turn)
        *deltas, last = stand.replies
        assert last == final
        assert "".join(delta.text for delta in deltas) == final.text
        assert len(deltas) <= 5, "more deltas are unconfirmed than there may be"
        for confirm in confirms:
            confirm.go_on.set()


class FrozenLog(MemoryDeltaLog):
    """A log that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.thawed = asyncio.Event()
        self.asked = 0

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        self.asked += 1
        await self.thawed.wait()
        await super().append(session_id, turn_id, entries)


@pytest.mark.usefixtures("clock")
async def test_a_log_that_is_frozen_holds_up_neither_the_final_reply_nor_the_session(stand: Stand) -> None:
    log = FrozenLog()

    async def talk(_: Puppet) -> Any:
        return in_pieces(*(f"{n} " for n in range(20)))

    async with stand.running({"talk": talk}, delta_log=log) as member:
        turn = await stand.send("s", "talk", stream=True)
        after = await stand.send("s", "next")
        asked = asyncio.get_running_loop().time()
        async with asyncio.timeout(PROMPT_S):
            await stand.expect_reply(turn)
            assert asyncio.get_running_loop().time() == asked, "the reply has waited for the log"
            await stand.expect_reply(after)
            await member.watcher.expect_settled(2)
        assert log.asked == 1
        log.thawed.set()
        assert (await logged(log, turn))[-1][0] == "1048575-0"


@pytest.mark.usefixtures("clock")
async def test_a_log_that_stays_frozen_does_not_hold_up_the_shutdown(stand: Stand) -> None:
    async with asyncio.timeout(3):
        async with stand.running(delta_log=FrozenLog()):
            await stand.expect_reply(await stand.send("s", "x", stream=True))


async def test_a_log_that_fails_costs_the_turn_nothing(stand: Stand) -> None:
    class Broken(MemoryDeltaLog):
        async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
            raise RuntimeError("broken")

    async with stand.running(delta_log=Broken()) as member:
        turn = await stand.send("s", "x", stream=True)
        assert (await stand.expect_reply(turn)).text == "1. x"
        assert await member.watcher.expect_settled(1) == [(turn, "completed")]
        away = await member.watcher.expect("backend_away")
    assert away[0] == {"backend": "stream log", "error": "RuntimeError: broken"}
