"""One pool, several agents: a session keeps the one that was chosen when it began."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sdqueue import AgentRoutes, InMemorySessionStore, SessionInit, SessionRecord, SessionWorker
from sdqueue.agents import ChatContext
from tests.consumer.stand import Member, Puppet, Stand


class Named(Puppet):
    """Says who answers, where, and how often it has."""

    name = "plain"

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    async def turn(self, text: str, *, stream: bool = False) -> Any:
        if text == "die":
            os._exit(7)
        self.turns += 1
        return f"{self.name} {self.turns} in {os.getpid()}"

    def dump_state(self) -> Any:
        return {"by": self.name, "turns": self.turns}

    def load_state(self, state: Any) -> None:
        assert state["by"] == self.name, "another agent's state"
        self.turns = state["turns"]


class Slack(Named):
    name = "slack"


class Gold(Named):
    name = "gold"


HERE = "tests.consumer.test_routing"
SETTING = f"slack={HERE}:Slack,metadata.plan:gold={HERE}:Gold,default={HERE}:Named"
ROUTES = {"slack": Slack, "metadata.plan:gold": Gold, "default": Named}


def _member(stand: Stand, routes: dict[str, Any], **options: Any) -> Member:
    """A member with these routes in the place of a factory."""
    return stand.member(AgentRoutes(routes), agent=SETTING, **options)


async def _asks(stand: Stand, session: str, **fields: Any) -> str:
    """Who answers the session's next turn, and for which time."""
    turn = await stand.send(session, fields.pop("text", "x"), **fields)
    reply = await stand.expect_reply(turn)
    return reply.text.partition(" in ")[0]


@pytest.fixture
async def slack(stand: Stand) -> Stand:
    for channel in ("slack", "web"):
        egress = await stand.broker.declare_egress(channel)
        await stand.broker.subscribe(egress, stand._on_reply, prefetch=1000)
    return stand


async def test_the_agent_is_chosen_by_channel_or_metadata_and_stays(slack: Stand) -> None:
    """Given later turns from other channels and in other processes, then the same agent answers, with its state."""
    for cached in (1000, 0):
        async with slack.started(_member(slack, ROUTES, max_sessions=cached)):
            tell = [
                await _asks(slack, f"a{cached}", channel="slack"),
                await _asks(slack, f"a{cached}", channel="web", metadata={"plan": "gold"}),
                await _asks(slack, f"b{cached}", channel="web", metadata={"plan": "gold"}),
                await _asks(slack, f"c{cached}"),
            ]
        assert tell == ["slack 1", "slack 2", "gold 1", "plain 1"]
        async with slack.started(_member(slack, ROUTES, max_sessions=cached)):
            tell = [await _asks(slack, f"{name}{cached}", channel="slack") for name in "abc"]
        assert tell == ["slack 3", "gold 2", "plain 2"]
    assert [(await slack.record(f"{name}0")).route for name in "abc"] == ["slack", "metadata.plan:gold", "default"]


async def test_a_reset_chooses_anew_by_its_own_channel_and_what_the_session_began_with(slack: Stand) -> None:
    async with slack.started(_member(slack, ROUTES)):
        assert await _asks(slack, "s", channel="slack") == "slack 1"
        await _asks(slack, "s", kind="reset", channel="web")
        assert (await slack.record("s")).route == "default"
        assert await _asks(slack, "s", channel="slack") == "plain 1"
        assert await _asks(slack, "g", metadata={"plan": "gold"}) == "gold 1"
        await _asks(slack, "g", kind="reset", channel="web")
        assert await _asks(slack, "g", channel="web") == "gold 1"
        await _asks(slack, "g", kind="reset", channel="web", metadata={"plan": "none"})
        assert await _asks(slack, "g", channel="web") == "plain 1"


