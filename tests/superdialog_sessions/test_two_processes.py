"""superdialog's own SessionWorker on our stores and locks, in two processes at once."""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdqueue import SessionRecord
from tests.nursery import Forked, forked
from tests.superdialog_sessions.application import Plan, open_backends, run
from tests.superdialog_sessions.brains import BRAINS

KEEPING = 1000
"""superdialog's default: every agent of the test is kept."""


@pytest.fixture(params=["file", "sqlite", "redis", "redis-sealed"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Plan:
    where = request.getfixturevalue("redis_url") if request.param.startswith("redis") else str(tmp_path)
    return Plan(request.param, where, namespace, "", KEEPING)


@pytest.mark.parametrize("max_sessions", [0, KEEPING])
async def test_no_turn_is_lost_and_every_history_is_in_order(backend: Plan, max_sessions: int) -> None:
    """Given two processes, each taking turns in the same sessions of three kinds of agents, when both are done, then
    every session has every turn once, and each was answered by an agent that knew all the turns before.

    A worker that keeps no agents never meets a conflict. One that does is told of each stale one, and repeats the turn.
    """
    plans = [_plan(backend, name, max_sessions) for name in "AB"]
    async with _process(plans[0]) as first, _process(plans[1]) as second:
        begun = await asyncio.gather(_begun(first), _begun(second))
        lines = [
            [*b, *more] for b, more in zip(begun, await asyncio.gather(_talked(first), _talked(second)), strict=True)
        ]
    said = _said_by_session([*lines[0], *lines[1]])
    records = await _records(plans[0])
    assert set(records) == set(said) == {f"{brain}-{n}" for brain in BRAINS for n in range(plans[0].sessions)}
    for session_id, record in records.items():
        texts = _texts(record)
        assert sorted(texts) == sorted(f"{name} {n}" for name in "AB" for n in range(plans[0].turns))
        assert dict(said[session_id]) == {text: f"{n}: {text}" for n, text in enumerate(texts, 1)}
        _check_answers(record, texts)
        for name in "AB":
            assert [text for text in texts if text[0] == name] == [f"{name} {n}" for n in range(plans[0].turns)]
    conflicts = sum(line["conflicts"] for line in [*lines[0], *lines[1]])
    assert (conflicts > 0) == (max_sessions > 0), "the processes did not meet, or one met a conflict without reason"


async def test_a_killed_process_takes_nothing_with_it(backend: Plan) -> None:
    """Given two processes in the same sessions, when one is killed (SIGKILL) in the middle, then the other goes on,
    and all that the dead one has announced is there."""
    plans = [replace(_plan(backend, "A", 0), dies_after=15), _plan(backend, "B", 0)]
    async with _process(plans[0]) as dying, _process(plans[1]) as living:
        announced, lines = await asyncio.gather(_begun(dying), _begun(living))
        dying.say("go on")
        lines += await _talked(living)
        announced += _read(await dying.stdout.read())
    assert len(announced) == 15
    said = _said_by_session([*announced, *lines])
    for session_id, record in (await _records(plans[0])).items():
        texts = _texts(record)
        answers = {text: f"{n}: {text}" for n, text in enumerate(texts, 1)}
        assert len(answers) == len(texts)
        missing = [text for text in dict(said[session_id]) if text not in answers]
        assert not missing
        assert {text: answers[text] for text in dict(said[session_id])} == dict(said[session_id])
        # What it saved and could not announce any more: its last turn, at most.
        assert len(answers) - len(said[session_id]) <= 1


def _plan(backend: Plan, name: str, max_sessions: int) -> Plan:
    return Plan(backend.backend, backend.where, backend.namespace, name, max_sessions)


@asynccontextmanager
async def _process(plan: Plan) -> AsyncIterator[Forked]:
    async with forked(run, plan, environ=os.environ) as process:
        if (line := await process.stdout.readline()) != b"ready\n":
            pytest.fail((line + await process.stdout.read()).decode())
        yield process


async def _begun(process: Forked) -> list[dict[str, Any]]:
    """What it has to say in the first turn of each session."""
    process.say("begin")
    out = b""
    while (line := await process.stdout.readline()) != b"begun\n":
        assert line, out.decode()
        out += line
    return _read(out)


async def _talked(process: Forked) -> list[dict[str, Any]]:
    """All that it has to say then."""
    process.say("go on")
    out = await process.stdout.read()
    assert await process.wait() == 0, out.decode()
    return _read(out)


def _read(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def _said_by_session(lines: list[dict[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    said = defaultdict(list)
    for line in lines:
        said[line["session_id"]].append((line["text"], line["answer"]))
    return said


async def _records(plan: Plan) -> dict[str, SessionRecord]:
    opened = open_backends(plan)
    records = {}
    for session_id in (f"{brain}-{n}" for brain in BRAINS for n in range(plan.sessions)):
        record = await opened["store"].load(session_id)
        assert record is not None
        records[session_id] = record
    for each in opened.values():
        await each.aclose()
    return records


def _texts(record: SessionRecord) -> list[str]:
    return [message.content for message in record.chat_ctx.items if message.role == "user"]


def _check_answers(record: SessionRecord, texts: list[str]) -> None:
    """The conversation is question and answer; and a machine has gone one node on with each."""
    said = [(m.role, m.content) for m in record.chat_ctx.items]
    assert said == [line for n, text in enumerate(texts, 1) for line in (("user", text), ("assistant", f"{n}: {text}"))]
    if record.flow_state is not None:
        log = [entry["user_message"] for entry in record.flow_state.transition_log]
        assert log == texts
        assert record.flow_state.current_node_id == f"n{len(texts)}"
        assert record.flow_state.userdata == {"last": texts[-1]}
