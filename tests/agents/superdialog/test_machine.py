"""superdialog's DialogMachine: a process for every turn answers as one for all, in every kind of flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sdqueue.sessions import SessionRecord
from tests.agents.superdialog.desk import SECRET
from tests.agents.superdialog.office import Office, open_office
from tests.agents.superdialog.relay import Said, Script, in_many_processes, in_one_process

DESK = "tests.agents.superdialog.desk:make_"

NOTES = {3: "The customer is a VIP.", 6: "Be brief.", 7: "Be kind."}

MAX_TURNS = Script(
    ["hi", "#to_ask", "hm", "what?", "no idea", "#back", "#again", "#again", "#again", "so?", "what now?", "#end"],
    NOTES,
)
INTERRUPTED = Script(
    [
        *("hi", "#start", "#placed what=tea", "how?", "#complain", "cold!", "#ask_hours", "hm", "#sorry"),
        *("which card?", "#ask_hours", "cash?", "oh", "hello?"),
    ],
    NOTES,
)
SLOTS = Script(
    [
        *("hello", "#greeting_to_faq", "where?", "#faq_to_collect_info", "patient_name=Ann", "when?"),
        *("preferred_date=Monday", "#info_to_confirm", "fine!", "#confirm_to_faq", "#faq_to_goodbye", "bye"),
    ],
    NOTES,
)
SWITCHED = Script(
    [
        *("hi", "#to_ask", "hm!", "/flow orders", "#start", "#placed what=tea", "#complain", "/flow appointments!"),
        *("#greeting_to_faq", "/flow front", "#to_ask", "hm", "/again", "#to_ask", "one", "two", "three"),
    ],
    NOTES,
    frozenset({2, 5}),
)
ERRANDS = Script(
    ["hi", "#log_in", "what is there?", "#look", "how much!", "#more", "#less", "#done", "#look", "#more", "#leave"],
    NOTES,
)

CONVERSATIONS = {
    "max_turns": ("patience", MAX_TURNS),
    "interrupted intents": ("interrupted", INTERRUPTED),
    "slots": ("appointment", SLOTS),
    "flow set": ("set", SWITCHED),
    "tools": ("errands", ERRANDS),
}


@pytest.fixture(autouse=True)
def office(monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    with open_office(monkeypatch) as office:
        yield office


def lasting(value: Any) -> Any:
    """A saved state without the times at which things happened, and with what a set holds in order."""
    if isinstance(value, dict):
        if "$set" in value:
            return sorted(value["$set"])
        return {name: lasting(item) for name, item in value.items() if name not in ("timestamp", "suspended_at")}
    if isinstance(value, list):
        return [lasting(item) for item in value]
    return lasting(value.model_dump()) if hasattr(value, "model_dump") else value


def state_of(record: SessionRecord) -> Any:
    assert record.flow_state is not None
    return lasting([vars(record.flow_state), record.agent_state])


def nodes(answers: list[Said]) -> list[str]:
    return [answer.metadata.get("to_node", "") for answer in answers]


@pytest.mark.parametrize(("name", "script"), CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.timeout(300)
async def test_a_process_for_every_turn_answers_as_one_for_all(
    name: str, script: Script, office: Office, amqp_url: str, redis_url: str, namespace: str
) -> None:
    """Given a conversation; when each turn has a process of its own, through RabbitMQ and Redis; then its answers, what
    is saved in the end and what was done outside are as with one machine for all."""
    answers, record = await in_one_process(script, DESK + name)
    did = list(office.errands), office.asked
    office.forget()
    again, resumed = await in_many_processes(
        script, DESK + name, amqp_url=amqp_url, redis_url=redis_url, namespace=namespace
    )
    assert again == answers
    assert resumed.chat_ctx == record.chat_ctx
    assert state_of(resumed) == state_of(record)
    assert (office.errands, office.asked) == did
    assert SECRET not in str(resumed.agent_state)


WALKS = {
    "max_turns": "greet ask ask ask human ask ask ask ask ask human bye",
    "interrupted intents": "welcome order pay pay complaint complaint complaint complaint pay pay bye bye bye bye",
    "slots": "greeting faq faq collect_info collect_info collect_info collect_info confirm confirm faq goodbye goodbye",
    "flow set": "greet ask ask welcome order pay complaint greeting faq greet ask ask greet ask ask ask human",
    "tools": "hello menu menu tea tea milk tea menu tea milk bye",
}


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_the_conversations_go_where_they_are_meant_to(name: str, office: Office) -> None:
    """What they show is only shown where the machine falls back, returns, switches and acts."""
    agent, script = CONVERSATIONS[name]
    answers, record = await in_one_process(Script(script.texts, script.notes), DESK + agent)
    assert " ".join(nodes(answers)) == WALKS[name]
    assert len(answers) >= 8
    assert record.flow_state is not None
    if name == "slots":
        assert record.flow_state.userdata == {"patient_name": "Ann", "preferred_date": "Monday"}
    if name == "tools":
        token = "Bearer t0ken"
        assert office.errands == [("/login", SECRET), ("/stock/tea", token), ("/stock/milk", token)]
        assert office.asked > len(answers)


@pytest.mark.parametrize("name", ["max_turns", "interrupted intents"])
@pytest.mark.timeout(300)
async def test_without_its_keeper_a_machine_goes_elsewhere(
    name: str, amqp_url: str, redis_url: str, namespace: str
) -> None:
    """A test of the tests: what superdialog's own sessions keep is not enough for these conversations."""
    agent, script = CONVERSATIONS[name]
    answers, _ = await in_one_process(script, DESK + agent)
    again, _ = await in_many_processes(
        script, f"{DESK}{agent}_without_keeper", amqp_url=amqp_url, redis_url=redis_url, namespace=namespace
    )
    assert nodes(again) != nodes(answers)
