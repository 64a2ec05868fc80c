"""The parts of streaming: places, what is handed on, the writer in the background, and following a log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sdqueue.brokers import MemoryBroker, Topology
from sdqueue.client import Client
from sdqueue.errors import ConfigurationError, InvalidOffset, ReplyTimeout, StreamNotFound, TurnFailed
from sdqueue.messages import OutboundReply, ReplyKind
from sdqueue.streaming import BEGINNING, LogEntry, LogWriter, MemoryDeltaLog, NewestAttempt, StreamOffset
from sdqueue.streaming import writer as writer_module

# Places


def test_places_grow_with_deltas_attempts_ends_and_replays() -> None:
    places = [
        BEGINNING,
        StreamOffset.of(1, 0),
        StreamOffset.of(1, 1),
        StreamOffset.of(2, 0),
        StreamOffset.of(10**9, 10**9),
        StreamOffset.end(),
        StreamOffset.of(1, 0, replay=1),
        StreamOffset.end(replay=1),
        StreamOffset.of(1, 0, replay=1_000_000),
    ]
    assert places == sorted(set(places))
    assert [str(place) for place in places[:3]] == ["0-0", "1-1", "1-2"]
    assert [StreamOffset.parse(str(place)) for place in places] == places
    assert [place.is_end for place in places] == [place in (places[5], places[7]) for place in places]
    assert StreamOffset.parse("0") == BEGINNING


@pytest.mark.parametrize("text", ["", "x", "-1", "1-", "1-2-3", "1-x", " 1-1", "$", "1" * 16, "¹-1"])
def test_what_is_no_place_is_shown(text: str) -> None:
    with pytest.raises(InvalidOffset) as error:
        StreamOffset.parse(text)
    assert repr(text) in str(error.value)


# What is handed on


def reply(
    text: str, attempt: int = 0, index: int = 0, *, word: str = "w", kind: ReplyKind = "delta", restart: bool = False
) -> OutboundReply:
    place = {"attempt": attempt, "index": index, "restart": restart, "offset": f"{attempt}-{index + 1}"}
    return OutboundReply(
        id=f"t:0.{attempt}-{word}.{index}" if attempt else "t:0",
        turn_id="t",
        session_id="s",
        seq=1,
        kind=kind,
        text=text,
        metadata={"stream": place} if attempt else {},
    )


def handed_on(*replies: OutboundReply) -> list[tuple[str, bool]]:
    newest = NewestAttempt()
    found = [newest.accept(each) for each in replies]
    return [(each.text, bool(each.stream and each.stream.restart)) for each in found if each is not None]


def test_an_older_attempt_is_dropped_once_a_newer_one_was_seen() -> None:
    replies = [reply("a", 1, 0), reply("b", 2, 0, restart=True), reply("late", 1, 1), reply("c", 2, 1)]
    assert handed_on(*replies) == [("a", False), ("b", True), ("c", False)]


def test_repeats_are_dropped_and_gaps_are_not() -> None:
    replies = [reply("a", 1, 0), reply("b", 1, 1), reply("b", 1, 1), reply("a", 1, 0), reply("d", 1, 3)]
    assert handed_on(*replies) == [("a", False), ("b", False), ("d", False)]


def test_an_attempt_whose_first_delta_was_lost_starts_over_all_the_same() -> None:
    assert handed_on(reply("a", 1, 0), reply("c", 2, 1), reply("d", 2, 2)) == [
        ("a", False), ("c", True), ("d", False),
    ]  # fmt: skip


def test_who_reads_on_within_an_attempt_is_not_told_to_start_over() -> None:
    assert handed_on(reply("c", 2, 1), reply("d", 2, 2)) == [("c", False), ("d", False)]


def test_two_attempts_of_one_number_are_told_apart() -> None:
    replies = [reply("a", 1, 0, word="x"), reply("b", 1, 0, word="y"), reply("late", 1, 1, word="x")]
    assert handed_on(*replies, reply("c", 1, 1, word="y")) == [("a", False), ("b", True), ("c", False)]


def test_deltas_of_an_older_release_pass() -> None:
    assert handed_on(reply("a"), reply("b")) == [("a", False), ("b", False)]


# The writer


class Slow(MemoryDeltaLog):
    """Answers when it is told to, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.errors: list[Exception] = []
        self.batches: list[int] = []

    async def append(self, session_id: str, turn_id: str, entries: Sequence[LogEntry]) -> None:
        await self.go_on.wait()
        self.batches.append(len(entries))
        if self.errors:
            raise self.errors.pop(0)
        await super().append(session_id, turn_id, entries)

    async def bodies(self, turn_id: str = "t") -> list[str]:
        entries = await self.read("s", turn_id, after=BEGINNING, wait_s=0)
        return [entry.body for entry in entries or ()]


