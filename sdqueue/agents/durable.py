"""What keeps the state of an agent: the agent itself, or an adapter for those of a library that cannot."""

from __future__ import annotations

import importlib
from typing import Any, Final

from sdqueue.agents.agent import DurableAgent
from sdqueue.agents.chat import ChatContext

ADAPTERS: Final[dict[str, str]] = {"superdialog": "sdqueue.agents.superdialog"}
"""By the top-level package of an agent's class, the module that keeps its state.

Each has a function ``durable(agent) -> DurableAgent | None``. It is imported only when such an agent comes by, so that
no library is needed that nobody uses.
"""


def durable(agent: Any) -> DurableAgent | None:
    """What dumps and loads the state of this agent; ``None`` where it has none beyond the conversation."""
    if hasattr(agent, "dump_state"):
        keeper: DurableAgent = agent
        return keeper
    for base in type(agent).__mro__:
        module = ADAPTERS.get(base.__module__.partition(".")[0])
        if module is not None:
            found: DurableAgent | None = importlib.import_module(module).durable(agent)
            return found
    return None


def keeps_conversation(agent: Any) -> bool:
    """Whether an agent's conversation is in a state of its own, of which ``chat_ctx`` is but a view.

    What is changed in such a view comes back with the next turn, so nobody but the agent can shorten or mend it. An
    agent that dumps its own state has that beyond the conversation, unless its ``history_limited`` is false; one of a
    library, with a keeper, has all of it there.
    """
    limited = getattr(agent, "history_limited", None)
    if limited is not None:
        return not limited
    keeper = durable(agent)
    return keeper is not None and keeper is not agent


def load_conversation(agent: Any, ctx: ChatContext) -> None:
    """Let an agent go on from this conversation.

    By what keeps its state, where that has a ``load_chat_ctx`` too: some agents take a conversation for all they are
    to know, and throw away the state that was loaded before.
    """
    keeper: Any = durable(agent)
    (keeper if hasattr(keeper, "load_chat_ctx") else agent).load_chat_ctx(ctx)
