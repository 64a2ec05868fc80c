"""LangGraphAgent: a compiled LangGraph graph as an agent."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

from sdqueue.agents.chat import ChatContext, ChatMessage
from sdqueue.agents.extras import extra
from sdqueue.agents.history import Answer, HistoryAgent, as_text
from sdqueue.agents.langchain_messages import from_langchain, to_langchain
from sdqueue.agents.langgraph_thread import GraphThread, check_chats
from sdqueue.errors import AgentResultError

with extra("langgraph"):
    from langchain_core.messages import AIMessage
    from langgraph.types import Command


class LangGraphAgent(HistoryAgent):
    """Runs a graph whose state has ``messages``; how it remembers follows from what it was compiled with.

    Without a checkpointer it gets the conversation anew each turn. With an ``InMemorySaver`` its last checkpoint is
    saved with the session. With any other, that one keeps the checkpoints, and the session which of them is its last.
    A graph that calls ``interrupt`` replies with its question, and the next turn is the answer.

    Parameters:
        graph: compiled. ConfigurationError is raised where its state has no ``messages``.
        chat_ctx: a conversation to go on from.
    """

    def __init__(self, graph: Any, *, chat_ctx: ChatContext | None = None) -> None:
        super().__init__(chat_ctx)
        check_chats(graph)
        self._graph = graph
        self.history_limited = not graph.checkpointer  # which keeps the messages itself
        self._state: dict[str, Any] | None = None

    def dump_state(self) -> dict[str, Any] | None:
        """Where the graph stands; ``None`` without a checkpointer, and before the first turn."""
        return self._state

    def load_state(self, state: Any) -> None:
        """Go on from there."""
        self._state = state

    async def _answer(self, text: str, *, stream: bool) -> AsyncGenerator[str | Answer, None]:
        thread, said = await GraphThread.begun(self._graph, self._state), ChatMessage("user", text)
        told = thread.unheard(self._chat.items) + ([] if thread.asking else [said])
        given = {uuid.uuid4().hex: message for message in told}
        todo: Any = {"messages": [to_langchain(message, id_) for id_, message in given.items()]}
        if thread.asking:
            todo = Command(resume={thread.asking: text}, update=todo if given else None)
        modes = ["values", "checkpoints", *(["messages"] if stream else [])]
        keeps, before = bool(self._graph.checkpointer), None
        after: Any = ()
        questions: list[Any] = []
        async for mode, part in thread.graph.astream(todo, thread.config, stream_mode=modes, **thread.options):
            if mode == "checkpoints":
                after = thread.reached(part) or after
            elif mode == "values":
                before = part.get("messages", ()) if before is None else before
                after = after if keeps else part.get("messages", after)
                questions += part.get("__interrupt__", ())
            elif isinstance(part[0], AIMessage):
                yield str(part[0].text)
        known = {*given, *(message.id for message in before or ())}
        new = [said, *from_langchain(message for message in after if message.id not in known)]
        question = questions[0] if questions else None
        if question and not keeps:
            raise AgentResultError("the graph interrupts, so compile it with a checkpointer: InMemorySaver() will do")
        if question:
            new.append(ChatMessage("assistant", as_text(question.value)))
            yield new[-1].content
        left = [given[message.id] for message in after if message.id in given]
        kept = list(self._chat.items) if keeps else [message for message in left if message is not said]
        self._state = thread.state(question and question.id, heard=len(kept) + len(new), last=new[-1].content)
        yield Answer(new[-1].content, new, kept)
