"""``--agent package.module:attribute`` where the attribute is an object of a library, not a factory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from sdqueue.agents import as_agent_factory, load_agent_factory
from sdqueue.errors import ConfigurationError
from sdqueue.sessions import SessionWorker
from tests.agents.brains import bots

HERE = "tests.agents.brains.bots"


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [
        ("model", "LangChainAgent"),
        ("chain", "LangChainAgent"),
        ("graph", "LangGraphAgent"),
        ("remembering", "LangGraphAgent"),
        ("stored", "function"),
        ("pydantic", "PydanticAIAgent"),
        ("openai_agent", "OpenAIAgentsAgent"),
    ],
)
def test_an_object_of_a_library_is_an_agent_for_each_session(attribute: str, kind: str) -> None:
    factory = load_agent_factory(f"{HERE}:{attribute}")
    if kind == "function":
        assert factory.__name__ == "stored"
        return
    assert type(factory()).__name__ == kind
    assert factory() is not factory()


async def test_a_factory_may_return_an_object_of_a_library() -> None:
    """As one does whose checkpointer is made inside the event loop."""
    worker = SessionWorker(agent_factory=lambda: bots.graph)
    async with worker.acquire("s") as handle:
        await handle.turn("hello")
        assert type(handle.agent).__name__ == "LangGraphAgent"


@pytest.mark.parametrize("made", [None, 3, bots.graph.builder])
async def test_a_factory_that_makes_no_agent_is_told_so(made: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"made a {type(made).__name__}, which has no turn"):
        async with SessionWorker(agent_factory=lambda: made).acquire("s"):
            pass


def test_a_graph_that_cannot_chat_is_refused_when_it_is_loaded() -> None:
    class Count(TypedDict):
        count: int

    builder = StateGraph(Count).add_node("one", lambda state: state).add_edge(START, "one")
    with pytest.raises(ConfigurationError, match="bot:graph: the graph's state has no messages, only count; "):
        as_agent_factory(builder.compile(), name="bot:graph")
    with pytest.raises(ConfigurationError, match=r"give what its compile\(\) returns"):
        as_agent_factory(builder, name="bot:graph")


@pytest.mark.parametrize(
    ("library", "extra", "module"),
    [
        ("langchain_core", "langchain", "langchain"),
        ("langgraph", "langgraph", "langgraph"),
        ("agents", "openai-agents", "openai_agents"),
        ("pydantic_ai", "pydantic-ai", "pydantic_ai"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(library: str, extra: str, module: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None\nimport sdqueue\nimport sdqueue.agents.{module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("sdqueue.errors.ConfigurationError: ")
    assert library in last
    assert f"pip install 'sdqueue[{extra}]'" in last


def test_sdqueue_itself_imports_none_of_them() -> None:
    code = "import sdqueue.cli, sys; print({'langchain_core', 'langgraph', 'agents', 'pydantic_ai'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("module", ["langchain", "langgraph", "openai_agents", "pydantic_ai"])
def test_an_adapter_is_short(module: str) -> None:
    """So that it can be read, and copied for a library that is not here."""
    adapter = Path(sys.modules["sdqueue.agents"].__path__[0]) / f"{module}.py"
    assert len(adapter.read_text().splitlines()) < 80
