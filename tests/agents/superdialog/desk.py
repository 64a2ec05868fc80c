"""A help desk: superdialog's DialogMachine on flows of every shape, with a model that is a function of its prompt.

A customer steers the model: ``#edge name=value`` lets it choose that edge and fill that slot, any other text lets it
stay. What it says holds a digest of all that it was told, so a resumed machine that would tell it anything else than
one that was never interrupted gives other replies.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any, Final

import superdialog
from superdialog import DialogMachine
from superdialog.flow import FlowSet
from superdialog.flow.models import ConversationFlow
from superdialog.llm.provider import CompletionResult, StreamChunk

from sdqueue.agents.durable import ADAPTERS

URL: Final = "SDQUEUE_TEST_DESK_URL"
"""Names the HTTP service of the desk, see :mod:`tests.agents.superdialog.office`."""

SECRET: Final = "s3cret-of-the-desk"
AT_THREE: Final = version("superdialog") >= "0.3"


NOW: Final = re.compile(r"Today's date is [^.]*\.|\[Today: [^\]]*\]|\[TODAY\] [^|]*\|  IST \d\d:\d\d [AP]M IST")
"""The date and the minute, which superdialog tells its models: a conversation may begin in one and end in another."""


def digest(messages: Any) -> str:
    text = NOW.sub("", json.dumps(messages, default=str))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def wish(messages: list[dict[str, Any]]) -> tuple[str | None, dict[str, str]]:
    """The edge and the slots that the customer's last words ask for."""
    said = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    found = re.match(r"#(\w+)", said)
    return (found[1] if found else None), dict(re.findall(r"(\w+)=(\w+)", said))


class Model:
    """Judges and speaks."""

    async def complete(self, messages: list[dict[str, Any]], tools: Any = None, **_: Any) -> CompletionResult:
        if "Respond with ONLY this JSON object" not in messages[0]["content"]:
            return CompletionResult(text=f"said {digest(messages)}", tool_calls=[], metadata={})
        edge, slots = wish(messages)
        verdict = {
            "criteria_met": {},
            "all_required_met": edge is not None,
            "recommended_edge_id": edge,
            "extracted_slots": slots,
            "response": f"heard {digest(messages)}",
        }
        return CompletionResult(text=json.dumps(verdict), tool_calls=[], metadata={})

    async def stream(self, messages: Any, tools: Any = None, **_: Any) -> AsyncIterator[StreamChunk]:
        raise NotImplementedError
        yield


def edge(name: str, to: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "condition": f"the customer asks for {name}", "target_node_id": to, **more}


def node(name: str, *edges: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "name": name, "instruction": f"Talk about {name}.", "edges": list(edges), **more}


def entering(action: str) -> dict[str, Any]:
    return {"trigger": "on_enter", "action_id": action}


def flow(first: str, *nodes: dict[str, Any], **more: Any) -> ConversationFlow:
    return ConversationFlow.model_validate(
        {"system_prompt": "You are at the help desk.", "initial_node": first, "nodes": list(nodes), **more}
    )


def patience() -> ConversationFlow:
    """A question with ``max_turns`` and a fallback, and an edge that leads back to its own node."""
    return flow(
        "greet",
        node("greet", edge("to_ask", "ask")),
        node(
            "ask",
            edge("answered", "bye"),
            edge("again", "ask"),
            edge("too_long", "human", is_fallback=True),
            max_turns=2,
        ),
        node("human", edge("back", "ask"), edge("end", "bye")),
        node("bye", is_final=True, static_text="Goodbye."),
    )


def interrupted() -> ConversationFlow:
    """An order that complaints and questions interrupt, wherever it is, and which goes on where it was."""
    return flow(
        "welcome",
        node("welcome", edge("start", "order")),
        node("order", edge("placed", "pay"), max_turns=4),
        node("pay", edge("paid", "bye"), edge("give_up", "bye", is_fallback=True), max_turns=3),
        node("complaint", edge("sorry", "thanks"), edge("refund", "bye")),
        node("hours", instruction=None, static_text="We are open from nine to five."),
        node("thanks", instruction=None, static_text="Thank you for telling us."),
        node("bye", is_final=True, static_text="Goodbye."),
        global_edges=[edge("complain", "complaint"), edge("ask_hours", "hours")],
        agent_language="en",
    )


def errands() -> ConversationFlow:
    """Nodes whose actions log in and look things up by HTTP; what they learn is used by later ones."""
    return flow(
        "hello",
        node("hello", edge("log_in", "menu")),
        node("menu", edge("look", "tea"), edge("end", "bye"), actions=[entering("login")]),
        node("tea", edge("more", "milk"), edge("done", "menu"), actions=[entering("count_tea")]),
        node("milk", edge("less", "tea"), edge("leave", "bye"), actions=[entering("count_milk")]),
        node("bye", is_final=True, static_text="Goodbye."),
        environment_variables={"API": os.environ.get(URL, ""), "KEY": SECRET},
        actions=[
            {
                "id": "login",
                "name": "log in",
                "method": "POST",
                "url": "{{API}}/login",
                "body": {"key": "{{KEY}}"},
                "run_once": True,
                "store_response_as": "login",
                "env_updates": [{"env_key": "TOKEN", "result_path": "data.token"}],
            },
            *(
                {
                    "id": f"count_{item}",
                    "name": f"count the {item}",
                    "method": "GET",
                    "url": "{{API}}/stock/" + item,
                    "headers": {"Authorization": "Bearer {{TOKEN}}"},
                    "store_response_as": item,
                }
                for item in ("tea", "milk")
            ),
        ],
    )


def appointment() -> ConversationFlow:
    """The sample that superdialog ships."""
    path = importlib.resources.files(superdialog) / "machine" / "testing" / "sample_appointment_flow.json"
    return ConversationFlow.from_json_string(path.read_text())


class Desk(DialogMachine):
    """A machine of an application: ``/flow name`` switches, ``/again`` begins anew, and ``!`` leaves a note."""

    async def turn(self, text: str, context: Any = None, stream: Any = False) -> Any:
        if text.startswith("/flow "):
            self.switch_flow(text.removeprefix("/flow ").removesuffix("!"))
        elif text == "/again":
            self.reset()
        result = await super().turn(text, context, stream)
        if "!" in text:
            self.assist(f"The turn left a note: {text}")
        return result


def _made(source: Any) -> Desk:
    desk = Desk(source, "openai/none", adapter="llm")
    desk._llm = Model()
    return desk


def make_patience() -> Desk:
    return _made(patience())


def make_interrupted() -> Desk:
    return _made(interrupted())


def make_appointment() -> Desk:
    return _made(appointment())


def make_set() -> Desk:
    return _made(FlowSet({"front": patience(), "orders": interrupted(), "appointments": appointment()}))


def make_errands() -> Desk:
    """With the adapter that is superdialog's default, and an OpenAI-compatible server."""
    # Named by its port: superdialog keeps a client for each name, with the address that it had first.
    model = f"model-{os.environ[URL].rpartition(':')[2]}"
    return Desk(errands(), f"oai/{model}" if AT_THREE else f"openai/{model}")


def make_patience_without_keeper() -> Desk:
    ADAPTERS.pop("superdialog", None)
    return make_patience()


def make_interrupted_without_keeper() -> Desk:
    ADAPTERS.pop("superdialog", None)
    return make_interrupted()
