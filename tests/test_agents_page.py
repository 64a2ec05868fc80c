"""docs/agents.md is tried: its code runs as a user's ``bot.py``, and each name in its headings is an agent."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic_ai.models.test import TestModel

from sdqueue import InMemorySessionStore, SessionWorker
from sdqueue.agents import TurnContext, TurnResult, as_turn_result, load_agent_factory, set_current_turn

PAGE = (Path(__file__).parent.parent / "docs" / "agents.md").read_text()
NAMES = re.findall(r"^## .*`bot:(\w+)`$", PAGE, re.MULTILINE)


@pytest.fixture
def bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's code as a module."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    (tmp_path / "bot.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bot", raising=False)
    yield importlib.import_module("bot")
    sys.modules.pop("bot", None)


async def talk(name: str, *texts: str) -> list[TurnResult]:
    """A session in which every turn has a new agent."""
    set_current_turn(TurnContext("turn-1", "s"))
    worker = SessionWorker(agent_factory=load_agent_factory(name), store=InMemorySessionStore(), max_sessions=0)
    said = []
    for text in texts:
        async with worker.acquire("s") as handle:
            said.append(as_turn_result(await handle.turn(text)))
    return said


def test_each_name_is_an_agent(bot: Any) -> None:
    assert NAMES == ["answer", "Counter", "make_machine", "chain", "graph", "desk", "helper"]
    for name in NAMES:
        assert hasattr(load_agent_factory(f"bot:{name}")(), "turn")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("answer", ["You said 'one', after 0 messages.", "You said 'two', after 2 messages."]),
        ("Counter", ["Turn 1.", "Turn 2."]),
        ("chain", ["2 messages", "4 messages"]),
        ("graph", ["How many?", "Ordered two."]),
    ],
)
async def test_those_without_a_model_answer(bot: Any, name: str, said: list[str]) -> None:
    assert [result.text for result in await talk(f"bot:{name}", "one", "two")] == said


async def test_the_desk_gives_the_money_back_and_hands_over(bot: Any) -> None:
    """Its tool knows the turn."""
    bot.desk.model = ScriptedModel(
        [
            [function_call("refund", {"order": "A1"}, call_id="c1")],
            [assistant_message("Done.")],
            [function_call("transfer_to_sales", {}, call_id="c2")],
        ]
    )
    bot.sales.model = ScriptedModel([[assistant_message("What would you like?")], [assistant_message("Done.")]])
    said = await talk("bot:desk", "refund A1", "now sell me something", "thanks")
    assert [result.text for result in said] == ["Done.", "What would you like?", "Done."]
    outputs = [item["output"] for item in bot.sales.model.last_call.input if item.get("type") == "function_call_output"]
    assert outputs[0] == "refunded A1, once for turn-1"


async def test_the_helper_looks_up(bot: Any) -> None:
    with bot.helper.override(model=TestModel()):
        (result,) = await talk("bot:helper", "where is it?")
    assert result.text == '{"look_up":"a is on its way"}'
    assert [call.name for call in result.tool_calls] == ["look_up"]


async def test_a_long_conversation_is_summarised(bot: Any) -> None:
    for n in range(6):
        async with bot.summarising.acquire("s") as handle:
            await handle.turn(f"number {n}")
    async with bot.summarising.acquire("s") as handle:
        said = [message.content for message in handle.session.chat_ctx.items]
    assert len(said) <= 6
    assert "messages, the first of them: " in said[0]
    assert said[-2] == "number 5"
