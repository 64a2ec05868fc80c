"""``--agent package.module:attribute`` where the attribute is an object of a library, not a factory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sdqueue.agents import load_agent_factory

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
