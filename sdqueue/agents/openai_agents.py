"""OpenAIAgentsAgent: an agent of the OpenAI Agents SDK as one of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from sdqueue.agents.chat import ChatContext, ChatMessage
from sdqueue.agents.extras import extra
from sdqueue.agents.history import Answer, HistoryAgent, as_text
from sdqueue.agents.openai_agents_items import from_items, to_items
from sdqueue.errors import AgentResultError, RecordError

with extra("openai-agents"):
    from agents import RunConfig, Runner
    from agents.exceptions import UserError


class OpenAIAgentsAgent(HistoryAgent):
    """Runs an agent on the conversation; the one that it hands over to answers the next turn.

    Parameters:
        agent: an ``agents.Agent``. An output that is no text is replied as JSON.
        chat_ctx: a conversation to go on from.
        options: for every run, such as ``context``, ``max_turns`` or ``run_config``. Without a ``run_config`` the SDK's
            tracing is off: it would send what users say to OpenAI, whichever model answers.
    """

    def __init__(self, agent: Any, *, chat_ctx: ChatContext | None = None, **options: Any) -> None:
        super().__init__(chat_ctx)
        self._first = self._agent = agent
        self._options = {"run_config": RunConfig(tracing_disabled=True), **options}

    def dump_state(self) -> dict[str, Any] | None:
        """Which agent answers; ``None`` for the first."""
        return None if self._agent is self._first else {"agent": self._agent.name}

    def load_state(self, state: Any) -> None:
        """Let that agent answer; raises RecordError where the handoffs do not lead to one of its name."""
        found = {agent.name: agent for agent in reversed(_reachable(self._first))}
        if state is not None and state["agent"] not in found:
            raise RecordError(
                f"agent {state['agent']!r} had taken this session over, and is no longer among the handoffs of "
                f"{self._first.name!r} ({', '.join(found)}); put it back, or reset the session"
            )
        self._agent = self._first if state is None else found[state["agent"]]

    async def _answer(self, text: str, *, stream: bool) -> AsyncGenerator[str | Answer, None]:
        said = ChatMessage("user", text)
        items: Any = to_items([*self._chat.items, said])
        try:
            if stream:
                result: Any = Runner.run_streamed(self._agent, items, **self._options)
                try:
                    async for event in result.stream_events():
                        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                            yield event.data.delta
                finally:
                    result.cancel()  # where it has ended, nothing is left to stop
            else:
                result = await Runner.run(self._agent, items, **self._options)
        except UserError as error:
            raise error.__cause__ or error from None  # a tool's own error says whether trying again may help
        if result.interruptions:
            raise AgentResultError("a tool needs approval, for which a turn cannot wait; let the tool ask the user")
        self._agent = result.last_agent
        new = [said, *from_items(item.to_input_item() for item in result.new_items)]
        yield Answer(as_text(result.final_output), new)


def _reachable(first: Any) -> list[Any]:
    found = [first]
    for agent in found:
        refs = [getattr(target, "_agent_ref", None) for target in agent.handoffs]
        targets = [ref() if ref else target for ref, target in zip(refs, agent.handoffs, strict=True)]
        found += [target for target in targets if target is not None and target not in found]
    return found
