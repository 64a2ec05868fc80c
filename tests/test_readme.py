"""The README is tried, not only read: its code runs, and what it names exists."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sdqueue_producers.openai.settings import OpenAISettings
from sdqueue_producers.slack.settings import SlackSettings
from sdqueue_producers.telegram.settings import TelegramSettings
from sdqueue_producers.webchat.settings import WebchatSettings
from sdqueue_producers.webhook.settings import WebhookSettings

import sdqueue
from sdqueue import secretfiles
from sdqueue.consumer import Consumer, ConsumerOptions
from sdqueue.settings import Settings
from tests.servers.kinds import KINDS

README = (Path(__file__).parent.parent / "README.md").read_text()
CHANNELS = (OpenAISettings, SlackSettings, TelegramSettings, WebchatSettings, WebhookSettings)
"""Channels have settings of their own, ``SDQUEUE_<CHANNEL>_…``."""

PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BOT, PARROT, CLIENT, WORKER, PROGRAM = PYTHON


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the README's agent in it."""
    (tmp_path / "bot.py").write_text(BOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bot", raising=False)
    for name in [n for n in os.environ if n.startswith("SDQUEUE_") and not n.startswith("SDQUEUE_TEST_")]:
        monkeypatch.delenv(name)
    return tmp_path


async def test_the_dev_conversation_goes_as_shown(project: Path) -> None:
    """What follows the prompt in the README is typed, and what the README shows is answered."""
    shown = re.search(r"\$ sdqueue dev [^\n]*\n(.*?)```", README, re.DOTALL)
    assert shown
    lines = shown[1].splitlines()
    typed = "".join(line.removeprefix("dev> ") + "\n" for line in lines if line.startswith("dev> "))
    answers = [line for line in lines if not line.startswith("dev> ")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sdqueue.cli", "dev", "--agent", "bot:answer", cwd=project,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async with asyncio.timeout(30):
        output, _ = await process.communicate(typed.encode())

    assert process.returncode == 0
    assert output.decode().splitlines() == answers


async def test_the_client_code_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, against a consumer with the README's agent on the default backends."""
    settings = Settings.load(agent="bot:answer")
    async with sdqueue.open_broker(settings) as broker:
        await broker.apply()
        worker = sdqueue.SessionWorker(agent_factory=sdqueue.load_agent_factory(settings.agent))
        async with Consumer(broker, worker, ConsumerOptions.from_settings(settings)), asyncio.timeout(30):
            found = await _run(CLIENT)

    assert found["reply"].text.startswith("You said")
    assert "final You said 'tell me more'" in capsys.readouterr().out


async def test_the_session_layer_code_runs(project: Path) -> None:
    """Without a broker."""
    found = await _run(WORKER)

    assert found["result"].text == "You said 'hello'."


async def test_the_class_is_an_agent(project: Path) -> None:
    """As it stands, behind a session."""
    found = await _run(PARROT)
    worker = sdqueue.SessionWorker(agent_factory=found["Parrot"])
    for _ in range(2):
        async with worker.acquire("s") as handle:
            assert (await handle.turn("hello")).text == "HELLO"
            history = len(handle.agent.chat_ctx.items)
    assert history == 4


async def test_the_program_runs(project: Path) -> None:
    """It starts and stops a consumer of its own."""
    async with asyncio.timeout(30):
        found = await _run(PROGRAM)

    assert found["broker"].topology.partitions == 64


def test_every_setting_and_file_it_names_exists() -> None:
    """Links lead somewhere, and environment variables are settings or switches of the tests."""
    root = Path(__file__).parent.parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    switches = {name for kind in KINDS.values() for name in (kind.address, kind.image_variable)}
    variables = set(re.findall(r"SDQUEUE_[A-Z_]*[A-Z]", README)) - switches - {secretfiles.VARIABLE}

    assert [link for link in links if not (root / link).exists()] == []
    channels = {f"{c.channel}_{name}" for c in CHANNELS for name in c.model_fields}
    assert {v.removeprefix("SDQUEUE_").lower() for v in variables} <= Settings.model_fields.keys() | channels


async def _run(code: str) -> dict[str, Any]:
    """Run code that awaits at its top level, and return its names."""
    names: dict[str, Any] = {}
    body = textwrap.indent(code + "\nreturn locals()", "    ")
    exec("async def snippet():\n" + body, names)
    found: dict[str, Any] = await names["snippet"]()
    return found
