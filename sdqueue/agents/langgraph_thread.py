"""GraphThread: where a LangGraph graph stands in one session, as JSON that is saved with the session."""

from __future__ import annotations

import copy
import uuid
from base64 import b64decode, b64encode
from itertools import groupby
from typing import Any, Self

from sdqueue.agents.agent import current_turn
from sdqueue.agents.chat import ChatMessage
from sdqueue.agents.extras import extra
from sdqueue.errors import ConfigurationError

with extra("langgraph"):
    from langgraph.checkpoint.memory import InMemorySaver


def check_chats(graph: Any) -> None:
    """Raise ConfigurationError for a graph without messages."""
    if "messages" not in graph.channels:
        has = ", ".join(name for name in graph.channels if not name.startswith(("__", "branch:")))
        raise ConfigurationError(
            f"the graph's state has no messages, only {has}; a graph that chats has them, as langgraph's MessagesState "
            "does"
        )


class GraphThread:
    """One run of a graph, from the state that was saved last to the next one. Neither changes that state.

    A run never goes on from the newest checkpoint of its thread, which may be what a turn has left that was not saved:
    one in the record is the only one there, and one elsewhere is named. Made by :meth:`begun`.

    Parameters:
        graph: compiled.
        state: what :meth:`state` returned after the last turn; ``None`` before the first.

    Raises:
        ConfigurationError: the graph's state cannot be kept in a session.
    """

    def __init__(self, graph: Any, state: dict[str, Any] | None) -> None:
        self._state = state or {}
        turn = current_turn()
        session_id = turn.session_id if turn else "session"
        # Not the session's id alone: a first turn that failed, or a session that was deleted, has left something there.
        self._where = {"thread_id": self._state.get("thread_id") or f"{session_id}:{uuid.uuid4().hex}"}
        self._saver: InMemorySaver | None = None
        self.graph = graph
        self.options: dict[str, Any] = {}
        if graph.checkpointer:
            self.options = {"durability": "exit"}  # what a node has left half-way is of no use to anybody
            if type(graph.checkpointer) is InMemorySaver:
                self._saver = self._load(graph.checkpointer)
                self.graph = copy.copy(graph)
                self.graph.checkpointer = self._saver
                if delta := [name for name, channel in graph.channels.items() if "Delta" in type(channel).__name__]:
                    raise ConfigurationError(
                        f"the graph's {', '.join(delta)} is a DeltaChannel, which needs all checkpoints of a thread; "
                        "compile it with a checkpointer that keeps them outside the process, such as Postgres"
                    )
            elif self._state:
                self._where["checkpoint_id"] = self._state["checkpoint_id"]
        self._session_id = session_id

    @classmethod
    async def begun(cls, graph: Any, state: dict[str, Any] | None) -> Self:
        """The same, ready to run.

        In a checkpointer of its own a run would change what it goes on from: an answer to a question is written to the
        checkpoint that asks, and a subgraph that remembers takes up its newest checkpoint, whoever left that. Such a
        run has a thread to itself, with a copy of what was saved.
        """
        thread = cls(graph, state)
        if thread._saver is None and state and graph.checkpointer:
            remembering = [name for name, sub in graph.get_subgraphs(recurse=True) if sub.checkpointer is True]
            if thread.asking or remembering:
                await thread._fork(remembering)
        return thread

    @property
    def config(self) -> dict[str, Any]:
        """What the graph is to be run with."""
        return {"configurable": self._where, "metadata": {"session_id": self._session_id}}

    @property
    def asking(self) -> str | None:
        """The id of the question that the next message answers."""
        return self._state.get("asking")

    def unheard(self, items: list[ChatMessage]) -> list[ChatMessage]:
        """What of the conversation the graph does not have: notes, and answers that were broken off."""
        if not self._state:
            return items
        count, last = self._state["heard"], self._state["last"]
        if count <= len(items) and items[count - 1].content == last:
            return items[count:]
        for at in reversed(range(len(items))):  # its oldest messages were dropped meanwhile
            if items[at].content == last:
                return items[at + 1 :]
        return [message for message in items[-1:] if message.role == "system"]

    def reached(self, checkpoint: dict[str, Any]) -> list[Any] | None:
        """Note a checkpoint of this run.

        Returns:
            The messages in it; ``None`` where it is a subgraph's. What tasks have written whose neighbours wait for an
            answer is not among them: it comes with the step that they are part of.
        """
        found = checkpoint["config"]["configurable"]
        if found.get("checkpoint_ns"):
            return None
        self._where = {**self._where, "checkpoint_id": found["checkpoint_id"]}
        messages: list[Any] = checkpoint["values"].get("messages", [])
        return messages

    def state(self, asking: str | None, *, heard: int, last: str) -> dict[str, Any] | None:
        """Where the run has ended; ``None`` for a graph that keeps nothing.

        Parameters:
            asking: the question that it waits with.
            heard: how long the conversation is now.
            last: its last message, by which the place is found where the oldest were dropped.
        """
        if not self.graph.checkpointer:
            return None
        state = {**self._where, "asking": asking, "heard": heard, "last": last}
        return {**state, "checkpoints": self._dump(self._saver, unfinished=bool(asking))} if self._saver else state

    async def _fork(self, remembering: list[str]) -> None:
        saver, old = self.graph.checkpointer, self._where
        self._where = {**old, "thread_id": f"{self._session_id}:{uuid.uuid4().hex}"}
        places = [{**old, "checkpoint_ns": ""}]
        places += [{"thread_id": old["thread_id"], "checkpoint_ns": name} for name in remembering]
        if self.asking:
            places += _inner(await self.graph.aget_state({"configurable": old}, subgraphs=True))
        for place in {each["checkpoint_ns"]: each for each in places}.values():
            found = await saver.aget_tuple({"configurable": place})
            if found is None:
                continue  # it has not been there yet
            config = {"configurable": {"thread_id": self._where["thread_id"], "checkpoint_ns": place["checkpoint_ns"]}}
            versions = found.checkpoint["channel_versions"]
            config = await saver.aput(config, found.checkpoint, found.metadata, versions)
            for task_id, group in groupby(found.pending_writes or (), key=lambda write: write[0]):
                await saver.aput_writes(config, [(channel, value) for _, channel, value in group], task_id)

    def _dump(self, saver: InMemorySaver, *, unfinished: bool) -> list[dict[str, Any]]:
        """The last checkpoint, and those of subgraphs: of a single run of one only where it waits for an answer."""
        found: dict[str, dict[str, Any]] = {}
        for each in saver.list({"configurable": {"thread_id": self._where["thread_id"]}}):  # newest first
            namespace = each.config["configurable"]["checkpoint_ns"]
            if namespace not in found and (unfinished or ":" not in namespace):
                kind, data = saver.serde.dumps_typed((each.checkpoint, each.metadata, each.pending_writes))
                found[namespace] = {"namespace": namespace, "kind": kind, "data": b64encode(data).decode()}
        return list(found.values())

    def _load(self, like: InMemorySaver) -> InMemorySaver:
        """A saver with nothing but the saved checkpoints, which writes values as the graph's own does."""
        saver = InMemorySaver(serde=like.serde)
        for each in self._state.get("checkpoints", ()):
            checkpoint, metadata, writes = saver.serde.loads_typed((each["kind"], b64decode(each["data"])))
            config: Any = {"configurable": {**self._where, "checkpoint_ns": each["namespace"]}}
            config = saver.put(config, checkpoint, metadata, checkpoint["channel_versions"])
            for task_id, group in groupby(writes, key=lambda write: write[0]):
                saver.put_writes(config, [(channel, value) for _, channel, value in group], task_id)
        return saver


def _inner(snapshot: Any) -> list[dict[str, Any]]:
    """Where the subgraphs stand that wait within a state."""
    found = []
    for task in snapshot.tasks:
        if getattr(task.state, "config", None):
            where = task.state.config["configurable"]
            found += [{n: where[n] for n in ("thread_id", "checkpoint_ns", "checkpoint_id") if n in where}]
            found += _inner(task.state)
    return found
