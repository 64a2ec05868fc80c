"""docs/streaming.md is tried, not only read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import sdqueue
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.messages import OutboundReply
from sdqueue.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text()
SHOWING, COMING_BACK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DECISION = (Path(__file__).parents[2] / "docs" / "decisions" / "0022-streaming.md").read_text()


async def words(text: str, history: object) -> AsyncIterator[str]:
    for word in ("once ", "upon ", "a time"):
        yield word
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("code", [SHOWING, COMING_BACK], ids=["showing", "coming back"])
async def test_the_code_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, on the default backends."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("SDQUEUE_") and not n.startswith("SDQUEUE_TEST_")]:
        monkeypatch.delenv(name)
    settings = Settings.load()
    async with sdqueue.open_broker(settings) as broker:
        await broker.apply()
        worker = sdqueue.SessionWorker(agent_factory=lambda: sdqueue.FunctionAgent(words))
        log = sdqueue.open_delta_log(settings)
        assert log is not None
        consumer = Consumer(broker, worker, ConsumerOptions.from_settings(settings), delta_log=log)
        async with consumer, asyncio.timeout(30):
            found: dict[str, Any] = {}
            exec(f"async def main():\n{textwrap.indent(code, '    ')}\n    return locals()", found)
            found = await found["main"]()
        await log.aclose()
    if code is SHOWING:
        assert found["page"] == "once upon a time"
    else:
        assert "final once upon a time" in capsys.readouterr().out
        assert found["reply"].text == "once upon a time"


def test_the_delta_that_is_shown_is_one() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    delta = OutboundReply.decode(shown.encode())
    assert delta.stream is not None
    assert delta.stream.model_dump() == json.loads(shown)["metadata"]["stream"]


def test_the_tests_that_the_decision_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", DECISION))
    code = "".join(path.read_text() for path in (Path(__file__).parents[1]).glob("*/test_*.py"))
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in code] == []
