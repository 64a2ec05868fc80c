"""History limits and superdialog's agents: those that are nothing but their conversation, and those with a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdqueue import InMemorySessionStore, MessageLimit, SessionWorker
from sdqueue.agents import ChatMessage, keeps_conversation
from tests.agents.superdialog.service import Service, serving
from tests.agents.superdialog.shop import (
    CONVERSATION,
    make_langchain_agent,
    make_llm_agent,
    make_playbook_agent,
)

LIMIT = MessageLimit(6)


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(tmp_path, monkeypatch) as service:
        yield service


async def _converse(make: Callable[[], Any], cached: int, **more: Any) -> tuple[list[str], list[ChatMessage]]:
    store = InMemorySessionStore()
    worker = SessionWorker(agent_factory=make, store=store, max_sessions=cached, **more)
    answers = []
    for text in CONVERSATION:
        async with worker.acquire("s") as handle:
            answers.append((await handle.turn(text)).text)
    record = await store.load("s")
    assert record is not None
    return answers, record.chat_ctx.items


@pytest.mark.parametrize("make", [make_llm_agent, make_langchain_agent])
async def test_agents_that_are_their_conversation_are_kept_within_the_limit(make: Callable[[], Any]) -> None:
    """Given a limit, then an agent that stays in memory answers as one that is built anew for every turn."""
    answers, items = await _converse(make, 1000, history=LIMIT)
    assert (answers, items) == await _converse(make, 0, history=LIMIT)
    assert len(items) <= LIMIT.limit
    assert answers != (await _converse(make, 1000))[0], "the limit has changed nothing that the model sees"


async def test_a_playbook_keeps_its_conversation_itself() -> None:
    assert keeps_conversation(make_playbook_agent())
    assert await _converse(make_playbook_agent, 1000, history=LIMIT) == await _converse(make_playbook_agent, 1000)