async def test_a_route_that_is_gone_is_a_dead_letter_until_it_is_back_or_the_session_is_reset(slack: Stand) -> None:
    async with slack.started(_member(slack, ROUTES)):
        for session in "ab":
            assert await _asks(slack, session, channel="slack") == "slack 1"
    async with slack.started(_member(slack, {"default": Named})):
        turn = await slack.send("a", "x", channel="slack", id="lost")
        error = await slack.expect_reply(turn, kind="error")
        (letter,) = await slack.expect_dead()
        assert (letter.reason, letter.attempts, error.metadata["reason"]) == ("no-route", 1, "no-route")
        assert "route 'slack', which there is no more (there are default)" in letter.error
        assert "kind reset" in letter.error
        assert (await slack.record("a")).agent_state == {"by": "slack", "turns": 1}, "its state is untouched"
        await _asks(slack, "b", kind="reset", channel="slack")
        assert await _asks(slack, "b", channel="slack") == "plain 1"
    async with slack.started(_member(slack, ROUTES)):
        assert await _asks(slack, "a", channel="web") == "slack 2"


async def test_a_session_of_before_the_routes_is_given_one_with_its_next_turn(slack: Stand) -> None:
    await slack.store.save("s", SessionRecord(agent_state={"by": "plain", "turns": 4}))
    async with slack.started(_member(slack, {"web": Slack, "default": Named})):
        assert await _asks(slack, "s", channel="slack") == "plain 5"
        assert await _asks(slack, "s", channel="web") == "plain 6"
    assert (await slack.record("s")).route == "default"


async def test_a_suspect_is_run_alone_by_the_same_agent(slack: Stand) -> None:
    """Also where it is the session's first turn, so that nothing of the session is saved yet."""
    async with slack.started(_member(slack, ROUTES)):
        assert await _asks(slack, "old", channel="slack") == "slack 1"
        for session, kept in (("old", "t-old"), ("new", "t-new")):
            for _ in range(2):
                await slack.store.begin(session, kept)
        assert await _asks(slack, "old", channel="web", id="t-old") == "slack 2"
        assert await _asks(slack, "new", channel="slack", id="t-new") == "slack 1"
        assert await _asks(slack, "new", channel="web") == "slack 2"
        for _ in range(2):
            await slack.store.begin("new", "killer")
        await slack.send("new", "die", id="killer", channel="slack")
        (letter,) = await slack.expect_dead()
    assert letter.reason == "poison"
    alone = next(r.text for r in slack.replies if r.turn_id == "t-new")
    assert alone.rpartition(" ")[2] != str(os.getpid()), "it did not run alone"


async def test_one_agent_alone_takes_every_session_and_stores_neither_route_nor_metadata(slack: Stand) -> None:
    async with slack.running(Named):
        assert await _asks(slack, "s", channel="slack", metadata={"plan": "gold"}) == "plain 1"
    record = await slack.record("s")
    assert (record.route, record.metadata) == (None, {})


async def test_routes_in_a_worker_without_a_queue() -> None:
    store = InMemorySessionStore()
    for given in ("agent_factory", "agent_factory_ctx"):
        worker = SessionWorker(**{given: AgentRoutes(ROUTES)}, store=store)  # type: ignore[arg-type]
        async with worker.acquire(given, init=SessionInit(given, {"plan": "gold"})) as handle:
            assert (await handle.turn("x")).startswith("gold 1")
            assert handle.session.route == "metadata.plan:gold"
        async with SessionWorker(agent_factory=AgentRoutes(ROUTES), store=store).acquire(given) as handle:
            assert (await handle.turn("x")).startswith("gold 2")
            handle.reset(init=SessionInit(given, channel="slack"))
            assert (await handle.turn("x")).startswith("slack 1"), "the first condition that holds"
    async with worker.acquire("plain") as handle:
        assert (await handle.turn("x")).startswith("plain 1")


async def test_a_state_that_does_not_fit_any_more_can_be_reset() -> None:
    """That it cannot be loaded is said to whoever needs the agent; a reset does not."""
    store = InMemorySessionStore()
    await store.save("s", SessionRecord(agent_state={"by": "somebody else"}, chat_ctx=ChatContext()))
    worker = SessionWorker(agent_factory=Named, store=store)
    async with worker.acquire("s") as handle:
        handle.reset()
        assert (await handle.turn("x")).startswith("plain 1")
    with pytest.raises(AssertionError, match="another agent's state"):
        async with SessionWorker(agent_factory=Slack, store=store).acquire("s") as handle:
            await handle.turn("x")
