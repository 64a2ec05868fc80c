"""A bicycle shop: superdialog's agents with models that are functions of their prompts, for the tests of resuming.

What a model says holds a digest of all that it was told. So where a resumed agent would tell it anything else than one
that was never interrupted, the replies differ.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from superdialog import DialogMachine
from superdialog.agents.langchain_agent import LangChainAgent
from superdialog.agents.llm_agent import LLMAgent
from superdialog.llm.provider import CompletionResult, StreamChunk
from superdialog.playbook import Playbook, PlaybookAgent, agent, runtime
from superdialog.playbook.toolexec import httpx_http

from sdqueue.agents import current_turn

JOURNAL = "SDQUEUE_TEST_SHOP_JOURNAL"
"""Names the file to which the tools that are functions write a line each time they run."""

URL = "SDQUEUE_TEST_SHOP_URL"
"""Names the shop's HTTP service."""

SECRET = "s3cret-of-the-shop"
TODAY = datetime.datetime(2026, 3, 2, 9, 30, tzinfo=datetime.UTC)
COMPACTS = version("superdialog") >= "0.3"
"""Whether this superdialog summarises long conversations, and has a supervisor."""

PLAYBOOK = """
persona: You are Mo of the bicycle shop. One question at a time.
env: {API_URL: "%(url)s", API_TOKEN: "%(secret)s"}
journeys:
  shop:
    checkpoints:
      - id: greet
        say_verbatim: "Hello, this is the bicycle shop."
        on_enter: [open_ticket]
        auto: true
        advance_when: [{when: "greeting delivered", to: shop.collect}]
      - id: collect
        goal: Know name, service and day
        gate: soft
        turn_budget: 9
        on_enter: [look_up_day]
        slots:
          name: {type: str, required: true}
          service: {type: enum, required: true, values: [repair, wash]}
          day: {type: date, required: true, gate: soft}
          wheels: {type: int}
        guidance: |
          Ticket {{ results.ticket.data.number }} of {{ results.ticket.data.opened }}.
          {%% if not slots.name %%}Ask for the name.{%% elif not slots.day %%}Ask for the day.{%% endif %%}
          {%% if slots.error_context %%}The booking failed before; say sorry.{%% endif %%}
        never_say: [discount]
        advance_when:
          - {when: "the customer agrees", to: shop.book, requires: [name, service, day], set: {agreed: 2026-03-02}}
      - id: book
        goal: Book it
        gate: hard
        pipeline: booking
        say_verbatim: "Booked: {{ slots.service }} for {{ slots.name }} on {{ slots.day }}."
        advance_when: [{when: pipeline.ok, judge: expr, to: shop.after}]
      - id: after
        goal: Ask whether there is anything else
        gate: soft
        turn_budget: 1
        on_failure: shop.bye
        guidance: "Their number is {{ results.booking.data.number }}."
      - id: parking
        goal: Explain the parking
        gate: soft
        guidance: "Parking is free; then go back to what was open."
        advance_when: [{when: "the customer knows", to: shop.collect}]
      - id: bye
        say_verbatim: "Goodbye, {{ slots.name }}."
        terminal: true
        outcome: left
tools:
  - {id: open_ticket, type: python, store_response_as: ticket}
  - {id: look_up_day, type: python, store_response_as: today, run_once: true}
  - id: create_booking
    method: POST
    url: "{{ env.API_URL }}/bookings"
    headers: {Authorization: "Bearer {{ env.API_TOKEN }}"}
    body: {name: "{{ slots.name }}", day: "{{ slots.day }}"}
    store_response_as: booking
    env_updates: {LAST_BOOKING: number}
pipelines:
  - id: booking
    steps: [{tool: create_booking, on: {ok: continue, failed: {retry: 1, on_exhaust: shop.collect}}}]
interrupts:
  - {id: parking, when: "the customer asks about parking", to: shop.parking, resume: true}
  - {id: goodbye, when: "the customer says goodbye", to: shop.bye}
"""

VERDICTS: dict[str, dict[str, Any]] = {
    "I am Ada\u2028Lovelace\x85": {"slots": {"name": "Ada\u2028Lovelace\x85"}},
    "May I park?": {"interrupt": "parking"},
    "Thanks, clear": {"advance": "shop.collect", "note": "the customer is in a hurry"},
    "A repair, two wheels": {"slots": {"service": "repair", "wheels": "2"}},
    "On the fourth\u2029of March": {"slots": {"day": "2026-03-04"}},
    "Yes, do": {"advance": "shop.book"},
    "Goodbye": {"interrupt": "goodbye"},
}
"""What the director sees in what the customer says: in anything else, nothing."""

CONVERSATION = [
    "hi",
    "I am Ada\u2028Lovelace\x85",
    "May I park?",
    "Thanks, clear",
    "A repair, two wheels",
    "hm",
    "On the fourth\u2029of March",
    "and?",
    "Yes, do",
    "well",
    "let me think",
    "one moment",
    "so",
]
"""Every way through the playbook: greeting, slots, a digression, the booking, and an end for want of an answer."""

NOTES = {1: "The customer is a VIP.\u2029", 5: "Speak slowly.", 9: "Mention the sale."}
"""By the number of a turn, what the agent is told before it."""


