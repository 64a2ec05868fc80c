"""Objects of other libraries as agent factories: a graph, a runnable or an agent itself, instead of a factory."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, Final

from sdqueue.agents.agent import AgentFactory
from sdqueue.errors import ConfigurationError

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
        ConfigurationError: the extra for it is not installed, or no agent can be made of this one.
    """
    kind = _wrapper(found)
    if kind is None:
        return None
    factory = partial(kind, found)
    factory()  # where it cannot, that is told now, and not by every turn
    return factory


def as_agent(made: Any) -> Any:
    """What a factory has made, as an agent: a graph, a runnable or an agent of another library is wrapped.

    Raises:
        ConfigurationError: it is neither an agent nor one of these.
    """
    if hasattr(made, "turn"):
        return made
    kind = _wrapper(made)
    if kind is None:
        raise ConfigurationError(
            f"the agent factory made a {type(made).__name__}, which has no turn(); let it return an agent, or a graph, "
            "a runnable or an agent of a library that sdqueue knows"
        )
    return kind(made)


def _wrapper(found: Any) -> Any:
    for base in type(found).__mro__:
        wrapper = WRAPPERS.get(f"{base.__module__}.{base.__qualname__}")
        if wrapper is not None:
            module, name = wrapper
            return getattr(importlib.import_module(module), name)
    return None
