"""AgentRoutes: several agents in one pool, one of them chosen for each session when it begins.

Routes are written ``condition=agent``, with commas between, or one an option of the command line::

    slack=shop.bot:make            sessions whose first turn comes by the channel slack
    metadata.plan:gold=vip:make    sessions whose first turn has "plan": "gold" in its metadata
    default=shop.bot:make_plain    all others; an agent without a condition is the same

The first condition that holds decides, ``default`` comes last wherever it stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from sdqueue.agents.agent import AgentFactory
from sdqueue.agents.loading import as_agent_factory, load_agent_factory
from sdqueue.errors import ConfigurationError, UnknownRoute

DEFAULT: Final = "default"
"""The route of all sessions for which no other one holds."""

_CHANNEL: Final = re.compile(r"[a-z0-9_-]{1,64}")
_METADATA: Final = re.compile(r"metadata\.([^:=,]+):(.*)", re.DOTALL)


class AgentRoutes:
    """Agents by route, to be given to a :class:`~sdqueue.SessionWorker` in the place of a factory.

    ::

        SessionWorker(agent_factory=AgentRoutes({"slack": make_bot, "metadata.plan:gold": make_vip, "default": make}))

    A session keeps the agent that was chosen when it began, by the name of the route, whatever its later turns come
    by; a ``reset`` chooses anew.

    Parameters:
        routes: by condition, an agent factory, an async function ``(text, history)``, or the name of one of these.
            A condition is a channel, ``metadata.KEY:VALUE`` or ``default``. Values are compared as text: ``3``,
            ``true`` and ``null`` are what they are in JSON.

    Raises:
        ConfigurationError: a condition or an agent is none, or there is no ``default``.
    """

    def __init__(self, routes: Mapping[str, Any]) -> None:
        self._channels_and_metadata = [(name, _condition(name)) for name in routes if name != DEFAULT]
        if DEFAULT not in routes:
            raise ConfigurationError(
                f"no agent for sessions that are not of {', '.join(routes) or 'any route'}; "
                f"add {DEFAULT}=package.module:factory"
            )
        self.factories: dict[str, AgentFactory] = {
            name: load_agent_factory(agent) if isinstance(agent, str) else as_agent_factory(agent, name=name)
            for name, agent in routes.items()
        }
        """What builds the agents, by route."""

    @property
    def names(self) -> tuple[str, ...]:
        """The routes, in the order in which they were given."""
        return tuple(self.factories)

    def choose(self, channel: str | None, metadata: Mapping[str, Any]) -> str:
        """The route of a session that begins with a turn of this channel and with this metadata."""
        for name, condition in self._channels_and_metadata:
            match condition:
                case str() if condition == channel:
                    return name
                case (key, value) if key in metadata and _as_text(metadata[key]) == value:
                    return name
        return DEFAULT

    def build(self, route: str | None) -> Any:
        """A new agent of a route; ``None`` is the default.

        Raises:
            UnknownRoute: there is no such route any more.
        """
        factory = self.factories.get(route or DEFAULT)
        if factory is None:
            raise UnknownRoute(
                f"the session was begun with the agent of the route {route!r}, which there is no more (there are "
                f"{', '.join(self.names)}). Add {route}=package.module:factory, with that agent or one that can go on "
                "from its state, and replay the turn; or send the session a turn of the kind reset, which forgets the "
                "conversation and chooses anew"
            )
        return factory()

    async def aclose(self) -> None:
        """Close what the factories hold, such as the connections of a model's client."""
        for factory in self.factories.values():
            await _close(factory)

    def __call__(self, init: Any) -> Any:
        """An agent for a session by what it is created with: routes are an ``agent_factory_ctx``.

        Parameters:
            init: has ``metadata`` and may have ``channel``.
        """
        return self.build(self.choose(getattr(init, "channel", None), init.metadata))


def parse_routes(text: str) -> dict[str, str]:
    """Read ``condition=agent,condition=agent``; a name alone is ``default``.

    Raises:
        ConfigurationError: a condition is none, one is given twice, or others are given without ``default``.
    """
    routes: dict[str, str] = {}
    for part in text.split(","):
        name, equals, agent = part.strip().rpartition("=")
        name, agent = name.strip() if equals else DEFAULT, agent.strip()
        if not agent:
            raise ConfigurationError(f"{part.strip()!r}: names no agent; write condition=package.module:factory")
        if name != DEFAULT:
            _condition(name)
        if name in routes:
            raise ConfigurationError(f"{part.strip()!r}: {name} is given twice")
        routes[name] = agent
    if DEFAULT not in routes:
        raise ConfigurationError(
            f"no agent for sessions that are not of {', '.join(routes)}; add {DEFAULT}=package.module:factory"
        )
    return routes


def load_agents(setting: str | None) -> AgentFactory | AgentRoutes:
    """What a setting names: one agent for all sessions, or routes to several.

    Raises:
        ConfigurationError: it cannot be read or loaded.
    """
    if not setting or not ("=" in setting or "," in setting):
        return load_agent_factory(setting)
    return AgentRoutes(parse_routes(setting))


@asynccontextmanager
async def opened_agents(setting: str | None) -> AsyncIterator[AgentFactory | AgentRoutes]:
    """What :func:`load_agents` finds, for the length of a block: whatever has an ``aclose`` is closed then.

    Raises:
        ConfigurationError: as :func:`load_agents`.
    """
    agents = load_agents(setting)
    try:
        yield agents
    finally:
        await _close(agents)


async def _close(factory: Any) -> None:
    if (close := getattr(factory, "aclose", None)) is not None:
        await close()


def _condition(name: str) -> str | tuple[str, str]:
    """A channel, or a key of the metadata with its value."""
    if found := _METADATA.fullmatch(name):
        return found[1], found[2]
    if not _CHANNEL.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no condition for an agent; write a channel (1 to 64 of a-z, 0-9, _ and -), "
            f"metadata.KEY:VALUE or {DEFAULT}"
        )
    return name


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
