"""Routes: which of several agents a session gets."""

from __future__ import annotations

from typing import Any

import pytest

from sdqueue import AgentRoutes, ConfigurationError, MemoAgent, SessionInit, Settings, UnknownRoute, load_agents
from sdqueue.agents import FunctionAgent, parse_routes
from tests.agents import mybot

HERE = "tests.agents.mybot"


@pytest.mark.parametrize(
    ("text", "routes"),
    [
        ("bot:make", {"default": "bot:make"}),
        ("slack=a:b,default=c:d", {"slack": "a:b", "default": "c:d"}),
        (" c:d , slack = a:b ", {"default": "c:d", "slack": "a:b"}),
        ("metadata.plan:gold=v:m,c:d", {"metadata.plan:gold": "v:m", "default": "c:d"}),
        ("metadata.url:x=1:y=v:m,c:d", {"metadata.url:x=1:y": "v:m", "default": "c:d"}),
    ],
)
def test_how_routes_are_written(text: str, routes: dict[str, str]) -> None:
    assert parse_routes(text) == routes


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("slack=a:b", "no agent for sessions that are not of slack; add default=package.module:factory"),
        ("Slack=a:b,c:d", "'Slack' is no condition for an agent; write a channel"),
        ("metadata.plan=a:b,c:d", "'metadata.plan' is no condition"),
        ("=a:b,c:d", "'' is no condition"),
        ("slack=,c:d", "'slack=': names no agent"),
        ("a:b,", "'': names no agent"),
        ("slack=a:b,slack=c:d,e:f", "slack is given twice"),
        ("a:b,default=c:d", "default is given twice"),
    ],
)
def test_mistakes_in_routes_are_told(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        parse_routes(text)


def test_the_first_condition_that_holds_decides_and_the_default_comes_last() -> None:
    names = ("default", "metadata.plan:gold", "slack", "metadata.n:3", "metadata.beta:true", "metadata.plan:null")
    routes = AgentRoutes(dict.fromkeys(names, MemoAgent))
    assert routes.names == names
    for channel, metadata, route in [
        ("slack", {}, "slack"),
        ("slack", {"plan": "gold"}, "metadata.plan:gold"),
        ("slack", {"plan": "silver"}, "slack"),
        ("web", {"plan": "gold"}, "metadata.plan:gold"),
        ("web", {"plan": None}, "metadata.plan:null"),
        ("web", {"n": 3}, "metadata.n:3"),
        ("web", {"n": "3"}, "metadata.n:3"),
        ("web", {"n": [3]}, "default"),
        ("web", {"beta": True}, "metadata.beta:true"),
        ("default", {}, "default"),
        (None, {}, "default"),
    ]:
        assert routes.choose(channel, metadata) == route, (channel, metadata)


def test_a_route_that_is_gone_says_what_to_do() -> None:
    routes = AgentRoutes({"default": MemoAgent, "web": MemoAgent})
    with pytest.raises(
        UnknownRoute, match=r"route 'slack', which there is no more \(there are default, web\)\. Add slack"
    ):
        routes.build("slack")
    assert isinstance(routes.build(None), MemoAgent)


async def test_factories_functions_and_names_are_agents_of_routes() -> None:
    routes = AgentRoutes({"slack": mybot.answer, "web": f"{HERE}:make", "default": MemoAgent})
    assert isinstance(routes.build("slack"), FunctionAgent)
    assert isinstance(routes.build("web"), MemoAgent)
    assert isinstance(routes(SessionInit("s", channel="slack")), FunctionAgent), "as an agent_factory_ctx"
    with pytest.raises(ConfigurationError, match="slack: is int, not a factory"):
        AgentRoutes({"slack": 42, "default": MemoAgent})
    with pytest.raises(ConfigurationError, match="add default="):
        AgentRoutes({})


def test_a_setting_names_one_agent_or_routes() -> None:
    assert load_agents("") is load_agents(None) is MemoAgent
    assert load_agents(f"{HERE}:make") is MemoAgent
    routes = load_agents(f"slack={HERE}:answer,{HERE}:make")
    assert isinstance(routes, AgentRoutes)
    assert routes.names == ("slack", "default")
    with pytest.raises(ConfigurationError, match="has no 'nobody'"):
        load_agents(f"slack={HERE}:nobody,{HERE}:make")


@pytest.mark.parametrize("given", ["slack=a:b,c:d", ["slack=a:b", "c:d"]])
def test_settings_take_routes_as_one_text_or_as_a_list(given: Any) -> None:
    assert Settings.load(agent=given).agent == "slack=a:b,c:d"


def test_settings_read_routes_from_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdqueue.toml").write_text('agent = ["slack=a:b", "default=c:d"]\n')
    assert Settings.load().agent == "slack=a:b,default=c:d"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("slack=a:b", "SDQUEUE_AGENT .*add default="),
        ("slack=nonsense,c:d", "must have the form package.module:factory"),
        ([1], "SDQUEUE_AGENT"),
    ],
)
def test_wrong_routes_are_wrong_settings(given: Any, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        Settings.load(agent=given)