def digest(messages: Any) -> str:
    """What a model was told, in eight digits."""
    return hashlib.sha256(repr(messages).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _said(messages: list[dict[str, Any]]) -> str:
    """What the customer said last, by a director's prompt; text may have any line break in it."""
    said = messages[-1]["content"].rpartition("user: ")[2]
    return str(said).partition("\nassistant: ")[0].partition("\nsystem: ")[0]


class Talker:
    """Speaks in three sentences, with a digest of its prompt."""

    async def stream(self, messages: list[dict[str, Any]], **_: Any) -> AsyncIterator[str]:
        for piece in ("I hear. ", f"That is {digest(messages)}. ", "Go on?\u2028"):
            yield piece


class Director:
    """Judges by :data:`VERDICTS`; as supervisor it steers, as compactor it counts, both with a digest."""

    async def complete(self, messages: list[dict[str, Any]], **_: Any) -> str:
        system = messages[0]["content"]
        if "SUPERVISOR" in system:
            return json.dumps({"action": "inject", "note": f"reviewed {digest(messages)}", "reason": "slow"})
        if "memory of a live" in system:
            return f"Summary {digest(messages)} of {len(messages[-1]['content'])} characters."
        return json.dumps(VERDICTS.get(_said(messages), {}))


class FrozenClock(datetime.datetime):
    """The day of the test, so that two conversations have the same beginning."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return TODAY.astimezone(tz)


async def open_ticket(_: dict[str, Any], __: Any) -> dict[str, Any]:
    """A tool whose result is more than JSON."""
    _write("open_ticket")
    return {"number": 7, "opened": TODAY.date(), "fee": Decimal("1.10"), "tags": ("new", "walk-in"), 5: {"odd"}}


async def look_up_day(_: dict[str, Any], __: Any) -> str:
    _write("look_up_day")
    return "Monday"


def _write(tool: str) -> None:
    with Path(os.environ[JOURNAL]).open("a") as journal:
        journal.write(f"{tool}\n")


TOOLS = {"open_ticket": open_ticket, "look_up_day": look_up_day}


def _playbook(text: str) -> Playbook:
    for module in (agent, runtime):
        if hasattr(module, "datetime"):
            module.datetime = FrozenClock  # type: ignore[attr-defined]
    return Playbook.from_yaml(text % {"url": os.environ.get(URL, "http://127.0.0.1:9"), "secret": SECRET})


def make_playbook_agent(text: str = PLAYBOOK, kind: type[PlaybookAgent] = PlaybookAgent) -> PlaybookAgent:
    """The shop's PlaybookAgent."""
    more = {"allow_private_hosts": True, "supervisor_llm": Director()} if COMPACTS else {}
    known = inspect.signature(PlaybookAgent).parameters
    return kind(
        _playbook(text),
        Talker(),
        Director(),
        httpx_http,
        python_tools=dict(TOOLS),
        token_budget=700,
        barrier_timeout=30.0,
        **{name: value for name, value in more.items() if name in known},
    )


def make_machine_with_playbook() -> DialogMachine:
    """The shop behind a DialogMachine, which from 0.3 takes playbooks too and has a PlaybookAgent inside."""
    machine: Any = DialogMachine(_playbook(PLAYBOOK), llm="openai/none", barrier_timeout=30.0, settle_before_speak=True)  # type: ignore[call-arg]
    machine._talker_override, machine._director_override = Talker(), Director()
    executor = machine._ensure_backend().runtime._executor
    executor._python_tools, executor._allow_private_hosts = dict(TOOLS), True
    return machine  # type: ignore[no-any-return]


class Speaker(PlaybookAgent):
    """Answers in the language that is in the turn's metadata, as superdialog's PlaybookAgent can from 0.3."""

    async def turn(self, text: str, *, stream: bool = False) -> Any:  # type: ignore[override]
        turn = current_turn()
        language = turn.metadata.get("language") if turn is not None else None
        return await super().turn(text, stream=stream, language=language)  # type: ignore[call-arg]


class Provider:
    """A model of superdialog's LLMAgent."""

    async def complete(self, messages: list[dict[str, Any]], tools: Any = None, **_: Any) -> CompletionResult:
        call = {"id": f"c{len(messages)}", "function": {"name": "note", "arguments": '{"n": 1}'}}
        return CompletionResult(f"{len(messages)} messages, {digest(messages)}\x85", [call], {})

    async def stream(self, messages: list[dict[str, Any]], tools: Any = None, **_: Any) -> AsyncIterator[StreamChunk]:
        for piece in (f"{len(messages)} messages,", f" {digest(messages)}\x85"):
            yield StreamChunk(piece, None, False)
        yield StreamChunk("", None, True)


def make_llm_agent() -> LLMAgent:
    """superdialog's LLMAgent."""
    return LLMAgent(Provider(), system_prompt="You are Mo.", temperature=0)  # type: ignore[arg-type]


class ChatModel(BaseChatModel):
    """A chat model of langchain-core that says what it was told, in a digest."""

    @property
    def _llm_type(self) -> str:
        return "digest"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        told = [(message.type, message.content) for message in messages]
        return ChatResult(
            generations=[ChatGeneration(message=AIMessage(f"{len(told)} messages, {digest(told)}\u2029"))]
        )


def make_langchain_agent() -> LangChainAgent:
    """superdialog's LangChainAgent."""
    return LangChainAgent(runnable=ChatModel())
