"""DeltaLogSuite: what every log of streamed answers must do, as a pytest class to derive from."""

# ruff: noqa: D102 -- the names of the tests are their documentation

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar
from uuid import uuid4

import pytest

from sdqueue.streaming import BEGINNING, DeltaLog, LogEntry, StreamOffset
from sdqueue.testing.records import HOSTILE_IDS


def _delta(attempt: int, index: int, *, replay: int = 0) -> LogEntry:
    return LogEntry(StreamOffset.of(attempt, index, replay=replay), f'{{"text":"{replay}.{attempt}.{index} é"}}')


def _end(text: str = "end", *, replay: int = 0) -> LogEntry:
    return LogEntry(StreamOffset.end(replay=replay), text)


class DeltaLogSuite:
    """Every log of streamed answers passes these. Derive from it, and give it your log by fixtures::

        class TestMyLog(DeltaLogSuite):
            @pytest.fixture
            async def log(self):
                log = MyLog()
                yield log
                await log.aclose()

            @pytest.fixture
            async def small_log(self):  # keeps 10 entries for 0.2 s
                ...

    The tests are coroutines, for pytest-asyncio in auto mode. Overriding :meth:`second_log` tests two processes.
    """

    patience_s: ClassVar[float] = 10.0
    """Seconds to wait for what must come."""

    slack: ClassVar[int] = 0
    """So many entries more than it was told may a log keep."""

    async def second_log(self, log: DeltaLog) -> DeltaLog:
        """Another object for the same log, as another process has it; whoever makes it closes it.

        Default: the log itself, where it lives in the object.
        """
        return log

    @pytest.fixture
    def session_id(self) -> str:
        """A session that nobody else has."""
        return f"suite-{uuid4().hex}"

    async def read(self, log: DeltaLog, session_id: str, after: StreamOffset = BEGINNING) -> Sequence[LogEntry] | None:
        return await log.read(session_id, "t", after=after, wait_s=0)

    async def test_entries_come_back_in_order_from_any_offset(self, log: DeltaLog, session_id: str) -> None:
        said = [_delta(1, index) for index in range(5)]
        await log.append(session_id, "t", said[:2])
        await log.append(session_id, "t", said[2:])
        assert await self.read(log, session_id) == said
        for number, entry in enumerate(said):
            assert await self.read(log, session_id, entry.offset) == said[number + 1 :]

    async def test_what_is_not_there_is_told_from_what_has_no_more(self, log: DeltaLog, session_id: str) -> None:
        assert await self.read(log, session_id) is None
        assert await self.read(log, session_id, StreamOffset.of(1, 7)) is None
        await log.append(session_id, "t", [_delta(1, 0)])
        assert list(await self.read(log, session_id, _delta(1, 0).offset) or ()) == []
        assert await self.read(log, session_id, _delta(1, 0).offset) is not None
        assert await log.read(session_id, "other", after=BEGINNING, wait_s=0) is None
        assert await log.read(f"{session_id}-other", "t", after=BEGINNING, wait_s=0) is None

    async def test_a_repeat_is_ignored_and_what_follows_it_is_not(self, log: DeltaLog, session_id: str) -> None:
        await log.append(session_id, "t", [_delta(1, 0), _delta(1, 1)])
        await log.append(session_id, "t", [_delta(1, 1), _delta(1, 2)])
        assert await self.read(log, session_id) == [_delta(1, 0), _delta(1, 1), _delta(1, 2)]

    async def test_a_newer_attempt_replaces_the_older(self, log: DeltaLog, session_id: str) -> None:
        """And what the older one still says, in a process that stood still, does not get in."""
        await log.append(session_id, "t", [_delta(1, 0), _delta(1, 1)])
        await log.append(session_id, "t", [_delta(2, 0)])
        await log.append(session_id, "t", [_delta(1, 2), _delta(1, 3)])
        await log.append(session_id, "t", [_delta(2, 1)])
        assert await self.read(log, session_id) == [_delta(2, 0), _delta(2, 1)]
        assert await self.read(log, session_id, _delta(1, 1).offset) == [_delta(2, 0), _delta(2, 1)]

    async def test_the_end_stands_behind_the_deltas_once(self, log: DeltaLog, session_id: str) -> None:
        """Whoever answers the redelivery writes it again; a zombie's deltas come after it in vain."""
        await log.append(session_id, "t", [_delta(1, 0), _end()])
        await log.append(session_id, "t", [_end("another")])
        await log.append(session_id, "t", [_delta(1, 1), _delta(3, 0)])
        assert await self.read(log, session_id) == [_delta(1, 0), _end()]

    async def test_an_end_alone_is_a_log(self, log: DeltaLog, session_id: str) -> None:
        await log.append(session_id, "t", [_end()])
        assert await self.read(log, session_id) == [_end()]

    async def test_a_replay_replaces_the_end_before_it(self, log: DeltaLog, session_id: str) -> None:
        await log.append(session_id, "t", [_delta(1, 0), _delta(4, 0), _end("error")])
        await log.append(session_id, "t", [_delta(1, 0, replay=1)])
        await log.append(session_id, "t", [_end("error")])
        await log.append(session_id, "t", [_end("answer", replay=1)])
        assert await self.read(log, session_id) == [_delta(1, 0, replay=1), _end("answer", replay=1)]

    async def test_a_reader_waits_for_what_comes(self, log: DeltaLog, session_id: str) -> None:
        other = await self.second_log(log)
        try:
            for after, entry in ((BEGINNING, _delta(1, 0)), (_delta(1, 0).offset, _end())):
                waiting = asyncio.create_task(other.read(session_id, "t", after=after, wait_s=self.patience_s))
                done, _ = await asyncio.wait({waiting}, timeout=0.1)
                assert not done, "it did not wait"
                await log.append(session_id, "t", [entry])
                async with asyncio.timeout(self.patience_s / 2):
                    assert await waiting == [entry]
        finally:
            if other is not log:
                await other.aclose()

    async def test_a_reader_waits_no_longer_than_told(self, log: DeltaLog, session_id: str) -> None:
        async with asyncio.timeout(self.patience_s):
            assert await log.read(session_id, "t", after=BEGINNING, wait_s=0.05) is None
            await log.append(session_id, "t", [_delta(1, 0)])
            assert list(await log.read(session_id, "t", after=_delta(1, 0).offset, wait_s=0.05) or ()) == []

    async def test_a_reader_that_is_cancelled_harms_nobody(self, log: DeltaLog, session_id: str) -> None:
        reads = [log.read(session_id, "t", after=BEGINNING, wait_s=self.patience_s) for _ in range(3)]
        first, *others = [asyncio.create_task(read) for read in reads]
        await asyncio.wait({first}, timeout=0.1)
        first.cancel()
        await asyncio.wait({first})
        await log.append(session_id, "t", [_delta(1, 0)])
        async with asyncio.timeout(self.patience_s):
            assert await asyncio.gather(*others) == [[_delta(1, 0)]] * 2
            assert await self.read(log, session_id) == [_delta(1, 0)]

    async def test_a_long_answer_is_read_in_parts(self, log: DeltaLog, session_id: str) -> None:
        said = [_delta(1, index) for index in range(800)]
        await log.append(session_id, "t", said)
        found: list[LogEntry] = []
        while more := await self.read(log, session_id, found[-1].offset if found else BEGINNING):
            found += more
        assert found == said

    async def test_turns_with_any_ids_are_kept_apart(self, log: DeltaLog, session_id: str) -> None:
        names = [(session_id + name, turn) for name in HOSTILE_IDS for turn in ("t", "t}", "{t")]
        for number, (session, turn) in enumerate(names):
            await log.append(session, turn, [LogEntry(StreamOffset.of(1, 0), str(number))])
        for number, (session, turn) in enumerate(names):
            found = await log.read(session, turn, after=BEGINNING, wait_s=0)
            assert [entry.body for entry in found or ()] == [str(number)]

    async def test_appends_at_once_are_all_kept(self, log: DeltaLog, session_id: str) -> None:
        turns = [f"t{number}" for number in range(20)]
        await asyncio.gather(*(log.append(session_id, turn, [_delta(1, 0), _end(turn)]) for turn in turns))
        for turn in turns:
            assert await log.read(session_id, turn, after=BEGINNING, wait_s=0) == [_delta(1, 0), _end(turn)]

    async def test_of_too_long_an_answer_the_last_is_kept(self, small_log: DeltaLog, session_id: str) -> None:
        for index in range(400):
            await small_log.append(session_id, "t", [_delta(1, index)])
        await small_log.append(session_id, "t", [_end()])
        found = list(await self.read(small_log, session_id) or ())
        assert 10 <= len(found) <= 10 + self.slack
        assert found[-2:] == [_delta(1, 399), _end()]

    async def test_a_log_is_forgotten_some_time_after_its_last_entry(
        self, small_log: DeltaLog, session_id: str
    ) -> None:
        await small_log.append(session_id, "t", [_delta(1, 0)])
        async with asyncio.timeout(self.patience_s):
            while await self.read(small_log, session_id) is not None:  # noqa: ASYNC110 -- nothing tells of it
                await asyncio.sleep(0.05)
        await small_log.append(session_id, "t", [_end()])
        assert await self.read(small_log, session_id) == [_end()]

    async def test_closing_twice_is_fine(self, log: DeltaLog) -> None:
        await log.aclose()
        await log.aclose()
