"""Tool and Toolbox: functions that a model may call."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import from_json, to_json

from sdqueue.agents.chat import ToolCall
from sdqueue.agents.llm.completion import RequestedCall, valid
from sdqueue.errors import ConfigurationError

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

_SHOWN: Final = 200
"""Characters of arguments that could not be read which are shown to the model again."""


@dataclass(frozen=True)
class Tool:
    """Something that a model may call; :meth:`of` makes one from a function.

    Parameters:
        name: what the model calls it by: letters, digits, ``_`` and ``-``, at most 64.
        description: tells the model what it does and when to use it.
        parameters: the JSON Schema of its arguments, an object.
        call: takes the arguments as a dict and returns the result, which the model is told as text or JSON. One that
            is not async runs in a thread.
        timeout_s: seconds that it may take; ``None``: what :class:`LLMOptions` says. A thread cannot be stopped: its
            result is dropped, and it ends when it ends.

    Raises:
        ConfigurationError: the name is none that models can call.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[[dict[str, Any]], Any] = field(repr=False)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"a tool is called {self.name!r}; models need 1 to 64 letters, digits, dashes or underscores: "
                "give Tool.of(function, name=…)"
            )

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float | None = None,
    ) -> Self:
        """A function as a tool: its type hints are the schema of the arguments, its docstring the description.

        Arguments are checked against the hints, as pydantic does, before the function is called; what is wrong with
        them is told to the model. ``Annotated[int, Field(description=…)]`` describes a single one.

        Parameters:
            function: async or not.
            name: default: the function's.
            description: default: the function's docstring.
            timeout_s: seconds that it may take; ``None``: what :class:`LLMOptions` says.

        Raises:
            ConfigurationError: it has no name, no fixed parameters, or hints that JSON cannot express.
        """
        called = str(name or getattr(function, "__name__", ""))
        signature = _Signature.of(function, called)

        def call(arguments: dict[str, Any]) -> Any:
            positional, named = signature.bind(arguments)
            return function(*positional, **named)

        async def call_async(arguments: dict[str, Any]) -> Any:
            return await call(arguments)

        described = (inspect.getdoc(function) or "") if description is None else description
        return cls(called, described, signature.schema, call_async if _is_async(function) else call, timeout_s)

    async def run(self, arguments: dict[str, Any], *, timeout: float) -> str:
        """Call it, and say what came of it: whatever it raises is a result too, from which the model may learn.

        Parameters:
            arguments: as the model gave them.
            timeout: seconds, where the tool has no time of its own.
        """
        limit = timeout if self.timeout_s is None else self.timeout_s
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                if _is_async(self.call):
                    result = await self.call(arguments)
                else:
                    result = await asyncio.to_thread(self.call, arguments)
                    if inspect.isawaitable(result):
                        result = await result
            return _as_text(result)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()]
            return f"Error: wrong arguments: {'; '.join(problems)}"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return "Error: the tool was cancelled"
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 -- a result like any other
            # The last two as well: raised in a task they would end the process, and all other turns with it.
            if clock.expired():
                return f"Error: no result within {limit:g} s"
            return f"Error: {type(error).__name__}: {_said(error)}"


class Toolbox:
    """The tools of an agent.

    Parameters:
        tools: functions or :class:`Tool` objects.

    Raises:
        ConfigurationError: one is neither, cannot be described to a model, or has the name of another.
    """

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for given in tools:
            if not isinstance(given, Tool) and not callable(given):
                raise ConfigurationError(f"{given!r} is no tool; give functions or Tool objects")
            tool = given if isinstance(given, Tool) else Tool.of(given)
            if tool.name in self._tools:
                raise ConfigurationError(
                    f"two tools are called {tool.name!r}; give one another name: Tool.of(…, name=…)"
                )
            self._tools[tool.name] = tool
        self.described = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in self._tools.values()
        ]
        """The tools as requests name them."""

    async def run(self, requested: Sequence[RequestedCall], *, timeout: float) -> list[tuple[ToolCall, str]]:
        """Run what a model has asked for, at the same time, and say in its order what came of it.

        Parameters:
            requested: the calls.
            timeout: seconds that each may take whose tool does not say otherwise.
        """
        running = [asyncio.create_task(self._run(call, timeout), name=f"tool {call.name}") for call in requested]
        return list(await asyncio.gather(*running))

    async def _run(self, call: RequestedCall, timeout: float) -> tuple[ToolCall, str]:
        tool = self._tools.get(call.name)
        try:
            # Strict JSON, for the arguments go into the session's record.
            arguments = from_json(call.arguments or "{}", allow_inf_nan=False)
        except ValueError as error:
            arguments = error
        done = ToolCall(call.id, call.name, arguments if isinstance(arguments, dict) else {})
        if tool is None:
            known = ", ".join(self._tools) or "none"
            return done, f"Error: there is no tool {call.name!r}; there are: {known}"
        if not isinstance(arguments, dict):
            why = f"are no JSON: {arguments}" if isinstance(arguments, ValueError) else "are no JSON object"
            return done, f"Error: the arguments {why}; got {call.arguments[:_SHOWN]!r}"
        return done, valid(await tool.run(arguments, timeout=timeout))


@dataclass(frozen=True)
class _Signature:
    """The parameters of a function as a pydantic model.

    Its fields have made-up names, with those of the parameters as aliases, for a parameter may be called as
    something that the model itself has, such as ``json``.
    """

    model: type[BaseModel]
    schema: Mapping[str, Any]
    parameters: tuple[inspect.Parameter, ...]

    @classmethod
    def of(cls, function: Callable[..., Any], name: str) -> Self:
        try:
            parameters = tuple(inspect.signature(function, eval_str=True).parameters.values())
            fields: dict[str, Any] = {f"p{index}": _field(parameter) for index, parameter in enumerate(parameters)}
            model = create_model(name or "tool", __config__=ConfigDict(extra="forbid"), **fields)
            schema = model.model_json_schema(schema_generator=_WithoutTitles)
        except (NameError, TypeError, ValueError, PydanticUserError) as error:
            raise ConfigurationError(
                f"tool {name!r}: its parameters cannot be told to a model: {error}; use type hints that JSON "
                "can express, or give Tool(name, description, parameters, call) with a schema"
            ) from error
        schema.pop("title", None)
        return cls(model, schema, parameters)

    def bind(self, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments for the call, checked and converted."""
        checked = self.model.model_validate(arguments)
        positional, named = [], {}
        for index, parameter in enumerate(self.parameters):
            value = getattr(checked, f"p{index}")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        return positional, named


def _field(parameter: inspect.Parameter) -> tuple[Any, Any]:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"{parameter} stands for any number of them")
    hint = Any if parameter.annotation is parameter.empty else parameter.annotation
    return hint, Field(... if parameter.default is parameter.empty else parameter.default, alias=parameter.name)


class _WithoutTitles(GenerateJsonSchema):
    """Titles repeat names, and cost tokens in every request."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 -- objects with an async __call__


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else to_json(result, fallback=str).decode()


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 -- __str__ is the tool's code too
        return f"(its message cannot be shown: __str__ raised {type(broken).__name__})"
