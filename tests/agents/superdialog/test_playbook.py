"""superdialog's PlaybookAgent, LLMAgent and LangChainAgent: a process for every turn answers as one for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.superdialog.relay import Script, in_many_processes, in_one_process
from tests.agents.superdialog.service import Service, serving
from tests.agents.superdialog.shop import COMPACTS, CONVERSATION, NOTES

PLAYBOOK = "tests.agents.superdialog.shop:make_playbook_agent"
MACHINE = "tests.agents.superdialog.shop:make_machine_with_playbook"
LLM = "tests.agents.superdialog.shop:make_llm_agent"
LANGCHAIN = "tests.agents.superdialog.shop:make_langchain_agent"

ALL = Script(CONVERSATION, NOTES)
STREAMED = Script(CONVERSATION, NOTES, frozenset({1, 2, 4, 5, 9, 11, 13}))


@pytest.fixture(autouse=True)
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(tmp_path, monkeypatch) as service:
        yield service


@pytest.mark.parametrize("agent", [PLAYBOOK, *[MACHINE] * COMPACTS, LLM, LANGCHAIN])
@pytest.mark.parametrize("script", [ALL, STREAMED], ids=["whole", "in pieces"])
@pytest.mark.timeout(300)
async def test_a_process_for_every_turn_answers_as_one_for_all(
    script: Script, agent: str, service: Service, amqp_url: str, redis_url: str, namespace: str
) -> None:
    """Given a conversation of thirteen turns; when each has a process of its own, through RabbitMQ and Redis; then
    its answers, what is saved in the end and what tools did outside are as with one agent for all."""
    answers, record = await in_one_process(script, agent)
    did = service.ran, list(service.bookings)
    service.forget()
    again, resumed = await in_many_processes(script, agent, amqp_url=amqp_url, redis_url=redis_url, namespace=namespace)
    assert again == answers
    assert len({answer.text for answer in answers}) == len(script.texts)
    assert resumed.chat_ctx == record.chat_ctx
    assert resumed.agent_state == record.agent_state
    assert (service.ran, service.bookings) == did
    if agent in (PLAYBOOK, MACHINE):
        assert did[0] == ["open_ticket", "look_up_day"]
        assert len(did[1]) == 1
    assert (record.agent_state is not None) == (agent in (PLAYBOOK, MACHINE))
    assert all(bool(answer.deltas) == (n in script.streamed) for n, answer in enumerate(answers, 1))
