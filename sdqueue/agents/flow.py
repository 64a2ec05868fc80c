"""FlowState: where a dialog state machine stands, as superdialog's ``DialogMachine`` reports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class FlowState:
    """The position and slots of a dialog state machine.

    Field for field that of superdialog, so that its agents load it without knowing the difference.
    """

    current_node_id: str = ""
    userdata: dict[str, Any] = field(default_factory=dict)
    node_slots: dict[str, dict[str, Any]] = field(default_factory=dict)
    node_spoken_flags: dict[str, bool] = field(default_factory=dict)
    visit_count: dict[str, int] = field(default_factory=dict)
    transition_log: list[Any] = field(default_factory=list)