def delta(index: int, attempt: int = 1) -> LogEntry:
    return LogEntry(StreamOffset.of(attempt, index), f"{attempt}.{index}")


END = LogEntry(StreamOffset.end(), "end")


async def test_what_comes_while_the_log_is_slow_is_written_together() -> None:
    log, troubles = Slow(), list[str]()
    writer = LogWriter(log, troubles.append)
    writer.line("s", "t").write(delta(0))
    await asyncio.sleep(0)
    for index in range(1, 50):
        writer.line("s", "t").write(delta(index))
    writer.line("s", "t").write(END)
    assert not await writer.line("s", "t").written(timeout=0.01)
    log.go_on.set()
    assert await writer.line("s", "t").written(timeout=60)
    assert log.batches == [1, 50]
    assert (await log.bodies())[-2:] == ["1.49", "end"]
    assert troubles == []
    assert writer.busy == {}
    assert writer.size == 0


async def test_memory_is_bounded_and_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader gets is the beginning without a gap, and the end, which has all."""
    monkeypatch.setattr(writer_module, "MOST_ENTRIES", 10)
    log = Slow()
    line = LogWriter(log, lambda _: None).line("s", "t")
    line.write(delta(0))
    await asyncio.sleep(0)
    for index in range(1, 1000):
        line.write(delta(index))
    log.go_on.set()
    assert await line.written(timeout=60)  # it has room again, but what follows would stand behind a gap
    line.write(delta(1000))
    line.write(END)
    assert await line.written(timeout=60)
    assert await log.bodies() == [*(f"1.{index}" for index in range(11)), "end"]


async def test_another_attempt_is_written_again_after_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MOST_ENTRIES", 2)
    log = Slow()
    writer = LogWriter(log, lambda _: None)
    for index in range(10):
        writer.line("s", "t").write(delta(index))
    await asyncio.sleep(0)
    writer.line("s", "t").write(delta(0, attempt=2))
    log.go_on.set()
    assert await writer.line("s", "t").written(timeout=60)
    assert await log.bodies() == ["2.0"]


async def test_all_turns_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MOST_BYTES", 100)
    log = Slow()
    writer = LogWriter(log, lambda _: None)
    for turn in range(50):
        writer.line("s", f"t{turn}").write(LogEntry(StreamOffset.of(1, 0), "x" * 10))
    assert writer.size == 100
    log.go_on.set()
    assert await writer.line("s", "t0").written(timeout=60)
    assert await log.bodies("t9") == ["x" * 10]
    assert await log.bodies("t10") == []
    assert writer.size == 0


async def test_the_end_is_tried_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PAUSE_S", 0.0)
    log, troubles = Slow(), list[str]()
    writer = LogWriter(log, troubles.append)
    log.go_on.set()
    log.errors = [OSError("one"), OSError("two")]
    writer.line("s", "t").write(delta(0))
    writer.line("s", "t").write(END)
    assert await writer.line("s", "t").written(timeout=60)
    assert await log.bodies() == ["end"]
    assert troubles == ["OSError: one", "OSError: two"]
    log.errors = [OSError(str(number)) for number in range(5)]
    writer.line("s", "u").write(END)
    assert await writer.line("s", "u").written(timeout=60)
    assert len(log.errors) == 5 - writer_module.ENDING_TRIES


async def test_an_attempt_of_which_an_append_failed_is_written_no_further() -> None:
    """Given pieces that were said while the failing append was under way, then these are left out too: no gap."""
    log = Slow()
    line = LogWriter(log, lambda _: None).line("s", "t")
    log.errors = [OSError("one")]
    line.write(delta(0))
    await asyncio.sleep(0)
    for index in range(1, 4):
        line.write(delta(index))
    log.go_on.set()
    assert await line.written(timeout=60)
    line.write(delta(4))
    line.write(END)
    assert await line.written(timeout=60)
    assert await log.bodies() == ["end"]


async def test_a_writer_that_closes_writes_what_is_left() -> None:
    log = Slow()
    writer = LogWriter(log, lambda _: None)
    writer.line("s", "t").write(END)
    log.go_on.set()
    await writer.aclose()
    assert await log.bodies() == ["end"]


# Following


@pytest.fixture
async def log() -> MemoryDeltaLog:
    return MemoryDeltaLog()


@pytest.fixture
async def client(log: MemoryDeltaLog) -> Client:
    return Client(MemoryBroker(Topology("x", 1)), delta_log=log)


def entry(text: str, attempt: int = 1, index: int = 0) -> LogEntry:
    return LogEntry(StreamOffset.of(attempt, index), reply(text, attempt, index).to_bytes().decode())


def end(text: str, kind: ReplyKind = "final") -> LogEntry:
    return LogEntry(StreamOffset.end(), reply(text, kind=kind).to_bytes().decode())


async def texts(client: Client, **options: Any) -> list[str]:
    return [each.text async for each in client.read_stream("s", "t", **options)]


async def test_a_reader_goes_from_what_was_said_to_what_is_being_said(client: Client, log: MemoryDeltaLog) -> None:
    await log.append("s", "t", [entry("a", index=0), entry("b", index=1)])
    reading = client.read_stream("s", "t")
    assert [(await anext(reading)).text for _ in range(2)] == ["a", "b"]
    more = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    await log.append("s", "t", [entry("c", index=2), end("abc")])
    assert (await more).text == "c"
    assert [each.text async for each in reading] == ["abc"]
    assert await texts(client, after="1-2") == ["c", "abc"]


async def test_after_a_delta_of_an_attempt_that_failed_comes_the_next_attempt(
    client: Client, log: MemoryDeltaLog
) -> None:
    await log.append("s", "t", [entry("a", 1, 0), entry("b", 1, 1)])
    await log.append("s", "t", [entry("A", 3, 0), end("A")])
    assert await texts(client, after="1-2") == ["A", "A"]


async def test_who_comes_back_from_an_older_attempt_is_told_to_start_over_whatever_is_left_of_the_newer(
    client: Client, log: MemoryDeltaLog
) -> None:
    """Given a newer attempt whose first deltas are kept no more, or a replay, whose first attempt has the number 1."""
    await log.append("s", "t", [entry("C", 2, 2), entry("D", 2, 3), end("ABCD")])
    found = [reply async for reply in client.read_stream("s", "t", after="1-2")]
    assert [bool(each.stream and each.stream.restart) for each in found] == [True, False, False]
    found = [reply async for reply in client.read_stream("s", "t", after="2-3")]
    assert [bool(each.stream and each.stream.restart) for each in found] == [False, False]
    again = reply("x", 1, 0).model_copy(
        update={"metadata": {"stream": {"attempt": 1, "index": 0, "restart": False, "offset": "1048577-1"}}}
    )
    await log.append("s", "t", [LogEntry(StreamOffset.of(1, 0, replay=1), again.to_bytes().decode())])
    replayed = await anext(client.read_stream("s", "t", after="1-2"))
    assert replayed.stream is not None
    assert replayed.stream.restart


async def test_the_end_of_a_reader_is_as_that_of_one_who_asks(client: Client, log: MemoryDeltaLog) -> None:
    await log.append("s", "t", [end("no", "error")])
    with pytest.raises(TurnFailed, match="failed: no"):
        await texts(client)
    assert await texts(client, raise_on_error=False) == ["no"]


async def test_silence_is_told_from_a_stream_that_is_not_there(client: Client, log: MemoryDeltaLog) -> None:
    with pytest.raises(StreamNotFound, match=r"within 0\.05 s none came"):
        await texts(client, timeout=0.05)
    with pytest.raises(StreamNotFound, match=r"was forgotten since.*id='t'"):
        await texts(client, after="1-1")
    await log.append("s", "t", [entry("a")])
    with pytest.raises(ReplyTimeout):
        await texts(client, timeout=0.05)
    with pytest.raises(InvalidOffset):
        await texts(client, after="yesterday")


async def test_a_client_without_a_log_says_how_to_get_one() -> None:
    client = Client(MemoryBroker(Topology("x", 1)))
    with pytest.raises(ConfigurationError, match="SDQUEUE_STREAM_URL"):
        await texts(client)
