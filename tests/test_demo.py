"""The demo: its summary is computed, so a run that went wrong must fail."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sdqueue.agents import ChatContext, ChatMessage
from sdqueue.messages import OutboundReply
from sdqueue.sessions import InMemorySessionStore, SessionRecord

EXAMPLES = Path(__file__).parent.parent / "examples"


async def test_the_demo_loses_nothing_while_a_consumer_is_killed(tmp_path: Path) -> None:
    """As ``make demo`` runs it: without a terminal, in well under a minute."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SDQUEUE_")} | {"TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / "demo.py"),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output = (await process.communicate())[0].decode()

    assert process.returncode == 0, output
    assert "turns sent 15, replies 15, lost 0, doubled 0, out of order 0" in output
    killed = re.search(r"consumer (\w+) was killed \(SIGKILL, process \d+\) in the middle of turn ada-3", output)
    assert killed, output
    survivor = {"one": "two", "two": "one"}[killed[1]]
    assert re.search(rf"ada #3  consumer {survivor}: Your name is Ada\.", output)
    assert re.search(r"started again after the kill: .*ada-3", output)
    assert list(tmp_path.iterdir()) == [], "the temporary folder was left behind"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("demo")


@pytest.fixture
async def run(demo: ModuleType) -> Any:
    """What a good run leaves, to be spoiled: what was seen, and the store."""
    seen, store = demo.Seen(), InMemorySessionStore()
    for session, script in demo.SCRIPT.items():
        items = []
        for seq, (text, answer) in enumerate(script, start=1):
            turn = f"{session}-{seq}"
            seen.sent[session].append(turn)
            seen.replies.append(
                OutboundReply(id=f"{turn}:0", turn_id=turn, session_id=session, seq=seq, kind="final", text=answer)
            )
            items += [ChatMessage("user", text), ChatMessage("assistant", answer)]
        await store.save(session, SessionRecord(chat_ctx=ChatContext(items)))
    return seen, store


async def change(store: InMemorySessionStore, session: str, items: list[ChatMessage]) -> None:
    record = await store.load(session)
    assert record is not None
    record.chat_ctx = ChatContext(items)
    record.stored = replace(record.stored, items=0)
    await store.save(session, record)


async def check_summary(
    demo: ModuleType, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, holds: bool, says: str
) -> None:
    seen, store = run
    assert await demo.summarise(seen, store, tmp_path / "journal", hit=True) is holds
    assert says in capsys.readouterr().out


async def test_a_good_run_is_called_good(demo: ModuleType, run: Any, tmp_path: Path, capsys: Any) -> None:
    await check_summary(demo, run, tmp_path, capsys, holds=True, says="lost 0, doubled 0, out of order 0")


async def test_a_repeated_reply_under_the_same_id_is_no_double(
    demo: ModuleType, run: Any, tmp_path: Path, capsys: Any
) -> None:
    run[0].replies.append(run[0].replies[0])
    await check_summary(demo, run, tmp_path, capsys, holds=True, says="lost 0, doubled 0, out of order 0")


async def test_a_missing_reply_is_lost(demo: ModuleType, run: Any, tmp_path: Path, capsys: Any) -> None:
    run[0].replies.pop()
    await check_summary(demo, run, tmp_path, capsys, holds=False, says="replies 14, lost 1, doubled 0")


async def test_a_second_answer_to_a_turn_is_a_double(demo: ModuleType, run: Any, tmp_path: Path, capsys: Any) -> None:
    run[0].replies.append(run[0].replies[0].model_copy(update={"id": "ada-1:1"}))
    await check_summary(demo, run, tmp_path, capsys, holds=False, says="lost 0, doubled 1")


async def test_an_effect_that_is_stored_twice_is_a_double(
    demo: ModuleType, run: Any, tmp_path: Path, capsys: Any
) -> None:
    record = await run[1].load("ada")
    await change(run[1], "ada", record.chat_ctx.items + record.chat_ctx.items[-2:])
    await check_summary(demo, run, tmp_path, capsys, holds=False, says="lost 0, doubled 1")


async def test_an_effect_that_is_not_stored_is_lost(demo: ModuleType, run: Any, tmp_path: Path, capsys: Any) -> None:
    record = await run[1].load("ada")
    await change(run[1], "ada", record.chat_ctx.items[:-2])
    await check_summary(demo, run, tmp_path, capsys, holds=False, says="lost 1, doubled 0")


async def test_turns_that_changed_places_are_out_of_order(
    demo: ModuleType, run: Any, tmp_path: Path, capsys: Any
) -> None:
    items = (await run[1].load("ada")).chat_ctx.items
    await change(run[1], "ada", items[2:4] + items[:2] + items[4:])
    await check_summary(demo, run, tmp_path, capsys, holds=False, says="lost 0, doubled 0, out of order 2")


async def test_replies_that_changed_places_are_out_of_order(
    demo: ModuleType, run: Any, tmp_path: Path, capsys: Any
) -> None:
    replies = run[0].replies
    replies[0], replies[1] = replies[1], replies[0]
    await check_summary(demo, run, tmp_path, capsys, holds=False, says="lost 0, doubled 0, out of order 2")


async def test_a_kill_that_came_too_late_is_no_proof(demo: ModuleType, run: Any, tmp_path: Path) -> None:
    assert await demo.summarise(*run, tmp_path / "journal", hit=False) is False


async def test_the_bot_of_the_readme_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from sdqueue.agents import load_agent_factory

    agent = load_agent_factory("bot:answer")()
    assert (await agent.turn("hello")).text == "You said 'hello'."
    assert (await agent.turn("again")).text == "You said 'again'. Before that you said 'hello'."
