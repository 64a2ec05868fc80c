"""Objects of other libraries as agent factories: a graph, a runnable or an agent itself, instead of a factory."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, Final

from sdqueue.agents.agent import AgentFactory

WRAPPERS: Final[dict[str, tuple[str, str]]] = {
    "langgraph.pregel.main.Pregel": ("sdqueue.agents.langgraph", "LangGraphAgent"),
    "langchain_core.runnables.base.Runnable": ("sdqueue.agents.langchain", "LangChainAgent"),
    "agents.agent.Agent": ("sdqueue.agents.openai_agents", "OpenAIAgentsAgent"),
    "pydantic_ai.agent.abstract.AbstractAgent": ("sdqueue.agents.pydantic_ai", "PydanticAIAgent"),
}
"""By the full name of a class, what makes an agent of its instances. By name, so that no library is needed here."""


def wrapped(found: Any) -> AgentFactory | None:
    """A factory of agents around an object of a library that is known; ``None`` where it is none.

    Raises:
        ConfigurationError: the extra for it is not installed.
    """
    for base in type(found).__mro__:
        wrapper = WRAPPERS.get(f"{base.__module__}.{base.__qualname__}")
        if wrapper is not None:
            module, name = wrapper
            return partial(getattr(importlib.import_module(module), name), found)
    return None
