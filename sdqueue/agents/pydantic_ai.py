"""PydanticAIAgent: an agent of PydanticAI as one of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from sdqueue.agents.chat import ChatContext
from sdqueue.agents.extras import extra
from sdqueue.agents.history import Answer, HistoryAgent, as_text
from sdqueue.agents.pydantic_ai_messages import from_pydantic_ai, to_pydantic_ai
from sdqueue.errors import AgentResultError

with extra("pydantic-ai"):
    from pydantic_ai import (
        AgentRunResultEvent,
        DeferredToolRequests,
        PartDeltaEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
    )


class PydanticAIAgent(HistoryAgent):
    """Runs an agent on the conversation, which is its ``message_history``.

    Parameters:
        agent: a ``pydantic_ai.Agent``. An output that is no text is replied as JSON.
        chat_ctx: a conversation to go on from.
        options: for every run, such as ``deps`` or ``usage_limits``.
    """

    def __init__(self, agent: Any, *, chat_ctx: ChatContext | None = None, **options: Any) -> None:
        super().__init__(chat_ctx)
        self._agent, self._options = agent, options

    async def _answer(self, text: str, *, stream: bool) -> AsyncGenerator[str | Answer, None]:
        kept, said, options = list(self._chat.items), [text], {**self._options}
        if any(message.role == "assistant" for message in kept):
            options["message_history"] = to_pydantic_ai(kept)
        else:  # with a history, be it notes only, it would leave out its own system prompt
            said = [*(message.content for message in kept if message.role == "user"), text]
            kept = [message for message in kept if message.role == "system"]
            notes = [message.content for message in kept]
            options["instructions"] = [*notes, *_listed(options.get("instructions"))]
        prompt: Any = said if said[1:] else text
        result: Any = None
        if stream:
            async with self._agent.run_stream_events(prompt, **options) as events:
                async for event in events:
                    match event:
                        case PartStartEvent(part=TextPart(content=piece)):
                            yield piece
                        case PartDeltaEvent(delta=TextPartDelta(content_delta=piece)):
                            yield piece
                        case AgentRunResultEvent():
                            result = event.result
        else:
            result = await self._agent.run(prompt, **options)
        if isinstance(result.output, DeferredToolRequests):
            raise AgentResultError(
                "the agent asks for tools to be approved or run elsewhere, which a turn cannot wait for; let them run"
            )
        yield Answer(as_text(result.output), list(from_pydantic_ai(result.new_messages())), kept)


def _listed(instructions: Any) -> list[Any]:
    if instructions is None:
        return []
    return list(instructions) if isinstance(instructions, (list, tuple)) else [instructions]
