"""Agents by name: ``package.module:attribute`` or ``openai/MODEL`` becomes an agent factory."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from functools import partial
from typing import Any, Final

from sdqueue.agents.agent import AgentFactory
from sdqueue.agents.function import FunctionAgent
from sdqueue.agents.llm import LLMAgent
from sdqueue.agents.memo import MemoAgent
from sdqueue.agents.wrapping import wrapped
from sdqueue.errors import ConfigurationError

MODEL_PREFIX: Final = "openai/"
"""What the name of an agent begins with that is nothing but a model."""

_ADVICE: Final = {"StateGraph": "; of a StateGraph give what its compile() returns"}

SYSTEM_PROMPT: Final = "SDQUEUE_SYSTEM_PROMPT"
"""The environment variable with what such a model is told first."""


def load_agent_factory(name: str | None) -> AgentFactory:
    """The agent factory that a setting names.

    Parameters:
        name: ``package.module:attribute``, importable from the current directory or the environment. The attribute
            is a class or a function without arguments that builds an agent, or an ``async`` function (or async
            generator) ``(text, history)`` that is one, or a graph, a runnable or an agent of a library that is known
            (:mod:`sdqueue.agents.wrapping`). ``openai/MODEL`` is an :class:`~sdqueue.LLMAgent` without tools, which is
            told first what the environment has in ``SDQUEUE_SYSTEM_PROMPT``. ``None`` or an empty string is the
            built-in agent.

    Raises:
        ConfigurationError: it cannot be imported or is none of these, or a model's package or key is missing.
    """
    if not name:
        return MemoAgent
    if name.startswith(MODEL_PREFIX):
        try:
            return LLMAgent.factory(llm=name, system_prompt=os.environ.get(SYSTEM_PROMPT) or None)
        except ConfigurationError as error:
            raise ConfigurationError(f"agent {name!r}: {error}") from error
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigurationError(
            f"agent {name!r} must have the form package.module:factory, such as mybot.agent:make, or openai/MODEL"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported, scripts exit
        raise ConfigurationError(
            f"agent {name!r}: cannot import {module_name!r}: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"agent {name!r}: {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    return as_agent_factory(found, name=name)


def as_agent_factory(found: Any, *, name: str = "agent") -> AgentFactory:
    """A factory, an async function ``(text, history)`` or an object of a known library as an agent factory.

    Raises:
        ConfigurationError: it is none of these.
    """
    try:
        factory_of_known = wrapped(found)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    if factory_of_known is not None:
        return factory_of_known
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        try:
            inspect.signature(found).bind("text", [])
        except TypeError as error:
            raise ConfigurationError(
                f"{name}: is async and so taken for an agent, but cannot be called with (text, history): {error}; a "
                "factory that builds an agent is an ordinary function"
            ) from error
        return partial(FunctionAgent, found)
    if not callable(found):
        raise ConfigurationError(
            f"{name}: is {type(found).__name__}, not a factory; give a class or function that builds an agent, "
            f"or an async function (text, history) -> str{_ADVICE.get(type(found).__name__, '')}"
        )
    required = [
        p.name
        for p in _parameters(found)
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if required:
        raise ConfigurationError(
            f"{name}: the factory needs the arguments {', '.join(required)}; it is called without any. "
            "An agent that is a function is an `async def (text, history)`; a factory with arguments needs a function "
            "around it that supplies them"
        )
    factory: AgentFactory = found
    return factory


def _parameters(found: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []
