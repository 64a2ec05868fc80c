"""superdialog's agents: who keeps the state of those that have more than their conversation.

Classes are known by name, subclasses by those of their bases: superdialog is imported only in the keepers, which see
only agents of its own.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from sdqueue.agents.agent import DurableAgent

KEEPERS: Final = {
    "DialogMachine": ("sdqueue.agents.superdialog.machine", "MachineKeeper"),
    "PlaybookAgent": ("sdqueue.agents.superdialog.playbook", "PlaybookKeeper"),
}
"""By the name of an agent's class, the module and the class that keeps its state: ``keeper(agent)``."""


def durable(agent: Any) -> DurableAgent | None:
    """The keeper of an agent's state; ``None`` for ``LLMAgent`` and ``LangChainAgent``: the conversation is all."""
    for base in type(agent).__mro__:
        if base.__module__.partition(".")[0] == "superdialog" and base.__name__ in KEEPERS:
            if getattr(agent, "_engine", None) == "playbook":  # from 0.3 a DialogMachine may be a PlaybookAgent inside
                return durable(agent._ensure_backend())
            module, name = KEEPERS[base.__name__]
            keeper: DurableAgent = getattr(importlib.import_module(module), name)(agent)
            return keeper
    return None


__all__ = ["durable"]
