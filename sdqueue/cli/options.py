"""What the commands share: options of the same names as the settings, and the event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Final

import typer

from sdqueue.agents import AgentFactory, AgentRoutes, opened_agents
from sdqueue.errors import ConfigurationError
from sdqueue.settings import SECRETS, Settings

BROKER: Final = ("broker_url", "namespace", "partitions")
STORE: Final = ("store_url", "lock_url")
KEYS: Final = ("keys_url",)
EVERYTHING: Final = tuple(name for name in Settings.model_fields if name not in SECRETS)

SEVERAL: Final = ("agent",)
"""Options that may be given several times, each with a part of the setting."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

Given = dict[str, Any]
"""Settings given as options: what ``Settings.load(**given)`` takes. ``None`` is not given."""


def takes_settings(*names: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make an async function a command that has the named settings as options.

    Its first parameter gets the options that were given, by setting; the others become options and arguments as
    typer reads them. It runs in an event loop of its own, and Ctrl-C cancels it.
    """

    def decorate(command: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        shared = [_option(name) for name in names]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            # An option that may be given several times and was not is an empty list.
            given = {name: None if (value := values.pop(name)) == [] else value for name in names}
            run_async(command(given, **values))

        parameters = [*own, *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return run

    return decorate


def _option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    kind: Any = field.annotation if field.annotation in (int, float, bool) else str  # pydantic checks a choice
    dashed = name.replace("_", "-")
    if name in SEVERAL:
        kind = list[str]
    default = f" Default: {field.default}." if field.default not in ("", 0) else ""
    option = typer.Option(
        f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}",
        help=f"{field.description}{default}",
        show_default=False,
        rich_help_panel="Settings (each also in the environment: SDQUEUE_…)",
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def run_async(command: Awaitable[None]) -> None:
    """Run a command to its end on the fastest event loop that is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_as_coroutine(command))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it does not exist for every platform
        return None
    return uvloop.new_event_loop


def _as_coroutine(command: Awaitable[None]) -> Coroutine[Any, Any, None]:
    async def wait() -> None:
        await command

    return wait()


def agents_of(settings: Settings) -> AbstractAsyncContextManager[AgentFactory | AgentRoutes]:
    """The agents of the settings, for the length of a block.

    The system prompt is put into the environment, where child processes for suspect turns find it too.
    """
    if settings.system_prompt:
        os.environ["SDQUEUE_SYSTEM_PROMPT"] = settings.system_prompt
    return opened_agents(settings.agent)


def require_shared_broker(settings: Settings) -> None:
    """Refuse a broker that no other process can reach.

    Raises:
        ConfigurationError: it is ``memory://``.
    """
    if settings.broker_url.startswith("memory:"):
        raise ConfigurationError(
            "SDQUEUE_BROKER_URL is memory://, which no other process can reach; use sqlite:///path.db or amqp://host "
            "here, or `sdqueue dev`, which runs everything in one process"
        )
