"""The superdialog flow and the LangGraph graph of ``examples/``, a different process for every turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdqueue import Client
from tests.agents.openai_server import Calls, OpenAIServer, Say
from tests.examples.served import consumer


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "SDQUEUE_BROKER_URL": f"sqlite:///{tmp_path}/broker.db",
        "SDQUEUE_STORE_URL": f"sqlite:///{tmp_path}/sessions.db",
        "SDQUEUE_PARTITIONS": "4",
    }


async def answers(agent: str, texts: list[str], env: dict[str, str]) -> list[str]:
    """What is answered, by a consumer that is started for each text and stopped after it."""
    said = []
    for text in texts:
        async with (
            consumer("--agent", agent, env=env),
            Client.from_settings(broker_url=env["SDQUEUE_BROKER_URL"], partitions=4) as client,
        ):
            said.append((await client.ask("u", text)).text)
    return said


async def test_a_graph_asks_back_and_goes_on_in_another_process(env: dict[str, str]) -> None:
    assert await answers("graph:graph", ["margherita", "many", "2"], env) == [
        "How many margherita?",
        "'many' is no number. How many margherita?",
        "2 margherita, coming up.",
    ]


async def test_a_dialog_goes_on_where_it_stood_in_another_process(env: dict[str, str]) -> None:
    async with OpenAIServer() as server:
        server.script(
            Calls(("1", "__stay_on_node__", {"brief_response": ""})), Say("Which pizza?"),
            Calls(("2", "chosen", {"pizza": "margherita"})), Say("A margherita, right?"),
            Calls(("3", "agreed", {})),
        )  # fmt: skip
        env |= {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_BASE": server.base_url,
            "OPENAI_API_KEY": "test",
            "MODEL": "test-model",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        said = await answers("dialog_flow:make_machine", ["hello", "a margherita", "yes"], env)
        assert said == ["Which pizza?", "A margherita, right?", "It is in the oven."]
        offered = [[t["function"]["name"] for t in r.body["tools"]] for r in server.requests if "tools" in r.body]
        assert [names[0] for names in offered] == ["chosen", "chosen", "agreed"]
